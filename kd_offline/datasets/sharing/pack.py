"""One ZIP file of a dataset: stored, not compressed, and the same bytes for the same dataset."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

from kd_offline.datasets.format.layout import MANIFEST
from kd_offline.files import aside, check_output

# The earliest time that a ZIP file can state: when it was packed does not matter.
_TIME = (1980, 1, 1, 0, 0, 0)
_UNIX = 3


def write_archive(
    path: Path,
    members: Iterable[tuple[str, Callable[[], bytes]]],
    manifest: bytes,
    *,
    overwrite: bool,
) -> None:
    """Write the files of a dataset in the given order, the manifest last.

    The archive is written aside and renamed, so that it is there whole or not at all.

    Raises
    ------
    StorageError
        A file is there already, or the disk refuses.
    """
    check_output(path, overwrite=overwrite)
    with (
        aside(path, overwrite=overwrite) as draft,
        zipfile.ZipFile(draft, "x", zipfile.ZIP_STORED) as archive,
    ):
        for name, load in members:
            archive.writestr(_entry(name), load())
        archive.writestr(_entry(MANIFEST), manifest)


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _TIME)
    entry.create_system = _UNIX  # also on Windows, for the sake of equal bytes
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    return entry
