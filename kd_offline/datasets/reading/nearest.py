"""Nearest recorded steps, the same ones on every machine.

Features are rounded to a grid of whole numbers. All sums of products are then exact in float64, in
whatever order a library adds them, and steps at equal distances are taken in their order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from kd_offline.types import Array, FloatArray, IntArray

GRID = 256  # cells in a unit
_LARGEST = 1 << 15  # cells from zero; what lies beyond is put there
_DISTANCES = 2_000_000  # that are held at once


class Neighbours(NamedTuple):
    """For every query its nearest points, nearest first."""

    place: IntArray  # [Q, k], indices of points
    distance: FloatArray  # [Q, k], squared


class NearestSteps:
    """Finds the nearest of ``points``, float [M, D], by Euclidean distance.

    Features should be in deviations: a difference below 1/256 counts as none.
    """

    def __init__(self, points: Array) -> None:
        self._points = _on_grid(points)
        self._squares = np.square(self._points).sum(1)

    def find(self, queries: Array, count: int) -> Neighbours:
        """Return the ``count`` nearest points of ``queries``, float [Q, D]; all if there are fewer.

        Memory does not grow with the number of queries, except for the result.
        """
        parts = list(self._parts(_on_grid(queries), min(count, len(self._points))))
        place, distance = (np.concatenate(each) for each in zip(*parts, strict=True))
        return Neighbours(place, distance / GRID**2)

    def _parts(self, queries: FloatArray, count: int) -> Iterator[tuple[IntArray, FloatArray]]:
        total = len(self._points)
        rows = max(1, _DISTANCES // total)
        for first in range(0, max(1, len(queries)), rows):
            part = queries[first : first + rows]
            squares = np.square(part).sum(1)[:, None] + self._squares - 2 * part @ self._points.T
            # One whole number of distance and place, so that no two are equal.
            keys = squares.astype(np.int64) * total + np.arange(total)
            nearest = np.sort(np.partition(keys, count - 1, axis=1)[:, :count], axis=1)
            yield nearest % total, (nearest // total).astype(np.float64)


def _on_grid(values: Array) -> FloatArray:
    grid: FloatArray = np.rint(values.astype(np.float64) * GRID).clip(-_LARGEST, _LARGEST)
    return grid
