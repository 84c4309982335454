"""Predator-prey on a grid, the second task of the Double Distillation Network (Section 5.2).

Predators see a window around themselves. A prey is caught when two or more predators beside it try
in the same step; a predator that tries and catches nothing costs the team a penalty. The paper
leaves open what a step does in which order; here it is: captures where everyone stands, then the
moves of the other predators in their order, then those of the prey, each to a cell that is free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from pydantic import Field, model_validator

from kd_offline.environments.settings import parsed
from kd_offline.errors import UsageError
from kd_offline.schemas.bounds import Steps
from kd_offline.schemas.environment import EnvironmentSpec, FullObservation, Strict
from kd_offline.seeding import uniforms
from kd_offline.types import (
    Array,
    BoolArray,
    Float32Array,
    FloatArray,
    Int8Array,
    IntArray,
    Outcome,
    SeedArray,
    View,
)

NAME = "grid/predator_prey"
ACTIONS = ("stay", "up", "down", "left", "right", "capture")
CAPTURE = ACTIONS.index("capture")
_TOGETHER = 2


class PredatorPreySettings(Strict):
    """Settings of the task; the defaults are the paper's, where it states them."""

    size: int = Field(default=10, ge=2, le=100, description="cells along a side of the board")
    n_predators: int = Field(default=8, ge=2, le=1000)
    n_prey: int = Field(default=8, ge=1, le=1000)
    view: int = Field(default=5, ge=1, le=199, description="cells along a side of the window, odd")
    capture_reward: float = Field(default=10.0, description="of the team, for every prey")
    lone_penalty: float = Field(default=2.0, ge=0, description="of the team, for every such try")
    capturers_leave: bool = Field(
        default=True, description="whether predators leave the board with the prey they caught"
    )
    episode_limit: Steps = 200

    @model_validator(mode="after")
    def _fits(self) -> PredatorPreySettings:
        if self.view % 2 == 0:
            msg = f"view must be odd, so that a predator stands in the middle, got {self.view}"
            raise ValueError(msg)
        if self.n_predators + self.n_prey > self.size**2:
            msg = f"{self.n_predators + self.n_prey} do not fit on {self.size} x {self.size} cells"
            raise ValueError(msg)
        return self


def load(**settings: Any) -> PredatorPrey:
    """Return ``grid/predator_prey``."""
    return PredatorPrey(parsed(NAME, PredatorPreySettings, settings))


