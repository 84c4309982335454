"""One batched environment for every particle scenario."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kd_offline.environments.particle.world import Layout, World
from kd_offline.errors import UsageError
from kd_offline.schemas.environment import EnvironmentSpec, FullObservation
from kd_offline.types import (
    BoolArray,
    Float32Array,
    FloatArray,
    IntArray,
    Outcome,
    SeedArray,
    View,
)

# The release whose dynamics and seeds these environments repeat.
ORACLE_VERSION = "1.1.1"


class Scenario(Protocol):
    """The parts of a particle task that differ between tasks."""

    @property
    def spec(self) -> EnvironmentSpec:
        """Static description."""
        ...

    @property
    def layout(self) -> Layout:
        """The entities of the world."""
        ...

    def act(self, world: World, actions: IntArray) -> FloatArray:
        """Return forces [2, N, B] for ``actions`` int [B, N]; may speak into ``world.message``."""
        ...

    def reward(self, world: World) -> FloatArray:
        """Return each agent's reward [N, B] in the state just reached."""
        ...

    def observe(self, world: World, out: FloatArray) -> None:
        """Write observations into ``out`` [B, N, O], which holds zeros."""
        ...

    def hidden(self, world: World) -> Sequence[Mapping[str, FloatArray]]:
        """Return the features that each agent does not see: name of a block -> [B, width]."""
        ...


class ParticleEnvironment:
    """A batch of particle worlds; equal to ``mpe2`` step for step and seed for seed.

    Parameters
    ----------
    scenario
        The task.
    dtype
        ``float64`` repeats ``mpe2`` to the last bit of its float32 observations; ``float32``
        follows it to about 1e-5. Views are float32 either way.
    """

    def __init__(self, scenario: Scenario, dtype: npt.DTypeLike = np.float64) -> None:
        self._scenario = scenario
        self._dtype = np.dtype(dtype)
        spec = self._spec = scenario.spec
        self._counts = np.array(spec.action_counts, dtype=np.uint64)
        self._legal = np.arange(spec.action_count) < np.array(spec.action_counts)[:, None]
        self._ragged = len(set(spec.obs_widths)) > 1
        self._real = np.arange(spec.obs_width) < np.array(spec.obs_widths)[:, None]
        self.exact_reward: FloatArray
        self._start(0)
        self.full = _full(spec, scenario.hidden(self._world))
        """An observation, followed by what it does not show; None where it shows everything."""

    @property
    def spec(self) -> EnvironmentSpec:
        """Static description: names, widths, blocks, sides."""
        return self._spec

    def reset(self, seeds: SeedArray) -> View:
        """Start ``B = len(seeds)`` episodes; see ``BatchedEnvironment.reset``."""
        self._start(len(seeds))
        return self.reset_where(np.ones(len(seeds), bool), seeds)

    def reset_where(self, where: BoolArray, seeds: SeedArray) -> View:
        """Restart the slots ``where``; see ``BatchedEnvironment.reset_where``."""
        batch = len(self._steps)
        if np.shape(where) != (batch,) or np.shape(seeds) != (batch,):
            msg = (
                f"reset_where got where {np.shape(where)} and seeds {np.shape(seeds)}, "
                f"but both must be ({batch},), one entry for each slot: call reset first "
                "to change the number of slots"
            )
            raise UsageError(msg)
        where = np.asarray(where, bool)
        self._world.place(where, *_initial(self._scenario.layout, np.asarray(seeds)[where]))
        self._steps[where] = 0
        self._refresh_ends()
        return self._view()

    def step(self, actions: IntArray) -> Outcome:
        """Apply ``actions`` int [B, N]; see ``BatchedEnvironment.step``."""
        chosen = self._checked(actions)
        frozen = self._ended if self._any_ended else None
        message = self._world.message
        thrust = self._scenario.act(self._world, chosen)
        if frozen is not None:
            self._world.message = np.where(frozen, message, self._world.message)
        self._world.advance(thrust, frozen)
        self._steps += 1 if frozen is None else ~frozen
        self.exact_reward = self._scenario.reward(self._world).T
        reward: Float32Array = np.ascontiguousarray(self.exact_reward, np.float32)
        if frozen is not None:
            reward[frozen] = 0.0
        self._refresh_ends()
        batch = len(self._steps)
        return Outcome(
            view=self._view(),
            reward=reward,
            terminated=np.zeros(batch, bool),
            truncated=self._ended.copy(),
            won=np.full(batch, -1, np.int8),
        )

    def close(self) -> None:
        """Nothing is held."""

    def full_observations(self) -> Float32Array:
        """Return each observation followed by what it does not show: float32 [B, N, F]."""
        spec, full = self._spec, self.full
        width = spec.obs_width if full is None else full.width
        out = np.zeros((len(self._steps), spec.n_agents, width), np.float32)
        out[..., : spec.obs_width] = self._observe(np.float32)
        for i, (start, parts) in enumerate(
            zip(spec.obs_widths, self._scenario.hidden(self._world), strict=True)
        ):
            if parts:
                values = np.concatenate(list(parts.values()), axis=1)
                out[:, i, start : start + values.shape[1]] = values
        return out

    def exact_observation(self) -> FloatArray:
        """Return the observations [B, N, O] in the precision of the world."""
        return self._observe(self._dtype)

    def _start(self, batch: int) -> None:
        self._world = World(self._scenario.layout, batch, self._dtype)
        self._steps: IntArray = np.zeros(batch, np.int64)
        self.exact_reward = np.zeros((batch, self._spec.n_agents), self._dtype)
        self._refresh_ends()

    def _refresh_ends(self) -> None:
        self._ended: BoolArray = self._steps >= self._spec.episode_limit
        self._any_ended = bool(self._ended.any())

    def _checked(self, actions: IntArray) -> IntArray:
        chosen = np.ascontiguousarray(actions, np.int64)
        expected = (len(self._steps), self._spec.n_agents)
        if chosen.shape != expected:
            msg = f"actions have shape {chosen.shape}, expected {expected} as [slots, agents]"
            raise UsageError(msg)
        # Seen as unsigned, a negative action is a huge one: a single comparison finds both.
        wrong = chosen.view(np.uint64) >= self._counts
        if wrong.any() and (wrong := wrong & ~self._ended[:, None]).any():
            slot, agent = np.argwhere(wrong)[0]
            msg = (
                f"action {chosen[slot, agent]} of agent {self._spec.agents[agent]!r} does not "
                f"exist: choose 0 to {self._spec.action_counts[agent] - 1}"
            )
            raise UsageError(msg)
        return np.where(self._ended[:, None], 0, chosen) if self._any_ended else chosen

    def _observe(self, dtype: npt.DTypeLike) -> FloatArray:
        spec = self._spec
        out: FloatArray = np.zeros((len(self._steps), spec.n_agents, spec.obs_width), dtype)
        self._scenario.observe(self._world, out)
        return out

    def _view(self) -> View:
        obs: Float32Array = self._observe(np.float32).astype(np.float32, copy=False)
        batch, agents = obs.shape[:2]
        state = obs[:, self._real] if self._ragged else obs.reshape(batch, self._spec.state_width)
        return View(
            obs=obs,
            state=state,
            available_actions=np.tile(self._legal, (batch, 1, 1)),
            alive=np.ones((batch, agents), bool),
        )


