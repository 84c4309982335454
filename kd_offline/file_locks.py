"""Locks between processes: one writer at a time, turns, and whether a process still lives.

The system lets go of a lock when its process ends, however that ends. Folders are locked
themselves; on Windows, where they cannot be, a hidden file in them is.
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
    """Keep other processes that ask for the same from writing to ``folder``, which exists.

    The user named it, so a link to it is followed.

    Raises
    ------
    StorageError
        Another process is ``doing`` something there, or the file system has no locks.
    """
    with _opened(folder, os.O_RDONLY) as handle:
        if not try_lock(handle, folder):
            raise busy(folder, doing)
        yield


@contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """Wait until no other process is in here for the same folder.

    Raises
    ------
    StorageError
        The file system has no locks.
    """
    with _opened(folder, os.O_RDONLY | SAFE) as handle:
        try:
            lock_descriptor(handle)
        except OSError as error:
            raise _no_locks(folder, error) from error
        yield


@contextmanager
def living(path: Path) -> Iterator[None]:
    """Make a file that is locked as long as this process is inside; see :func:`dead`."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | SAFE, 0o666)
    except OSError as error:
        raise refusal(path, error) from error
    try:
        try_lock(handle, path)
        yield
    finally:
        os.close(handle)


def dead(path: Path) -> bool:
    """Tell whether the process that made a file by :func:`living` has left it or ended.

    False where that cannot be told: the file system has no locks, or the file cannot be read.
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


def try_lock(handle: int, path: Path) -> bool:
    """Lock an open file or folder until it is closed; False where another process holds it.

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
    """Return the error that says that another process is ``doing`` something in ``folder``."""
    return StorageError(
        f"another process is {doing} in {str(folder)!r}: wait for it or choose another path"
    )


@contextmanager
def _opened(folder: Path, flags: int) -> Iterator[int]:
    """Open a folder, or what stands for it, to lock it."""
    try:
        if os.name == "nt":
            handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | SAFE, 0o666)
        else:
            handle = os.open(folder, flags)
    except OSError as error:
        raise refusal(folder, error) from error
    try:
        yield handle
    finally:
        os.close(handle)


def _no_locks(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"cannot lock {str(path)!r}: {reason(error)}; choose a folder on another disk"
    )
