"""SMAX: StarCraft-like combat of JaxMARL (Rutherford et al., 2024), against its heuristic enemy."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from threading import Lock
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_offline.environments.smax.settings import SmaxSettings
from kd_offline.errors import UnknownNameError, UsageError
from kd_offline.files import cache_folder
from kd_offline.schemas.environment import EnvironmentSpec, FullObservation
from kd_offline.types import Array, BoolArray, Float32Array, IntArray, Outcome, SeedArray, View

_MAPS = "jaxmarl.environments.smax.smax_env"
_GAMES = "jaxmarl.environments.smax.heuristic_enemy_smax_env"

STOP = 4
# Games in a chunk. On a processor 32 are about as fast as any larger number, and a chunk that is
# mostly padding, as of a single game, costs little; an accelerator wants many.
_CHUNK = {"cpu": 32}
_CHUNK_ELSEWHERE = 1024

_MOVES = ("north", "east", "south", "west", "stop")


class Engine:
    """One map with one choice of settings; may be shared between threads.

    A game is a row of words: its key and inner state, followed by its observation, a dictionary of
    ``obs`` [N, O], ``state`` [S], ``legal`` [N, A], ``alive`` [N], ``reward``, ``terminated``,
    ``truncated`` and ``won``.
    """

    def __init__(self, map_name: str, settings: SmaxSettings) -> None:
        self.game = make_game(map_name, settings)
        self.chunk = _CHUNK.get(jax.default_backend(), _CHUNK_ELSEWHERE)
        key = jax.ShapeDtypeStruct((2,), np.uint32)
        inner, seen = jax.eval_shape(self._begun, key)
        self._inner, self._seen = Layout.of(inner), Layout.of(seen)
        self.width = self._inner.width + self._seen.width
        self._reset = jax.jit(jax.vmap(lambda key: self._row(*self._begun(key))))
        self._step = jax.jit(jax.vmap(self._next))
        self._unveil = jax.jit(jax.vmap(self._everyone))
        self._lock = Lock()
        self._compiled: set[Callable[..., Any]] = set()

    def reset(self, keys: Array) -> Array:
        """Start games; ``keys``: uint32 [chunk, 2]. Returns uint32 [chunk, width]."""
        return self._called(self._reset, keys)

    def step(self, rows: Array, actions: IntArray) -> Array:
        """Play one step of games; ``rows``: uint32 [chunk, width], ``actions``: [chunk, N]."""
        return self._called(self._step, rows, actions.astype(np.int32))

    def seen(self, rows: Array) -> dict[str, Array]:
        """Return the observations of the games in ``rows`` [B, width], as new arrays [B, ...]."""
        observations: dict[str, Array] = self._seen.read(rows[:, self._inner.width :])
        return observations

    @property
    def units_shape(self) -> tuple[int, int, int]:
        """Agents, other units, and features of a unit."""
        game = self.game
        agents = len(game.agents)
        return agents, agents + int(game.num_enemies) - 1, len(game.unit_features)

    def units(self, rows: Array) -> Array:
        """Return the features of all other units of games, however far away they are.

        ``rows``: uint32 [chunk, width]. Returns float32 [chunk, N, units - 1, features], in the
        order of an observation; those of dead units, and of what dead agents see, are zero.
        """
        return self._called(self._unveil, rows)

    def _called(self, function: Callable[..., Any], *inputs: Array) -> Array:
        # NumPy in, NumPy out: JAX compiles again for what once was a Python number and now is not.
        if function in self._compiled:
            return np.asarray(function(*inputs))
        with self._lock:  # the first thread compiles, the others wait for it
            output = np.asarray(function(*inputs))
            self._compiled.add(function)
        return output

    def _row(self, inner: Tree, seen: Tree) -> Any:
        return jnp.concatenate([self._inner.pack(inner), self._seen.pack(seen)])

    def _begun(self, key: Any) -> tuple[Tree, Tree]:
        obs, game = self.game.reset(_stream(key, 0))
        return (key, game), {**self._view(obs, game), **_NOTHING}

    def _next(self, row: Any, actions: Any) -> Any:
        key, game = self._inner.unpack(row[: self._inner.width])
        chosen = dict(zip(self.game.agents, actions, strict=True))
        stream = _stream(key, game.state.step + 1)
        obs, game, rewards, done, _ = self.game.step_env(stream, game, chosen)
        view = self._view(obs, game)
        beaten = ~game.state.unit_alive[len(self.game.agents) :].any()
        lost = ~view["alive"].any()
        result = {
            "reward": rewards[self.game.agents[0]],
            "terminated": beaten | lost,
            "truncated": done["__all__"] & ~(beaten | lost),
            "won": beaten & ~lost,
        }
        return self._row((key, game), {**view, **result})

    def _everyone(self, row: Any) -> Any:
        _, game = self._inner.unpack(row[: self._inner.width])
        units = np.arange(game.state.unit_alive.shape[0])
        agents = units[: len(self.game.agents)]
        others = np.stack([np.delete(units, agent) for agent in agents])
        of_others = jax.vmap(self.game._observe_features, in_axes=(None, None, 0))
        seen = jax.vmap(of_others, in_axes=(None, 0, 0))(game.state, agents, others)
        alive = game.state.unit_alive[others] & game.state.unit_alive[agents][:, None]
        return jnp.where(alive[..., None], seen, 0.0)

    def _view(self, obs: dict[str, Any], game: Tree) -> dict[str, Any]:
        legal, agents = self.game.get_avail_actions(game), self.game.agents
        alive = game.state.unit_alive[: len(agents)]
        return {
            "obs": jnp.stack([obs[agent] for agent in agents]),
            "state": obs["world_state"],
            # The game lets a dead unit stop; here one that does not act has no action.
            "legal": jnp.stack([legal[agent] for agent in agents]).astype(bool) & alive[:, None],
            "alive": alive,
        }


_NOTHING = {
    "reward": np.float32(0),
    "terminated": np.False_,
    "truncated": np.False_,
    "won": np.False_,
}


@cache
def engine(map_name: str, settings: SmaxSettings) -> Engine:
    """Return the engine of a map; equal settings give the same object."""
    return Engine(map_name, settings)


def keys_of(seeds: SeedArray) -> Array:
    """Return ``jax.random.key_data(jax.random.key(seed))`` of each seed: uint32 [B, 2]."""
    halves = [seeds >> np.uint64(32), seeds & np.uint64(0xFFFFFFFF)]
    return np.stack(halves, -1).astype(np.uint32)


def chunks(where: BoolArray, size: int) -> list[tuple[IntArray, IntArray]]:
    """Return the indices that are True in ``where``, ``size`` at a time, plain and padded."""
    rows = np.flatnonzero(where)
    parts = [rows[first : first + size] for first in range(0, len(rows), size)]
    return [(part, np.resize(part, size)) for part in parts]


def _stream(key: Any, number: Any) -> Any:
    """Return stream ``number`` of a game: 0 for its start, ``k`` for its ``k``-th step."""
    return jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), number)


Tree = Any  # nested records of arrays


@dataclass(frozen=True, slots=True)
class Layout:
    """Positions of the arrays of a record in its row; ``tree`` has their shapes and types."""

    tree: Tree
    starts: tuple[int, ...]
    width: int

    @classmethod
    def of(cls, tree: Tree) -> Layout:
        """Return the layout of records like ``tree``, which holds arrays or their shapes."""
        sizes = [int(np.prod(leaf.shape, dtype=int)) for leaf in jax.tree.leaves(tree)]
        *starts, width = np.cumsum([0, *sizes]).tolist()
        return cls(tree, tuple(starts), width)

    def pack(self, record: Tree) -> Any:
        """Return one record as words, uint32 [width]; for compiled code."""
        return jnp.concatenate([_to_words(leaf) for leaf in jax.tree.leaves(record)])

    def unpack(self, words: Any) -> Tree:
        """Return the record in ``words`` [width]; for compiled code."""
        leaves, structure = jax.tree.flatten(self.tree)
        parts = [
            _from_words(words[start : start + int(np.prod(leaf.shape, dtype=int))], leaf)
            for start, leaf in zip(self.starts, leaves, strict=True)
        ]
        return jax.tree.unflatten(structure, parts)

    def read(self, rows: Array) -> Tree:
        """Return the records in ``rows``, uint32 [B, width], as new NumPy arrays [B, ...]."""
        leaves, structure = jax.tree.flatten(self.tree)
        parts = [
            _read(rows[:, start : start + int(np.prod(leaf.shape, dtype=int))], leaf)
            for start, leaf in zip(self.starts, leaves, strict=True)
        ]
        return jax.tree.unflatten(structure, parts)


def _to_words(leaf: Any) -> Any:
    kind = jnp.float32 if jnp.issubdtype(leaf.dtype, jnp.floating) else jnp.int32
    if leaf.dtype == jnp.uint32:
        return leaf.reshape(-1)
    return jax.lax.bitcast_convert_type(leaf.astype(kind), jnp.uint32).reshape(-1)


def _from_words(words: Any, like: Any) -> Any:
    words = words.reshape(like.shape)
    if like.dtype == jnp.uint32:
        return words
    kind = jnp.float32 if jnp.issubdtype(like.dtype, jnp.floating) else jnp.int32
    return jax.lax.bitcast_convert_type(words, kind).astype(like.dtype)


def _read(words: Array, like: Any) -> Array:
    kind = np.float32 if np.issubdtype(like.dtype, np.floating) else np.int32
    kept = kind if kind is np.float32 else like.dtype
    return np.array(words.view(kind), kept).reshape(len(words), *like.shape)


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


def make_game(map_name: str, settings: SmaxSettings) -> Any:
    """Return JaxMARL's game on a map, against its heuristic enemy.

    Raises
    ------
    UnknownNameError
        There is no such map.
    """
    with _silence():
        scenarios: dict[str, Any] = import_module(_MAPS).MAP_NAME_TO_SCENARIO
        games = import_module(_GAMES)
    if map_name not in scenarios:
        raise UnknownNameError(what="SMAX map", got=map_name, allowed=scenarios)
    _keep_compiled_code()
    return games.HeuristicEnemySMAX(scenario=scenarios[map_name], **settings.of_game())


def version() -> str:
    """Return the version of JaxMARL."""
    return metadata.version("jaxmarl")


@contextmanager
def _silence() -> Iterator[None]:
    """Swallow what is printed, and give both streams back as they were.

    JaxMARL prints about modules that its wheel leaves out, and while it is imported it points
    ``sys.stdout`` at ``sys.__stdout__`` for good, whatever it was before; the same with stderr.
    """
    before = sys.stdout, sys.__stdout__, sys.stderr, sys.__stderr__
    nowhere = io.StringIO()
    sys.stdout = sys.__stdout__ = nowhere  # type: ignore[misc,assignment]
    sys.__stderr__ = sys.stderr  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        sys.stdout, sys.__stdout__, sys.stderr, sys.__stderr__ = before  # type: ignore[misc]


def _keep_compiled_code() -> None:
    """Let JAX keep compiled maps in the user's cache, unless the user has chosen a place.

    Compiling a map takes 4 to 8 seconds, reading it back a tenth of that.
    """
    import jax

    root = cache_folder()
    if root is None or jax.config.jax_compilation_cache_dir is not None:
        return
    with suppress(OSError):
        (root / "jax").mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str((root / "jax").resolve()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
