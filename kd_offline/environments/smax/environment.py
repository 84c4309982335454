"""SMAX: StarCraft-like combat of JaxMARL (Rutherford et al., 2024), against its heuristic enemy."""

from __future__ import annotations

import math

import numpy as np

from kd_offline.environments.smax.engine import STOP, Engine, chunks, engine, keys_of
from kd_offline.environments.smax.library import version
from kd_offline.environments.smax.settings import SmaxSettings
from kd_offline.errors import UsageError
from kd_offline.schemas.environment import EnvironmentSpec, FullObservation
from kd_offline.types import Array, BoolArray, Float32Array, IntArray, Outcome, SeedArray, View

_MOVES = ("north", "east", "south", "west", "stop")


class Smax:
    """A batch of games; see :class:`~kd_offline.environments.protocol.BatchedEnvironment`.

    Only running games are computed. They are gathered into chunks, played, and written back into
    the rows of the whole batch; finished games stay unchanged.
    """

    def __init__(self, map_name: str, settings: SmaxSettings) -> None:
        self._engine = engine(map_name, settings)
        self._spec = _spec(map_name, settings, self._engine)

    @property
    def spec(self) -> EnvironmentSpec:
        """Static description: names, widths, blocks, sides."""
        return self._spec

    @property
    def full(self) -> FullObservation:
        """The layout of observations, which show units far away as well."""
        return FullObservation(widths=self._spec.obs_widths, blocks=self._spec.blocks)

    def full_observations(self) -> Float32Array:
        """Return observations without a limit of sight: float32 [B, N, O].

        Units in sight are the very numbers of the observation.
        """
        for slots, filled in chunks(self._moved, self._engine.chunk):
            self._units[slots] = self._engine.units(self._rows[filled])[: len(slots)]
        self._moved[:] = False
        full, others = self._seen["obs"].copy(), math.prod(self._units.shape[2:])
        in_sight = full[..., :others].reshape(self._units.shape)
        everyone = np.where(in_sight.any(-1, keepdims=True), in_sight, self._units)
        full[..., :others] = everyone.reshape(*full.shape[:2], others)
        return full

    def reset(self, seeds: SeedArray) -> View:
        """Start ``B = len(seeds)`` episodes; see ``BatchedEnvironment.reset``."""
        batch = len(seeds)
        self._rows: Array = np.zeros((batch, self._engine.width), np.uint32)
        self._units: Array = np.zeros((batch, *self._engine.units_shape), np.float32)
        self._moved = np.ones(batch, bool)  # games whose units are others than these
        return self.reset_where(np.ones(len(seeds), bool), seeds)

    def reset_where(self, where: BoolArray, seeds: SeedArray) -> View:
        """Restart the slots ``where``; see ``BatchedEnvironment.reset_where``."""
        keys = keys_of(np.asarray(seeds, np.uint64))
        for slots, filled in chunks(where, self._engine.chunk):
            self._rows[slots] = self._engine.reset(keys[filled])[: len(slots)]
        self._moved |= where
        return self._look()

    def step(self, actions: IntArray) -> Outcome:
        """Apply ``actions`` int [B, N]; see ``BatchedEnvironment.step``."""
        running = ~(self._seen["terminated"] | self._seen["truncated"])
        chosen = self._checked(actions, running)
        for slots, filled in chunks(running, self._engine.chunk):
            next_rows = self._engine.step(self._rows[filled], chosen[filled])
            self._rows[slots] = next_rows[: len(slots)]
        self._moved |= running
        view, seen = self._look(), self._seen
        paid = np.where(running, seen["reward"], np.float32(0))
        reward = np.repeat(paid[:, None], self._spec.n_agents, 1)
        ends = seen["terminated"].copy(), seen["truncated"].copy()
        return Outcome(view, reward, *ends, seen["won"].astype(np.int8))

    def close(self) -> None:
        """Nothing is held."""

    def _look(self) -> View:
        """Return the current view of the rows."""
        self._seen: dict[str, Array] = self._engine.seen(self._rows)
        seen = self._seen
        return View(seen["obs"], seen["state"], seen["legal"], seen["alive"].copy())

    def _checked(self, actions: IntArray, running: BoolArray) -> IntArray:
        chosen, alive = np.asarray(actions, np.int64), self._seen["alive"]
        if chosen.shape != alive.shape:
            msg = f"actions have shape {chosen.shape}, expected {alive.shape} as [slots, agents]"
            raise UsageError(msg)
        acting = alive & running[:, None]
        wrong = acting & ((chosen < 0) | (chosen >= self._spec.action_count))
        if wrong.any():
            slot, agent = np.argwhere(wrong)[0]
            msg = (
                f"action {chosen[slot, agent]} of agent {self._spec.agents[agent]!r} does not "
                f"exist: choose 0 to {self._spec.action_count - 1}"
            )
            raise UsageError(msg)
        return np.where(acting, chosen, STOP)


def _spec(map_name: str, settings: SmaxSettings, played: Engine) -> EnvironmentSpec:
    game = played.game
    agents = tuple(game.agents)
    n, enemies, unit = len(agents), int(game.num_enemies), len(game.unit_features)
    ends = np.cumsum([0, unit * (n - 1), unit * enemies, len(game.own_features)]).tolist()
    names = ("allies", "enemies", "own")
    ranges = zip(names, ends, ends[1:], strict=False)
    blocks = {name: ((start, stop),) for name, start, stop in ranges if stop > start}
    actions = (*_MOVES, *(f"attack_enemy_{i}" for i in range(enemies)))
    return EnvironmentSpec(
        id=f"smax/{map_name}",
        version=version(),
        kwargs=settings.model_dump(),
        agents=agents,
        obs_widths=(ends[-1],) * n,
        action_counts=(len(actions),) * n,
        action_names=(actions,) * n,
        episode_limit=settings.episode_limit,
        reward="team",
        sides={"allies": agents},
        state_width=int(game.state_size),
        state_is_obs=False,
        blocks=dict.fromkeys(agents, blocks),
    )
