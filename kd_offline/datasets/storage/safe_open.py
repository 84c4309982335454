"""Open plain files in a folder that may come from a stranger.

Below the folder only files and folders are touched: no link is followed, and opening a pipe or a
device never waits.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from kd_offline.errors import CorruptDatasetError

# The path is checked before it is opened; these flags cover changes in between.
_SAFE = sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOFOLLOW", "O_CLOEXEC", "O_BINARY"))
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}


class NotPlainError(CorruptDatasetError):
    """A link, a folder, a pipe or a device is in the place of a plain file of a dataset."""

    def __init__(self, root: Path, path: str, kind: str) -> None:
        self.problem = f"{path} is {kind}, but a dataset is made of plain files"
        super().__init__(
            f"the dataset at {str(root)!r} cannot be trusted: {self.problem}; get a fresh copy"
        )


def file_status(root: Path, path: str) -> os.stat_result:
    """Return the status of the plain file ``path`` (relative, with ``/``) below ``root``.

    Raises
    ------
    FileNotFoundError
        There is none.
    NotPlainError
        Something else lies there, or a link leads to it.
    OSError
        The folder cannot be read.
    """
    refuse_links(root, path)
    try:
        status = os.lstat(f"{root}/{path}")
    except OSError as error:
        if error.errno in _ABSENT:
            raise FileNotFoundError(errno.ENOENT, "no such file", path) from None
        raise
    if not stat.S_ISREG(status.st_mode):
        raise NotPlainError(root, path, _kind(status.st_mode))
    return status


def open_file(root: Path, path: str) -> FileIO:
    """Open a plain file for reading, unbuffered; raises as :func:`file_status`."""
    file_status(root, path)
    return FileIO(f"{root}/{path}", "rb", opener=_open_without_links)


def create_file(path: Path, flags: int = 0) -> FileIO:
    """Make a new file and open it for writing, unbuffered.

    An existing file or link is removed, never opened. ``flags`` are added to those of
    ``os.open``.
    """
    try:
        return FileIO(
            path, "xb", opener=lambda name, usual: _open_without_links(name, usual | flags)
        )
    except FileExistsError:
        path.unlink()
        return FileIO(
            path, "xb", opener=lambda name, usual: _open_without_links(name, usual | flags)
        )


def open_lock_file(path: Path) -> FileIO:
    """Open the file that is locked; make it if it is missing, and keep its content.

    A link is refused (OSError).
    """
    return FileIO(path, "ab", opener=_open_without_links)


def refuse_links(root: Path, path: str) -> None:
    """Raise :class:`NotPlainError` where a folder between ``root`` and ``path`` is a link."""
    end = path.find("/")
    while end >= 0:
        if os.path.islink(f"{root}/{path[:end]}"):  # noqa: PTH114 - a Path is five times slower
            raise NotPlainError(root, path[:end], "a link")
        end = path.find("/", end + 1)


def list_files(root: Path) -> Iterator[str]:
    """Yield the relative path of every file below ``root``; no link is followed."""
    folders = [""]
    while folders:
        prefix = folders.pop()
        try:
            with os.scandir(root / prefix) as iterator:
                entries = sorted(iterator, key=lambda entry: entry.name)
        except OSError:
            yield prefix.rstrip("/") or "."  # a folder that cannot be listed is reported as a file
            continue
        for entry in entries:
            path = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                folders.append(f"{path}/")
            else:
                yield path


def _kind(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "a link"
    return "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"


def _open_without_links(path: str, flags: int) -> int:
    return os.open(path, flags | _SAFE, 0o666)
