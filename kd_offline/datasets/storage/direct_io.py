"""Write large files directly to the disk, past the page cache.

A new page in the cache can cost several times the processor time of compressing its content (see
docs/decisions/003-format.md), and a long recording would displace everything else from memory.
"""

from __future__ import annotations

import mmap
import os
import threading
from pathlib import Path

from kd_offline.datasets.storage import safe_open

MIN_BYTES = 1 << 20  # bytes; waiting for the disk costs more than the page cache below that
_BLOCK = 4096  # direct writes take whole blocks; the file is then cut to its size
_PIECE = 8 << 20
_BUFFERS = threading.local()


def try_write(path: Path, data: bytes) -> bool:
    """Write a new file past the page cache; return whether that was possible.

    It is not on other systems, on file systems in memory or on the network, or without room. Then
    the file has any content: write it in the common way, which also reports errors.
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
    """Return this thread's buffer, which is aligned to a memory page."""
    if not hasattr(_BUFFERS, "mine"):
        pages = mmap.mmap(-1, _PIECE)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            pages.madvise(mmap.MADV_HUGEPAGE)
        _BUFFERS.mine = memoryview(pages)
    buffer: memoryview = _BUFFERS.mine
    return buffer
