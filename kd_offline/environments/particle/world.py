"""The shared physics of the particle tasks, for a whole batch at once.

Arrays keep the batch axis **last**, so that every operation runs over long contiguous rows. The
order of floating-point operations is the same for every batch size, and the same as in ``mpe2``:
sums over agents or landmarks are spelt out as loops, because NumPy's own sum changes its order with
the memory layout.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kd_offline.types import BoolArray, FloatArray, IntArray

DT = 0.1
DAMPING = 0.25
CONTACT_FORCE = 1e2
CONTACT_MARGIN = 1e-3
THRUST = 5.0

MOVES = ("stay", "left", "right", "down", "up")
_DIRECTIONS = THRUST * np.array([[0, -1, 1, 0, 0], [0, 0, 0, -1, 1]], dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Layout:
    """The entities of a world.

    ``contact_distance`` is the distance (world units) below which two agents touch; None when
    agents pass through each other. ``n_goals`` is the number of landmarks that an episode's goal
    is drawn from, 0 when the task has none. ``message_width`` is the number of message symbols.
    """

    n_agents: int
    n_landmarks: int
    contact_distance: float | None = None
    n_goals: int = 0
    message_width: int = 0


class World:
    """State of ``B`` worlds and the distances derived from it.

    Attributes
    ----------
    position: [2, N + L, B], agents first, then landmarks.
    velocity: [2, N, B].
    message: [C, B], what was said in the last step.
    goal: int [B], index of the goal landmark.
    to_landmarks: [2, N, L, B], landmark minus agent.
    to_others: [2, N, N - 1, B], other agent minus agent, others in ascending order.
    """

    def __init__(self, layout: Layout, batch: int, dtype: npt.DTypeLike) -> None:
        n, self.layout, self.dtype = layout.n_agents, layout, np.dtype(dtype)
        self.position: FloatArray = np.zeros((2, n + layout.n_landmarks, batch), self.dtype)
        self.velocity: FloatArray = np.zeros((2, n, batch), self.dtype)
        self.message: FloatArray = np.zeros((layout.message_width, batch), self.dtype)
        self.goal: IntArray = np.zeros(batch, np.int64)
        self._directions = _DIRECTIONS.astype(self.dtype)
        pairs = list(itertools.combinations(range(n), 2))
        self._first = np.array([a for a, _ in pairs], dtype=np.intp)
        self._second = np.array([b for _, b in pairs], dtype=np.intp)
        # Row (i, k) of a per-pair array, and its sign, for agent i and its k-th other agent.
        ordered = [[(i, j) for j in range(n) if j != i] for i in range(n)]
        index = {pair: k for k, pair in enumerate(pairs)}
        self._pair = np.array(
            [[index[min(p), max(p)] for p in row] for row in ordered], dtype=np.intp
        ).reshape(n, n - 1)
        self._sign = np.array(
            [[1.0 if a < b else -1.0 for a, b in row] for row in ordered], dtype=self.dtype
        ).reshape(n, n - 1, 1)
        self.measure()

    def place(self, where: BoolArray, uniforms: FloatArray, goals: IntArray) -> None:
        """Put worlds ``where`` (bool [B]) at rest on ``uniforms`` (in [0, 1): [n, N + L, 2])."""
        self.position[:, :, where] = (2.0 * uniforms - 1.0).transpose(2, 1, 0)
        self.velocity[:, :, where] = 0.0
        self.message[:, where] = 0.0
        self.goal[where] = goals
        self.measure()

    def thrust(self, moves: IntArray) -> FloatArray:
        """Return the agents' own forces [2, N, B] for ``moves`` (int [B, N], see ``MOVES``)."""
        return self._directions[:, moves.T]

    def advance(self, thrust: FloatArray, frozen: BoolArray | None = None) -> None:
        """Integrate one step of ``thrust`` [2, N, B]; worlds ``frozen`` (bool [B]) stay put.

        Positions move with the velocity from before the step; contact forces act on positions
        from before the step as well.
        """
        force = self._with_contacts(thrust)
        step, velocity = self.velocity * DT, self.velocity * (1 - DAMPING)
        velocity += force * DT
        if frozen is not None:
            step[:, :, frozen] = 0.0
            velocity[:, :, frozen] = self.velocity[:, :, frozen]
        self.position[:, : self.layout.n_agents] += step
        self.velocity = velocity
        self.measure()

    def measure(self) -> None:
        """Derive relative positions and pair distances from the positions."""
        n = self.layout.n_agents
        agents, landmarks = self.position[:, :n], self.position[:, n:]
        self.to_landmarks: FloatArray = landmarks[:, None] - agents[:, :, None]
        self._apart: FloatArray = agents[:, self._first] - agents[:, self._second]
        self.to_others: FloatArray = self._apart[:, self._pair] * -self._sign
        self._distance: FloatArray = length(self._apart)

    def collisions(self) -> FloatArray:
        """Return how many others each agent touches: [N, B]."""
        touching = (self._distance < (self.layout.contact_distance or 0.0)).astype(self.dtype)
        return ordered_sum(touching[self._pair], axis=1)

    def _with_contacts(self, thrust: FloatArray) -> FloatArray:
        reach = self.layout.contact_distance
        if reach is None or not len(self._first):
            return thrust
        overlap = -(self._distance - reach) / CONTACT_MARGIN
        penetration = np.logaddexp(0.0, overlap, dtype=self.dtype) * CONTACT_MARGIN
        push = CONTACT_FORCE * self._apart / self._distance * penetration
        pushes = push[:, self._pair] * self._sign
        for k in range(pushes.shape[2]):
            thrust = thrust + pushes[:, :, k]
        return thrust


def others_velocity(world: World, agent: int) -> FloatArray:
    """Return the velocities of all agents but one, in their order: [B, 2 * (N - 1)]."""
    others: FloatArray = np.delete(world.velocity, agent, axis=1).T
    return others.reshape(others.shape[0], 2 * (world.layout.n_agents - 1))


def length(vector: FloatArray) -> FloatArray:
    """Return Euclidean lengths of ``vector`` [2, ...] over its first axis."""
    squared = np.square(vector)
    result: FloatArray = np.sqrt(squared[0] + squared[1])
    return result


def ordered_sum(values: FloatArray, axis: int) -> FloatArray:
    """Sum over a short ``axis`` one slice after another, whatever the memory layout."""
    slices = np.moveaxis(values, axis, 0)
    total: FloatArray = np.zeros(slices.shape[1:], slices.dtype)
    for part in slices:
        total = total + part
    return total


def batch_first(values: FloatArray) -> FloatArray:
    """Return ``values`` [2, ..., B] as a view [B, ..., 2], for writing observations."""
    return np.moveaxis(values, (-1, 0), (0, -1))
