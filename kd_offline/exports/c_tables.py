"""Arrays as C tables: exact floats, and rows in lanes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from kd_offline.types import Array

LANES = 8
"""Rows that lie interleaved, as ``kernels.h`` walks over them."""


def interleaved(weight: Array) -> Array:
    """Return rows in blocks of :data:`LANES`: [ceil(rows / LANES), columns, LANES]."""
    rows, columns = weight.shape
    blocks = padded(weight).reshape(-(-rows // LANES), LANES, columns)
    return np.ascontiguousarray(blocks.swapaxes(1, 2))


def padded(values: Array) -> Array:
    """Return rows up to a multiple of :data:`LANES`, the last ones zero."""
    spare = -len(values) % LANES
    return np.concatenate([values, np.zeros((spare, *values.shape[1:]), values.dtype)])


def floats(name: str, values: Array) -> str:
    """Return the definition of a constant array of floats."""
    return array("float", name, (f"{short(v)}f" for v in values.ravel().tolist()))


def short(value: float) -> str:
    """Return the exact hexadecimal form of a float, without zeros that say nothing."""
    mantissa, _, exponent = value.hex().partition("p")
    return f"{mantissa.rstrip('0').rstrip('.')}p{exponent}"


def array(kind: str, name: str, values: Iterable[str]) -> str:
    """Return the definition of a constant array; one without values holds a zero."""
    every = list(values) or ["0"]
    lines = (", ".join(every[k : k + 8]) for k in range(0, len(every), 8))
    body = ",\n    ".join(lines)
    return f"static const {kind} {name}[{len(every)}] = {{\n    {body}\n}};\n"
