"""Write HDF5 files so that a full disk raises an error and does not crash the process."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kd_offline.datasets.convert.interchange import import_library
from kd_offline.files import refusal


@contextmanager
def create_hdf5(path: Path, **options: Any) -> Iterator[Any]:
    """Open an ``h5py.File`` for writing; ``options`` are passed to it.

    Raises
    ------
    MissingExtraError
        h5py is not installed.
    StorageError
        The disk is full or refuses otherwise.
    """
    h5py = import_library("h5py", "HDF5")
    with path.open("x+b", buffering=0) as raw:
        target = _FailSafeFile(raw)
        try:
            with h5py.File(target, "w", **options) as file:
                yield file
        except Exception as error:
            if target.problem is None:
                raise
            raise refusal(path, target.problem) from error  # the library's error follows from it
        if target.problem is not None:
            raise refusal(path, target.problem)


class _FailSafeFile(io.RawIOBase):
    """A file whose writes always succeed for the HDF5 library.

    If a write fails, HDF5 can no longer close its file and crashes at the end of the process. So
    the first error is kept, raised after the file is closed, and nothing more is written.
    """

    def __init__(self, raw: io.FileIO) -> None:
        self._raw = raw
        self.problem: OSError | None = None

    def readable(self) -> bool:
        """Return True."""
        return True

    def writable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position and return it."""
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._raw.tell()

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer``; parts that were not written are zero."""
        view = memoryview(buffer).cast("B")
        data = self._raw.read(len(view)) or b""
        view[:] = data.ljust(len(view), b"\0")
        return len(view)

    def write(self, data: Any) -> int:
        """Write all of ``data``, unless an earlier write failed."""
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left and self.problem is None:
                left = left[self._raw.write(left) :]
        except OSError as error:
            self.problem = error
        return size

    def truncate(self, size: int | None = None) -> int:
        """Set the size of the file; new bytes are zero."""
        try:
            return self._raw.truncate(size)
        except OSError as error:
            self.problem = self.problem or error
            return size or 0
