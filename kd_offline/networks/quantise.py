"""The rounding rule of int8 weights: symmetric, one scale for each row; activations stay float.

For a row ``w`` the scale is ``s = max|w| / 127``, and the stored integer is ``rint(w / s)`` with
ties to even. A row of zeros has the scale 1. Zero is exact, and no weight changes by more than
``s / 2``. Exports use :func:`quantised`; quantisation-aware training uses :func:`rounded`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kd_offline.types import Float32Array

LEVELS = 127
"""Largest stored magnitude; -128 is never used, so that negation is exact."""


def quantised(weight: Float32Array) -> tuple[npt.NDArray[np.int8], Float32Array]:
    """Return the int8 form of a matrix.

    Parameters
    ----------
    weight : float32 [rows, columns]

    Returns
    -------
    int8 [rows, columns], float32 [rows]
        Integers from -127 to 127, and the scale of each row.
    """
    weight = np.asarray(weight, np.float32)
    largest = np.abs(weight).max(axis=1, initial=0.0)
    scale = np.where(largest > 0, largest / np.float32(LEVELS), np.float32(1)).astype(np.float32)
    steps = np.clip(np.rint(weight / scale[:, None]), -LEVELS, LEVELS)
    return steps.astype(np.int8), scale


def restored(steps: npt.NDArray[np.int8], scale: Float32Array) -> Float32Array:
    """Return the weights that integers and scales represent: float32 [rows, columns]."""
    return steps.astype(np.float32) * scale[:, None]


def rounded(weight: Float32Array) -> Float32Array:
    """Return a matrix after quantisation and restoration: float32 [rows, columns]."""
    return restored(*quantised(weight))
