"""Large files straight to the disk, past the page cache.

A new page of the cache can cost several times the processor time of compressing what goes into it,
see decision 003, and a long recording would push everything else out of memory.
"""

from __future__ import annotations

import mmap
import os
import threading
from pathlib import Path

from kd_offline.datasets.storage import safe_open

MIN_BYTES = 1 << 20  # bytes: a smaller file costs more in waiting than its pages do
_BLOCK = 4096  # what disks take; a file is written in whole blocks and cut to its size
_PIECE = 8 << 20
_BUFFERS = threading.local()


def try_write(path: Path, data: bytes) -> bool:
    """Write a new file past the page cache, True where that was possible.

    Where it was not (another system, a file system in memory or on the network, no room), nothing
    is said about it and the file is as it happens to be: write it in the common way, which also
    finds out what is wrong.
    """
    flag = getattr(os, "O_DIRECT", 0)
    if not flag or len(data) < MIN_BYTES:
        return False
    try:
        with safe_open.create_file(path, flag) as file:
            return _write_blocks(file.fileno(), memoryview(data))
    except OSError:
        return False


def _write_blocks(file: int, data: memoryview) -> bool:
    buffer = _aligned_buffer()
    for start in range(0, len(data), _PIECE):
        piece = data[start : start + _PIECE]
        padded_size = -(-len(piece) // _BLOCK) * _BLOCK
        buffer[: len(piece)] = piece
        if os.write(file, buffer[:padded_size]) != padded_size:
            return False
    os.truncate(file, len(data))
    return True


def _aligned_buffer() -> memoryview:
    """Return this thread's buffer, which begins at the start of a memory page."""
    if not hasattr(_BUFFERS, "mine"):
        pages = mmap.mmap(-1, _PIECE)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            pages.madvise(mmap.MADV_HUGEPAGE)
        _BUFFERS.mine = memoryview(pages)
    buffer: memoryview = _BUFFERS.mine
    return buffer