def _full(
    spec: EnvironmentSpec, hidden: Sequence[Mapping[str, FloatArray]]
) -> FullObservation | None:
    """Return the description of observations that are followed by ``hidden`` blocks."""
    if not any(hidden):
        return None
    widths, blocks = [], {}
    for agent, end, parts in zip(spec.agents, spec.obs_widths, hidden, strict=True):
        blocks[agent] = dict(spec.blocks[agent])
        for name, values in parts.items():
            blocks[agent][name] = ((end, end + values.shape[1]),)
            end += values.shape[1]
        widths.append(end)
    return FullObservation(widths=tuple(widths), blocks=blocks)


def _initial(layout: Layout, seeds: SeedArray) -> tuple[FloatArray, IntArray]:
    """Draw starting places in [0, 1) [B, N + L, 2] and goals int [B], as ``mpe2`` does.

    ``mpe2`` draws the goal, then each entity's place in order, from ``PCG64(seed)``; uniform
    numbers come one after another from the stream, so one call gives the same ones.
    """
    places = np.empty((len(seeds), layout.n_agents + layout.n_landmarks, 2))
    goals = np.zeros(len(seeds), np.int64)
    for row, seed in enumerate(seeds.tolist()):
        stream = np.random.Generator(np.random.PCG64(seed))
        if layout.n_goals:
            goals[row] = stream.integers(layout.n_goals)
        stream.random(out=places[row])
    return places, goals