class PredatorPrey:
    """A batch of boards; see :class:`~kd_offline.environments.protocol.BatchedEnvironment`."""

    def __init__(self, settings: PredatorPreySettings) -> None:
        self._settings = settings
        self._spec = _spec(settings)
        self._start(0)

    @property
    def spec(self) -> EnvironmentSpec:
        """Static description: names, widths, blocks, sides."""
        return self._spec

    @property
    def full(self) -> FullObservation | None:
        """A window that shows the whole board from every cell; None where ``view`` does."""
        n, whole = self._spec.n_agents, self._whole
        if self._settings.view >= whole:
            return None
        return FullObservation(
            widths=(3 * whole**2 + 2,) * n, blocks=dict.fromkeys(self._spec.agents, _blocks(whole))
        )

    def full_observations(self) -> Float32Array:
        """Return observations through that window: float32 [B, N, F]."""
        return self._obs(self._whole)

    def reset(self, seeds: SeedArray) -> View:
        """Start ``B = len(seeds)`` episodes; see ``BatchedEnvironment.reset``."""
        self._start(len(seeds))
        return self.reset_where(np.ones(len(seeds), bool), seeds)

    def reset_where(self, where: BoolArray, seeds: SeedArray) -> View:
        """Restart the slots ``where``; see ``BatchedEnvironment.reset_where``."""
        s, new = self._settings, np.asarray(seeds)[where]
        self._board.place(where, uniforms(new, 0, (s.size**2,), NAME, "cells"))
        self._seeds[where] = new
        self._steps[where] = 0
        self._caught[where] = 0
        return self._view()

    def step(self, actions: IntArray) -> Outcome:
        """Apply ``actions`` int [B, N]; see ``BatchedEnvironment.step``."""
        board, running = self._board, ~(self._terminated | self._truncated)
        chosen = self._checked(actions, running)
        acting = board.predators_alive & running[:, None]
        reward = self._capture(acting & (chosen == CAPTURE))
        board.move_predators(np.where(acting, chosen % CAPTURE, 0))
        board.move_prey(np.where(running[:, None], self._wander(), 0))
        self._steps += running
        return Outcome(
            view=self._view(),
            reward=np.repeat(reward[:, None], self._spec.n_agents, 1).astype(np.float32),
            terminated=self._terminated,
            truncated=self._truncated,
            won=self._won(),
        )

    def close(self) -> None:
        """Do nothing."""

    def _start(self, batch: int) -> None:
        s = self._settings
        self._board = Board.empty(batch, s.size, s.n_predators, s.n_prey)
        self._seeds: SeedArray = np.zeros(batch, np.uint64)
        self._steps: IntArray = np.zeros(batch, np.int64)
        self._caught: IntArray = np.zeros(batch, np.int64)

    @property
    def _terminated(self) -> BoolArray:
        """Nothing can be caught any more."""
        pairs = self._board.predators_alive.sum(-1) >= _TOGETHER
        return np.asarray(~self._board.prey_alive.any(-1) | ~pairs)

    @property
    def _truncated(self) -> BoolArray:
        return (self._steps >= self._settings.episode_limit) & ~self._terminated

    def _wander(self) -> IntArray:
        """Return the cell that each prey tries to move to: int [B, Q]."""
        shape = (self._settings.n_prey,)
        draws = uniforms(self._seeds, self._steps, shape, NAME, "prey")
        return np.asarray(draws * CAPTURE, np.int64)

    def _won(self) -> Int8Array:
        """Return 1 where as many prey were caught as pairs of predators can catch."""
        s = self._settings
        most = min(s.n_prey, s.n_predators // _TOGETHER) if s.capturers_leave else s.n_prey
        return (self._caught >= most).astype(np.int8)

    def _capture(self, tries: BoolArray) -> Float32Array:
        """Remove caught prey (and their capturers) from the board; return the rewards [B]."""
        s, board = self._settings, self._board
        beside = board.beside() & tries[..., None]
        caught = beside.sum(1) >= _TOGETHER
        took_part = (beside & caught[:, None]).any(-1)
        lone = (tries & ~took_part).sum(-1)
        board.remove(took_part & s.capturers_leave, caught)
        self._caught += caught.sum(-1)
        reward = s.capture_reward * caught.sum(-1) - s.lone_penalty * lone
        return np.asarray(reward, np.float32)

    def _checked(self, actions: IntArray, running: BoolArray) -> IntArray:
        chosen = np.asarray(actions, np.int64)
        expected = (len(running), self._spec.n_agents)
        if chosen.shape != expected:
            msg = f"actions have shape {chosen.shape}, expected {expected} as [slots, agents]"
            raise UsageError(msg)
        acting = self._board.predators_alive & running[:, None]
        wrong = acting & ((chosen < 0) | (chosen >= len(ACTIONS)))
        if wrong.any():
            slot, agent = np.argwhere(wrong)[0]
            msg = (
                f"action {chosen[slot, agent]} of agent {self._spec.agents[agent]!r} does not "
                f"exist: choose 0 to {len(ACTIONS) - 1}"
            )
            raise UsageError(msg)
        return np.where(acting, chosen, 0)

    @property
    def _whole(self) -> int:
        """Cells along a side of a window that shows the whole board."""
        return 2 * self._settings.size - 1

    def _obs(self, view: int) -> Float32Array:
        """Return what predators see through windows of ``view`` x ``view`` cells: [B, N, O]."""
        board, cells = self._board, view**2
        obs = np.empty((*board.predators.shape[:2], 3 * cells + 2), np.float32)
        for k, plane in enumerate(windows(board, view)):
            obs[..., k * cells : (k + 1) * cells] = plane
        obs[..., 3 * cells :] = board.predators / max(1, board.size - 1)
        obs[~board.predators_alive] = 0.0
        return obs

    def _view(self) -> View:
        board, s = self._board, self._settings
        alive = board.predators_alive.copy()
        legal = np.concatenate([board.inside(), board.beside().any(-1, keepdims=True)], -1)
        legal &= alive[..., None]
        clock = (self._steps / s.episode_limit)[:, None]
        state = np.concatenate([*(p.reshape(len(p), -1) for p in board.planes()), clock], -1)
        return View(self._obs(s.view), state.astype(np.float32), legal, alive)


def _blocks(view: int) -> dict[str, tuple[tuple[int, int], ...]]:
    """Return the blocks of what a predator sees through a window of ``view`` x ``view`` cells."""
    cells = view**2
    names = ("predators", "prey", "walls")
    planes = {name: ((k * cells, (k + 1) * cells),) for k, name in enumerate(names)}
    return {**planes, "own_position": ((3 * cells, 3 * cells + 2),)}


def _spec(settings: PredatorPreySettings) -> EnvironmentSpec:
    agents = tuple(f"predator_{i}" for i in range(settings.n_predators))
    n = len(agents)
    return EnvironmentSpec(
        id=NAME,
        version="1",
        kwargs=settings.model_dump(),
        agents=agents,
        obs_widths=(3 * settings.view**2 + 2,) * n,
        action_counts=(len(ACTIONS),) * n,
        action_names=(ACTIONS,) * n,
        episode_limit=settings.episode_limit,
        reward="team",
        sides={"predators": agents},
        state_width=2 * settings.size**2 + 1,
        state_is_obs=False,
        blocks=dict.fromkeys(agents, _blocks(settings.view)),
    )


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
        """Return boards without predators and prey."""
        return cls(
            size,
            np.zeros((batch, predators, 2), np.int64),
            np.zeros((batch, prey, 2), np.int64),
            np.zeros((batch, predators), bool),
            np.zeros((batch, prey), bool),
            np.zeros((batch, size, size), bool),
        )

    def place(self, where: BoolArray, draws: FloatArray) -> None:
        """Put the creatures of the boards ``where`` on distinct cells, by ``draws`` [b, cells]."""
        n, q = self.predators.shape[1], self.prey.shape[1]
        cells = np.argsort(draws, axis=-1, kind="stable")[:, : n + q]
        places = np.stack(np.divmod(cells, self.size), -1)
        self.predators[where], self.prey[where] = places[:, :n], places[:, n:]
        self.predators_alive[where] = self.prey_alive[where] = True
        taken = np.zeros((len(cells), self.size**2), bool)
        np.put_along_axis(taken, cells, True, axis=-1)
        self.taken[where] = taken.reshape(-1, self.size, self.size)

    def beside(self) -> BoolArray:
        """Return which prey is beside which predator, bool [B, N, Q]; diagonals do not count."""
        gap = np.abs(self.predators[:, :, None] - self.prey[:, None]).sum(-1)
        both = self.predators_alive[..., None] & self.prey_alive[:, None]
        return np.asarray((gap == 1) & both)

    def inside(self) -> BoolArray:
        """Return which steps stay on the board, bool [B, N, 5]."""
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
        """Return the cells of predators and of prey, 0 or 1 [B, size, size] each."""
        out = []
        for places, alive in (
            (self.predators, self.predators_alive),
            (self.prey, self.prey_alive),
        ):
            plane = np.zeros(self.taken.shape, np.float32)
            rows, which = np.nonzero(alive)
            plane[rows, *places[rows, which].T] = 1.0
            out.append(plane)
        return out[0], out[1]


def windows(board: Board, width: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return each predator's view of other predators, prey and cells outside the board.

    0 or 1, [B, N, width * width] each; a predator is in the middle of its window and does not see
    itself.
    """
    reach = width // 2
    predators, prey = board.planes()
    inside = np.zeros((1, board.size, board.size), np.float32)
    walls = np.pad(inside, _margin(reach), constant_values=1.0)
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
