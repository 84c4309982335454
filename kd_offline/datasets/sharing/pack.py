"""One ZIP file of a dataset: stored, not compressed, and the same bytes for the same dataset."""

from __future__ import annotations

import os
import secrets
import stat
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

from kd_offline.datasets.layout import MANIFEST
from kd_offline.errors import StorageError

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
    if path.exists() and not overwrite:
        msg = f"there is a file at {str(path)!r}: choose another path or give --overwrite"
        raise StorageError(msg)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("xb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for name, load in members:
                    archive.writestr(_entry(name), load())
                archive.writestr(_entry(MANIFEST), manifest)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        msg = f"cannot write {str(path)!r} ({error.strerror}): make room or choose another path"
        raise StorageError(msg) from error
    finally:
        aside.unlink(missing_ok=True)


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _TIME)
    entry.create_system = _UNIX  # also on Windows, for the sake of equal bytes
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    return entry
