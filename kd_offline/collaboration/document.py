"""The file of a profile: where it goes and how it is read."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from kd_offline.errors import CheckpointError, UsageError
from kd_offline.files import check_major
from kd_offline.schemas.collaboration import PROFILE_FORMAT, CollaborationProfile

PROFILE = "profile.json"


def place(run: str | Path, output: str | Path | None, export: str | Path | None) -> Path:
    """Return the file that a profile goes to."""
    if output is not None:
        return Path(output)
    return Path(run if export is None else export) / PROFILE


def read_profile(path: str | Path) -> CollaborationProfile:
    """Read a profile, or that in a folder of a run or an export.

    Raises
    ------
    UsageError
        There is none.
    FormatVersionError
        It was written by a newer version.
    CheckpointError
        It is damaged, or is something else.
    """
    file = Path(path)
    file = file / PROFILE if file.is_dir() else file
    if not file.is_file():
        msg = f"there is no profile at {str(file)!r}: make one with kd-offline profile RUN"
        raise UsageError(msg)
    content = file.read_bytes()
    check_major(content, file, PROFILE_FORMAT)
    try:
        return CollaborationProfile.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        msg = f"{file} is no profile or is damaged: {where}: {first['msg']}; make it again"
        raise CheckpointError(msg) from error
