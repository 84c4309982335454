"""Boards of predators and prey: places, moves, neighbours and windows, for whole batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from kd_offline.types import Array, BoolArray, FloatArray, IntArray

# Row and column steps of stay, up, down, left and right.
STEPS = np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]])


@dataclass(slots=True)
class Board:
    """``B`` boards of ``size`` x ``size`` cells, at most one creature in each.

    ``predators``: int [B, N, 2] rows and columns; ``prey``: int [B, Q, 2]; those that are not
    alive have left the board.
    """

    size: int
    predators: IntArray
    prey: IntArray
    predators_alive: BoolArray
    prey_alive: BoolArray
    taken: BoolArray  # [B, size, size]

    @classmethod
    def empty(cls, batch: int, size: int, predators: int, prey: int) -> Board:
        """Return boards that nobody stands on yet."""
        return cls(
            size,
            np.zeros((batch, predators, 2), np.int64),
            np.zeros((batch, prey, 2), np.int64),
            np.zeros((batch, predators), bool),
            np.zeros((batch, prey), bool),
            np.zeros((batch, size, size), bool),
        )

    def place(self, where: BoolArray, draws: FloatArray) -> None:
        """Put everyone of the boards ``where`` on distinct cells, by ``draws`` [b, cells]."""
        n, q = self.predators.shape[1], self.prey.shape[1]
        cells = np.argsort(draws, axis=-1, kind="stable")[:, : n + q]
        places = np.stack(np.divmod(cells, self.size), -1)
        self.predators[where], self.prey[where] = places[:, :n], places[:, n:]
        self.predators_alive[where] = self.prey_alive[where] = True
        taken = np.zeros((len(cells), self.size**2), bool)
        np.put_along_axis(taken, cells, True, axis=-1)
        self.taken[where] = taken.reshape(-1, self.size, self.size)

    def beside(self) -> BoolArray:
        """Tell which prey stands beside which predator, bool [B, N, Q]; not across corners."""
        gap = np.abs(self.predators[:, :, None] - self.prey[:, None]).sum(-1)
        both = self.predators_alive[..., None] & self.prey_alive[:, None]
        return np.asarray((gap == 1) & both)

    def inside(self) -> BoolArray:
        """Tell which steps stay on the board, bool [B, N, 5]."""
        target = self.predators[:, :, None] + STEPS
        return np.asarray(((target >= 0) & (target < self.size)).all(-1))

    def remove(self, predators: BoolArray, prey: BoolArray) -> None:
        """Take ``predators`` [B, N] and ``prey`` [B, Q] from the board."""
        for gone, places, alive in (
            (predators, self.predators, self.predators_alive),
            (prey, self.prey, self.prey_alive),
        ):
            rows, which = np.nonzero(gone)
            self.taken[rows, *places[rows, which].T] = False
            alive[rows, which] = False

    def move_predators(self, steps: IntArray) -> None:
        """Move predators by ``steps`` int [B, N] into :data:`STEPS`, the first ones first."""
        self._move(self.predators, self.predators_alive, steps)

    def move_prey(self, steps: Array) -> None:
        """Move prey by ``steps`` int [B, Q] into :data:`STEPS`, the first ones first."""
        self._move(self.prey, self.prey_alive, steps)

    def _move(self, places: IntArray, alive: BoolArray, steps: Array) -> None:
        boards = np.arange(len(places))
        for i in range(places.shape[1]):
            here = places[:, i]
            target = np.clip(here + STEPS[steps[:, i]], 0, self.size - 1)
            free = alive[:, i] & ~self.taken[boards, *target.T]
            moving = boards[free]
            self.taken[moving, *here[free].T] = False
            self.taken[moving, *target[free].T] = True
            places[:, i] = np.where(free[:, None], target, here)

    def planes(self) -> tuple[FloatArray, FloatArray]:
        """Return where predators and where prey stand, 0 or 1 [B, size, size] each."""
        out = []
        for places, alive in (
            (self.predators, self.predators_alive),
            (self.prey, self.prey_alive),
        ):
            plane = np.zeros(self.taken.shape)
            rows, which = np.nonzero(alive)
            plane[rows, *places[rows, which].T] = 1.0
            out.append(plane)
        return out[0], out[1]


def windows(board: Board, width: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return what each predator sees of other predators, prey and cells outside the board.

    0 or 1, [B, N, width * width] each; a predator stands in the middle of its window and does not
    see itself.
    """
    reach = width // 2
    predators, prey = board.planes()
    walls = np.pad(np.zeros((1, board.size, board.size)), _margin(reach), constant_values=1.0)
    own = _around(board, np.pad(predators, _margin(reach)), width)
    own[..., width * width // 2] = 0.0
    outside = np.broadcast_to(walls, (len(predators), *walls.shape[1:]))
    return own, _around(board, np.pad(prey, _margin(reach)), width), _around(board, outside, width)


def _margin(reach: int) -> tuple[tuple[int, int], ...]:
    return ((0, 0), (reach, reach), (reach, reach))


def _around(board: Board, padded: FloatArray, width: int) -> FloatArray:
    views = sliding_window_view(padded, (width, width), axis=(1, 2))
    boards = np.arange(len(padded))[:, None]
    rows, columns = board.predators[..., 0], board.predators[..., 1]
    found: FloatArray = views[boards, rows, columns].reshape(*rows.shape, width * width)
    return found
