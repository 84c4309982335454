"""SMAX: StarCraft-like combat of JaxMARL (Rutherford et al., 2024), against its heuristic enemy."""

from __future__ import annotations

import jax
import numpy as np

from kd_offline.environments.smax.engine import STOP, Engine, Tree, chunks, engine, keys_of
from kd_offline.environments.smax.library import version
from kd_offline.environments.smax.settings import SmaxSettings
from kd_offline.errors import UsageError
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.types import Array, BoolArray, Int8Array, IntArray, Outcome, SeedArray, View

_MOVES = ("north", "east", "south", "west", "stop")


class Smax:
    """A batch of games; see :class:`~kd_offline.environments.protocol.BatchedEnvironment`.

    Only games that still run are computed. They are gathered into chunks, played, and written back
    into the arrays of the whole batch, where finished games simply stay as they were.
    """

    def __init__(self, map_name: str, settings: SmaxSettings) -> None:
        self._engine = engine(map_name, settings)
        self._spec = _spec(map_name, settings, self._engine)

    @property
    def spec(self) -> EnvironmentSpec:
        """Static description: names, widths, blocks, sides."""
        return self._spec

    def reset(self, seeds: SeedArray) -> View:
        """Start ``B = len(seeds)`` episodes; see ``BatchedEnvironment.reset``."""
        games, seen = self._engine.reset(keys_of(np.zeros(self._engine.chunk, np.uint64)))
        batch = len(seeds)
        self._games: Tree = jax.tree.map(lambda leaf: _room(leaf, batch), games)
        self._seen: dict[str, Array] = {name: _room(leaf, batch) for name, leaf in seen.items()}
        self._keys: Array = np.zeros((batch, 2), np.uint32)
        self._clock: IntArray = np.zeros(batch, np.int64)
        self._terminated: BoolArray = np.zeros(batch, bool)
        self._truncated: BoolArray = np.zeros(batch, bool)
        self._won: Int8Array = np.zeros(batch, np.int8)
        return self.reset_where(np.ones(batch, bool), seeds)

    def reset_where(self, where: BoolArray, seeds: SeedArray) -> View:
        """Restart the slots ``where``; see ``BatchedEnvironment.reset_where``."""
        self._keys[where] = keys_of(np.asarray(seeds, np.uint64)[where])
        for array in (self._clock, self._terminated, self._truncated, self._won):
            array[where] = 0
        for rows, filled in chunks(where, self._engine.chunk):
            games, seen = self._engine.reset(self._keys[filled])
            self._keep(rows, games, seen)
        return self._view()

    def step(self, actions: IntArray) -> Outcome:
        """Apply ``actions`` int [B, N]; see ``BatchedEnvironment.step``."""
        running = ~(self._terminated | self._truncated)
        chosen = self._checked(actions, running)
        reward = np.zeros(chosen.shape, np.float32)
        for rows, filled in chunks(running, self._engine.chunk):
            before = jax.tree.map(lambda leaf, at=filled: leaf[at], self._games)
            games, after = self._engine.step(
                self._keys[filled], before, self._clock[filled], chosen[filled]
            )
            self._keep(rows, games, after)
            reward[rows] = after["reward"][: len(rows), None]
            for name in ("terminated", "truncated", "won"):
                getattr(self, f"_{name}")[rows] = after[name][: len(rows)]
        self._clock += running
        ends = self._terminated.copy(), self._truncated.copy(), self._won.copy()
        return Outcome(self._view(), reward, *ends)

    def close(self) -> None:
        """Nothing is held."""

    def _keep(self, rows: IntArray, games: Tree, seen: dict[str, Array]) -> None:
        """Write the games that are not padding back to their slots."""
        for mine, new in zip(jax.tree.leaves(self._games), jax.tree.leaves(games), strict=True):
            mine[rows] = new[: len(rows)]
        for name, mine in self._seen.items():
            mine[rows] = seen[name][: len(rows)]

    def _view(self) -> View:
        seen = {name: array.copy() for name, array in self._seen.items()}
        return View(seen["obs"], seen["state"], seen["legal"], seen["alive"])

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


def _room(leaf: Array, batch: int) -> Array:
    """Return zeros for ``batch`` games of a ``leaf`` [chunk, ...]; floats are float32."""
    kind = np.float32 if np.issubdtype(leaf.dtype, np.floating) else leaf.dtype
    return np.zeros((batch, *leaf.shape[1:]), kind)


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
