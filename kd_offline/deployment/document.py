"""The file of a profile: where it goes and how it is read."""

from __future__ import annotations

from pathlib import Path

from kd_offline.errors import CheckpointError, UsageError
from kd_offline.files import MAX_DOCUMENT_BYTES, read_file
from kd_offline.schemas.collaboration import CollaborationProfile
from kd_offline.sealed_json import digest, read_document

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
    profile = read_file_of_profile(file)
    _require_beside(profile, file)
    return profile


def read_file_of_profile(file: Path) -> CollaborationProfile:
    """Read a profile wherever it lies; raises as :func:`read_profile`."""
    return read_document(CollaborationProfile, file, "make it again with kd-offline profile RUN")


def _require_beside(profile: CollaborationProfile, file: Path) -> None:
    """Refuse a profile that lies in a run or an export which it is not of."""
    stated = {"run.json": profile.digests.run, "export.json": profile.digests.export}
    for name, wanted in stated.items():
        beside = file.with_name(name)
        if wanted is None or not beside.is_file():
            continue
        if digest(read_file(beside, MAX_DOCUMENT_BYTES)) != wanted:
            msg = (
                f"{str(file)!r} is not of the {name} beside it: make it again with kd-offline "
                "profile RUN, or give the folder that it belongs to"
            )
            raise CheckpointError(msg)
