"""A compiled SMAX map: reset and step of a fixed number of games at a time.

XLA rounds differently for different batch sizes, so every batch is played in chunks of one size.
Episodes then have the same bits in any batch, and a map is compiled only once. Arrays are passed
between a batch and compiled code as one array of packed records.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_offline.environments.smax.library import make_game
from kd_offline.environments.smax.settings import SmaxSettings
from kd_offline.types import Array, BoolArray, IntArray, SeedArray

STOP = 4
# Games in a chunk. On a processor 32 are about as fast as any larger number, and a chunk that is
# mostly padding, as of a single game, costs little; an accelerator wants many.
_CHUNK = {"cpu": 32}
_CHUNK_ELSEWHERE = 1024


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
    """Return what ``jax.random.key_data(jax.random.key(seed))`` gives: uint32 [B, 2]."""
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
