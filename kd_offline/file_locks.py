"""Locks between processes: single writer, mutual exclusion, and detection of ended processes.

The operating system releases a lock when its process ends, however it ends. Folders are locked
themselves; on Windows, where that is impossible, a hidden file in the folder is locked.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import lock_descriptor

from kd_offline.errors import StorageError
from kd_offline.files import SAFE, reason, refusal

_LOCK = ".lock"  # in a folder that cannot be locked itself


@contextmanager
def only_writer(folder: Path, doing: str) -> Iterator[None]:
    """Lock an existing ``folder`` against other writers while the body runs.

    A link to the folder is followed, since the user named it.

    Raises
    ------
    StorageError
        Another process is ``doing`` something there, or has just deleted the folder, or the file
        system has no locks.
    """
    with _open_for_lock(folder, os.O_RDONLY) as handle:
        if not try_lock(handle, folder) or not _is_there(handle, folder):
            raise busy(folder, doing)
        yield


@contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """Run the body while no other process is in such a block for the same folder; wait if needed.

    Raises
    ------
    StorageError
        The file system has no locks.
    """
    with _open_for_lock(folder, os.O_RDONLY | SAFE) as handle:
        try:
            lock_descriptor(handle)
        except OSError as error:
            raise _no_locks(folder, error) from error
        yield


@contextmanager
def living(path: Path, text: str = "") -> Iterator[None]:
    """Create a file that stays locked while the body runs, as a sign that this process is alive.

    ``text`` is its content.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | SAFE, 0o666)
    except OSError as error:
        raise refusal(path, error) from error
    try:
        try_lock(handle, path)
        os.write(handle, text.encode())
        yield
    finally:
        os.close(handle)


def dead(path: Path) -> bool:
    """Return whether the process that created a file with :func:`living` has left it or ended.

    False where that is unknown: the file system has no locks, or the file cannot be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | SAFE)
    except OSError as error:
        return error.errno == errno.ENOENT
    try:
        return lock_descriptor(handle, blocking=False)
    except OSError:
        return False
    finally:
        os.close(handle)


def held(path: Path) -> bool:
    """Return whether another process holds the lock of a file or folder now.

    False where that is unknown. The lock is taken for the moment of the question.
    """
    try:
        handle = os.open(path, os.O_RDONLY | SAFE)
    except OSError:
        return False
    try:
        return not lock_descriptor(handle, blocking=False)
    except OSError:
        return False
    finally:
        os.close(handle)


def without_lock(folder: Path) -> Iterator[Path]:
    """Yield what is in a folder, but for the file by which it is locked on Windows."""
    return (path for path in folder.iterdir() if path.name != _LOCK)


def try_lock(handle: int, path: Path) -> bool:
    """Lock an open file or folder until it is closed; False where another process holds the lock.

    Raises
    ------
    StorageError
        The file system has no locks.
    """
    try:
        return lock_descriptor(handle, blocking=False)
    except OSError as error:
        raise _no_locks(path, error) from error


def busy(folder: Path, doing: str) -> StorageError:
    """Return the error for a folder in which another process is ``doing`` something."""
    return StorageError(
        f"another process is {doing} in {str(folder)!r}: wait for it or choose another path"
    )


@contextmanager
def _open_for_lock(folder: Path, flags: int) -> Iterator[int]:
    """Open a folder, or its lock file on Windows, as a handle that can be locked."""
    try:
        if os.name == "nt":
            handle = os.open(_lock_path(folder), os.O_RDWR | os.O_CREAT | SAFE, 0o666)
        else:
            handle = os.open(folder, flags)
    except OSError as error:
        raise refusal(folder, error) from error
    try:
        yield handle
    finally:
        os.close(handle)


def _lock_path(folder: Path) -> Path:
    return folder / _LOCK if os.name == "nt" else folder


def _is_there(handle: int, folder: Path) -> bool:
    """Return whether a locked folder is still the one of its path, and was not deleted."""
    try:
        return os.path.samestat(os.fstat(handle), _lock_path(folder).stat())
    except FileNotFoundError:
        return False


def _no_locks(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"cannot lock {str(path)!r}: {reason(error)}; choose a folder on another disk"
    )
