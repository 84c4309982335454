"""The files of one dataset: the protocol that readers use, and a local folder, which also writes.

Operating-system errors become :class:`StorageError`. In the folder of a dataset only plain files
count, see :mod:`kd_offline.datasets.storage.safe_open`.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ClassVar, Protocol

from kd_offline.datasets.format.layout import LOCK, SCRATCH
from kd_offline.datasets.storage import safe_open
from kd_offline.errors import Remedy, StorageError
from kd_offline.file_locks import busy, try_lock
from kd_offline.files import make_folder
from kd_offline.schemas.dataset import FileRecord

# A new page in the page cache can cost several times the processor time of compressing its content
# (docs/decisions/003-format.md), and a long recording would displace everything else from memory.
# So large files are written past it.
DIRECT_BYTES = 1 << 20  # bytes; waiting for the disk costs more than the page cache below that
_BLOCK = 4096  # direct writes take whole blocks; the file is then cut to its size
_DIRECT_PIECE = 8 << 20
_BUFFERS = threading.local()


class Files(Protocol):
    """The files of a dataset, for reading; paths are relative, with ``/``."""

    @property
    def address(self) -> str:
        """Address of the dataset, as its user wrote it."""

    @property
    def readers(self) -> int:
        """Number of files to read in parallel."""

    def present(self) -> bool:
        """Tell whether there is anything at the address."""

    def exists(self, path: str) -> bool:
        """Tell whether ``path`` is a file here."""

    def size(self, path: str) -> int | None:
        """Return the size of the file in bytes, None where there is none."""

    def read(self, path: str, record: FileRecord | None = None) -> bytes:
        """Return the bytes of a file; FileNotFoundError if there is none.

        With its ``record`` of the manifest, at most the listed size and one byte are read, and a
        cache may answer. The caller checks the bytes.
        """

    def files(self) -> Iterator[str] | None:
        """Yield every path; None if the address cannot be listed."""


# Fits into the processor's cache between reading and hashing; each thread has its own.
_PIECE = 1 << 18
_PIECES = threading.local()


@dataclass(frozen=True, slots=True)
class Folder:
    """The root folder of a dataset."""

    root: Path
    pin: str = ""
    readers: ClassVar[int] = 1

    @property
    def address(self) -> str:
        """Path of the folder, with its pin."""
        return f"{self.root}{self.pin}"

    def present(self) -> bool:
        """Tell whether there is anything at the path."""
        return self.root.exists()

    def exists(self, path: str) -> bool:
        """Tell whether ``path`` is a file here."""
        try:
            return self.size(path) is not None
        except safe_open.NotPlainError:
            return False

    def size(self, path: str) -> int | None:
        """Return the size of the file in bytes, None where there is none.

        Raises
        ------
        NotPlainError
            Something else lies there, or a link leads to it.
        StorageError
            The folder cannot be read.
        """
        try:
            return safe_open.file_status(self.root, path).st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _storage_error(self.root / path, "read", error) from error

    def read(self, path: str, record: FileRecord | None = None) -> bytes:
        """Return the bytes of a file; with a ``record`` at most its size and one byte.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        NotPlainError
            Something else lies there, or a link leads to it.
        StorageError
            The file cannot be read.
        """
        try:
            with safe_open.open_file(self.root, path) as file:
                size = os.fstat(file.fileno()).st_size
                left = size if record is None else min(size, record.size + 1)
                return _read_exactly(file, left)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _storage_error(self.root / path, "read", error) from error

    def measured(self, record: FileRecord) -> tuple[int, str]:
        """Return size and hex sha256 of a file, read in pieces; raises as :meth:`read`.

        A file whose size is not the listed one is not read.
        """
        if not hasattr(_PIECES, "mine"):
            _PIECES.mine = memoryview(bytearray(_PIECE))
        values, piece = hashlib.sha256(), _PIECES.mine
        try:
            with safe_open.open_file(self.root, record.path) as file:
                size = os.fstat(file.fileno()).st_size
                while size == record.size and (count := file.readinto(piece)):
                    values.update(piece[:count])
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _storage_error(self.root / record.path, "read", error) from error
        return size, values.hexdigest()

    def write(self, path: str, data: bytes, *, durable: bool = False) -> FileRecord:
        """Write a file as :meth:`put` does; return its record for the manifest."""
        self.put(path, data, durable=durable)
        return FileRecord(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())

    def put(self, path: str, data: bytes, *, durable: bool = False, aside: str = SCRATCH) -> None:
        """Write a file under another name and rename it, so that it is there whole or not at all.

        The usual temporary file ``aside`` is for one writer at a time; it has a fixed name, so a
        killed writer leaves at most one. ``durable`` also waits until the bytes survive a loss of
        power.
        """
        target, beside = self.root / path, self.root / aside
        safe_open.refuse_links(self.root, path)
        try:
            _write_aside(beside, data, durable)
            try:
                beside.replace(target)
            except FileNotFoundError:  # the first file in its folder
                make_folder(target.parent)
                beside.replace(target)
        except OSError as error:
            raise _storage_error(target, "write", error) from error

    def remove(self, path: str) -> None:
        """Delete a file if it is there."""
        try:
            (self.root / path).unlink(missing_ok=True)
        except OSError as error:
            raise _storage_error(self.root / path, "delete", error) from error

    def files(self) -> Iterator[str]:
        """Yield the relative path of every file; no link is followed."""
        return safe_open.list_files(self.root)


def size_and_sha256(files: Files, record: FileRecord) -> tuple[int, str]:
    """Return the size of a listed file and its hex sha256, ``""`` if the size is another one.

    Local files are hashed in pieces. Raises as ``read`` does.
    """
    if isinstance(files, Folder):
        return files.measured(record)
    data = files.read(record.path, record)
    if len(data) != record.size:
        return files.size(record.path) or 0, ""
    return len(data), hashlib.sha256(data).hexdigest()


def lock_folder(root: Path) -> IO[bytes]:
    """Take the folder's writer lock; closing the returned file releases it.

    Raises
    ------
    StorageError
        Another process is recording here, or the folder refuses.
    """
    try:
        handle = safe_open.open_lock_file(root / LOCK)
    except OSError as error:
        raise _storage_error(root, "write to", error) from error
    try:
        # Its holder may have deleted the file meanwhile, and a third process made a new one.
        if not try_lock(handle.fileno(), root) or not os.path.samestat(
            os.fstat(handle.fileno()), (root / LOCK).stat()
        ):
            raise BlockingIOError
    except StorageError:
        handle.close()
        raise
    except OSError as error:
        handle.close()
        raise busy(root, "recording") from error
    return handle


def _read_exactly(file: IO[bytes], size: int) -> bytes:
    """Return ``size`` bytes of an unbuffered file, fewer if it ends before."""
    data = file.read(size)
    while len(data) < size and (more := file.read(size - len(data))):
        data += more
    return data


def _write_aside(path: Path, data: bytes, durable: bool) -> None:
    if not durable and try_write_directly(path, data):
        return
    with safe_open.create_file(path) as file:
        left = memoryview(data)
        while left:  # an unbuffered write may take less than all
            left = left[file.write(left) :]
        if durable:
            os.fsync(file.fileno())


def _storage_error(path: Path, verb: str, error: OSError) -> StorageError:
    reason = error.strerror or type(error).__name__
    msg = f"cannot {verb} {str(path)!r} ({reason})"
    if verb != "write":
        return StorageError(msg, Remedy("check the path and its permissions"))
    go_on = Remedy("make room and go on from what was recorded before with", resume=True)
    return StorageError(msg, Remedy("make room"), Remedy("choose another path"), go_on)


def try_write_directly(path: Path, data: bytes) -> bool:
    """Write a new file past the page cache; return whether that was possible.

    It is not on other systems, on file systems in memory or on the network, or without room. Then
    the file has any content: write it in the common way, which also reports errors.
    """
    flag = getattr(os, "O_DIRECT", 0)
    if not flag or len(data) < DIRECT_BYTES:
        return False
    try:
        with safe_open.create_file(path, flag) as file:
            return _write_blocks(file.fileno(), memoryview(data))
    except OSError:
        return False


def _write_blocks(file: int, data: memoryview) -> bool:
    buffer = _aligned_buffer()
    for start in range(0, len(data), _DIRECT_PIECE):
        piece = data[start : start + _DIRECT_PIECE]
        padded_size = -(-len(piece) // _BLOCK) * _BLOCK
        buffer[: len(piece)] = piece
        if os.write(file, buffer[:padded_size]) != padded_size:
            return False
    os.truncate(file, len(data))
    return True


def _aligned_buffer() -> memoryview:
    """Return this thread's buffer, which is aligned to a memory page."""
    if not hasattr(_BUFFERS, "mine"):
        pages = mmap.mmap(-1, _DIRECT_PIECE)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            pages.madvise(mmap.MADV_HUGEPAGE)
        _BUFFERS.mine = memoryview(pages)
    buffer: memoryview = _BUFFERS.mine
    return buffer
