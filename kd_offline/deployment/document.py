"""Locate and read the file of a profile."""

from __future__ import annotations

from pathlib import Path

from kd_offline.errors import CheckpointError, UsageError
from kd_offline.files import MAX_DOCUMENT_BYTES, read_file
from kd_offline.schemas.collaboration import CollaborationProfile
from kd_offline.sealed_json import digest, read_document

PROFILE = "profile.json"


def profile_path(run: str | Path, output: str | Path | None, export: str | Path | None) -> Path:
    """Return the path that a profile is written to."""
    if output is not None:
        return Path(output)
    return Path(run if export is None else export) / PROFILE


def read_profile(path: str | Path) -> CollaborationProfile:
    """Read a profile from a file, or from the folder of a run or an export.

    Raises
    ------
    UsageError
        There is none.
    FormatVersionError
        It was written by a newer version.
    CheckpointError
        It is damaged, or is no profile.
    """
    file = Path(path)
    file = file / PROFILE if file.is_dir() else file
    if not file.is_file():
        msg = f"there is no profile at {str(file)!r}: make one with kd-offline profile RUN"
        raise UsageError(msg)
    profile = read_file_of_profile(file)
    _require_origin(profile, file)
    return profile


def read_file_of_profile(file: Path) -> CollaborationProfile:
    """Read a profile wherever it lies; raises as :func:`read_profile`."""
    return read_document(CollaborationProfile, file, "make it again with kd-offline profile RUN")


def _require_origin(profile: CollaborationProfile, file: Path) -> None:
    """Raise a ``CheckpointError`` if a profile is not of the run or export in its folder."""
    digests = {"run.json": profile.digests.run, "export.json": profile.digests.export}
    for name, expected in digests.items():
        file_beside = file.with_name(name)
        if expected is None or not file_beside.is_file():
            continue
        if digest(read_file(file_beside, MAX_DOCUMENT_BYTES)) != expected:
            msg = (
                f"{str(file)!r} is not of the {name} beside it: make it again with kd-offline "
                "profile RUN, or give the folder that it belongs to"
            )
            raise CheckpointError(msg)
