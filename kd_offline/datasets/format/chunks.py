"""Encode and decode one chunk of rows: little-endian values under zstd.

Two bindings of the same library, each where it makes no copy: zstandard compresses in less than
half the time of numcodecs where little can be saved, and numcodecs decodes into a given array.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import zstandard
from numcodecs.zstd import Zstd

from kd_offline.types import Array

_CHECKSUM = 0x04  # flag in the fifth byte of a zstd frame


def little_endian(dtype: str) -> np.dtype[Any]:
    """Return the NumPy dtype of stored values."""
    return np.dtype(dtype).newbyteorder("<")


def encode_chunk(rows: Array, level: int) -> bytes:
    """Return the bytes of a chunk's file; zstd adds a checksum of the decoded values."""
    frame = zstandard.ZstdCompressor(level=level, write_checksum=True)
    return frame.compress(np.ascontiguousarray(rows).data)


def decode_chunk(data: bytes, out: Array) -> str | None:
    """Decode the bytes of a chunk into ``out`` (C-contiguous); return the problem, or None.

    It takes no more memory than ``out`` has, whatever size the bytes state.
    """
    if stated_size(data) != out.nbytes:  # numcodecs would leave the rest of ``out`` as it was
        return f"does not state the {out.nbytes} decoded bytes that its shape needs"
    if not data[4] & _CHECKSUM:
        return "has no checksum of its values"
    try:
        Zstd().decode(data, out=out)
    except (RuntimeError, ValueError) as error:
        return f"does not decode ({error})"
    if out.dtype == np.bool_ and out.size and out.view(np.uint8).max() > 1:
        return "holds bytes other than 0 and 1 as booleans"
    return None


def stated_size(data: bytes) -> int | None:
    """Return the decoded size in bytes that a zstd frame states, or None if it states none.

    The header is read by the rules of RFC 8878, section 3.1.1.1.
    """
    if len(data) < 6 or data[:4] != b"\x28\xb5\x2f\xfd":
        return None
    flags = data[4]
    single = bool(flags & 0x20)
    width = (1 if single else 0, 2, 4, 8)[flags >> 6]
    start = 5 + (0 if single else 1) + (0, 1, 2, 4)[flags & 3]
    if width == 0 or len(data) < start + width:
        return None
    size = int.from_bytes(data[start : start + width], "little")
    return size + 256 if width == 2 else size


def all_finite(values: Array) -> bool:
    """Tell whether a float array has no NaN and no infinity.

    Read as integers, these have the largest bit patterns of either sign. So two reductions find
    them, without a temporary array.
    """
    if values.dtype.kind != "f" or values.size == 0:
        return True
    size = values.dtype.itemsize
    infinity = int(np.array(np.inf, values.dtype).view(f"u{size}"))
    sign = 1 << (8 * size - 1)
    return bool(
        values.view(f"<i{size}").max() < infinity
        and values.view(f"<u{size}").max() < infinity | sign
    )
