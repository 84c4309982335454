"""The one rounding rule of int8 weights: symmetric, one scale for each row, activations stay float.

For a row ``w`` the scale is ``s = max|w| / 127`` and the stored number ``rint(w / s)``, ties to the
even one; a row of zeros has the scale 1. Zero stays exactly zero, and no value moves by more than
half a step. Exports round by :func:`quantised`; training that wants to see the same numbers uses
:func:`rounded`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kd_offline.types import Float32Array

LEVELS = 127
"""Largest stored magnitude; -128 is never used, so that negation is exact."""


def quantised(weight: Float32Array) -> tuple[npt.NDArray[np.int8], Float32Array]:
    """Return the stored form of a matrix.

    Parameters
    ----------
    weight : float32 [rows, columns]

    Returns
    -------
    int8 [rows, columns], float32 [rows]
        Numbers from -127 to 127, and the scale by which each row is multiplied.
    """
    weight = np.asarray(weight, np.float32)
    largest = np.abs(weight).max(axis=1, initial=0.0)
    scale = np.where(largest > 0, largest / np.float32(LEVELS), np.float32(1)).astype(np.float32)
    steps = np.clip(np.rint(weight / scale[:, None]), -LEVELS, LEVELS)
    return steps.astype(np.int8), scale


def restored(steps: npt.NDArray[np.int8], scale: Float32Array) -> Float32Array:
    """Return the numbers that the stored form stands for: float32 [rows, columns]."""
    return steps.astype(np.float32) * scale[:, None]


def rounded(weight: Float32Array) -> Float32Array:
    """Return what remains of a matrix after it was stored and restored."""
    return restored(*quantised(weight))
