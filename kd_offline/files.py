"""Single files on disk: written aside and renamed into place, so that they are whole or not there.

The chunks of a dataset are written by :mod:`kd_offline.datasets.storage.store`, which has one
writer at a time and clears up after a killed one.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kd_offline.errors import FormatVersionError, StorageError


def write_file(path: Path, content: bytes | str) -> None:
    """Replace the file at ``path``; a reader sees the old one or the new one, whole.

    Text is written as UTF-8, with the line ends that it has.

    Raises
    ------
    StorageError
        The disk is full or the folder cannot be written; the old file stays as it was.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    aside = path.with_name(path.name + ".partial")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise refusal(path, error) from error
    finally:
        _discard(aside)


def make_folder(path: Path) -> None:
    """Make a folder and those above it; a ``StorageError`` where that is refused."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refusal(path, error) from error


@contextmanager
def only_writer(folder: Path, doing: str) -> Iterator[None]:
    """Keep other processes that ask for the same from writing to ``folder``, which exists.

    The system lets go of it when the process ends, however that ends. On Windows, where folders
    cannot be locked, nothing is kept.

    Raises
    ------
    StorageError
        Another process is ``doing`` something there.
    """
    if os.name == "nt":
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            locked(handle)
        except OSError as error:
            raise busy(folder, doing) from error
        yield
    finally:
        os.close(handle)


def locked(handle: int) -> bool:
    """Lock an open file or folder until it is closed; False where the system has no such locks.

    Raises
    ------
    OSError
        Another process holds it, or the file system refuses.
    """
    try:
        import fcntl
    except ImportError:
        return False
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return True


def busy(folder: Path, doing: str) -> StorageError:
    """Return the error that says that another process is ``doing`` something in ``folder``."""
    return StorageError(
        f"another process is {doing} in {str(folder)!r}: wait for it or choose another path"
    )


def refusal(path: Path, error: OSError) -> StorageError:
    """Return the error that says why ``path`` could not be written."""
    reason = error.strerror or str(error)
    return StorageError(f"cannot write {str(path)!r}: {reason}; free space or give another path")


def check_major(content: bytes | str, file: Path, newest: tuple[int, int]) -> None:
    """Raise a ``FormatVersionError`` for a JSON document of a later major version than ``newest``.

    What is no such document passes: its model says better what is wrong with it.
    """
    try:
        major = json.loads(content)["version"][0]
    except (ValueError, LookupError, TypeError):
        return
    if isinstance(major, int) and major > newest[0]:
        msg = (
            f"{file} has format {major}, this version reads up to {newest[0]}: "
            "install a newer kd-offline"
        )
        raise FormatVersionError(msg)


def cache_folder() -> Path | None:
    """Return the folder of what can be had again; None where it is switched off.

    ``KD_OFFLINE_CACHE`` is the folder or ``off``; without it, the platform's place for caches.
    """
    place = os.environ.get("KD_OFFLINE_CACHE", "")
    if place.lower() == "off":
        return None
    return Path(place).expanduser() if place else _platform_folder()


def _platform_folder() -> Path:
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "kd-offline"


def _discard(aside: Path) -> None:
    try:
        aside.unlink(missing_ok=True)
    except OSError:
        return  # the error that matters was raised before this one
