"""A map compiled once: reset and step of a fixed number of games at a time.

XLA rounds differently for different batch sizes, so every batch is played in chunks of one size:
an episode then has the same bits in any batch. The size is fixed for another reason as well: a map
is compiled once, whatever batches are asked for.
"""

from __future__ import annotations

from collections.abc import Callable
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

Tree = Any  # nested records of arrays whose first axis counts games


class Engine:
    """One map under one choice of settings; may be shared between threads.

    Everything that goes in and comes out is NumPy, so that compiled code always sees the same
    types: JAX compiles again for a value that once was a Python number and now is an array.
    """

    def __init__(self, map_name: str, settings: SmaxSettings) -> None:
        self.game = make_game(map_name, settings)
        self.chunk = _CHUNK.get(jax.default_backend(), _CHUNK_ELSEWHERE)
        self._begin = jax.jit(jax.vmap(self._one_reset))
        self._advance = jax.jit(jax.vmap(self._one_step))
        self._lock = Lock()
        self._compiled: set[Callable[..., Any]] = set()

    def reset(self, keys: Array) -> tuple[Tree, dict[str, Array]]:
        """Begin ``chunk`` games; ``keys``: uint32 [chunk, 2].

        Returns the games and what is seen: obs, state, legal and alive.
        """
        games, seen = self._called(self._begin, keys)
        return games, seen

    def step(
        self, keys: Array, games: Tree, clock: IntArray, actions: IntArray
    ) -> tuple[Tree, dict[str, Array]]:
        """Play one step; ``clock``: [chunk] steps played so far, ``actions``: [chunk, N].

        Returns the games and what is seen, with reward, terminated, truncated and won.
        """
        steps, chosen = clock.astype(np.int32), actions.astype(np.int32)
        games, seen = self._called(self._advance, keys, games, steps, chosen)
        return games, seen

    def _called(self, function: Callable[..., Any], *inputs: Tree) -> Any:
        if function in self._compiled:
            return jax.tree.map(np.asarray, function(*inputs))
        with self._lock:  # the first thread compiles, the others wait for it
            outputs = jax.tree.map(np.asarray, function(*inputs))
            self._compiled.add(function)
        return outputs

    def _one_reset(self, key: Tree) -> tuple[Tree, dict[str, Any]]:
        obs, game = self.game.reset(_stream(key, 0))
        return game, self._seen(obs, game)

    def _one_step(
        self, key: Tree, game: Tree, clock: Tree, actions: Tree
    ) -> tuple[Tree, dict[str, Any]]:
        chosen = dict(zip(self.game.agents, actions, strict=True))
        obs, game, rewards, done, _ = self.game.step_env(_stream(key, clock + 1), game, chosen)
        seen = self._seen(obs, game)
        enemies = game.state.unit_alive[len(self.game.agents) :]
        beaten, lost = ~enemies.any(), ~seen["alive"].any()
        result = {
            "reward": rewards[self.game.agents[0]],
            "terminated": beaten | lost,
            "truncated": done["__all__"] & ~(beaten | lost),
            "won": beaten & ~lost,
        }
        return game, seen | result

    def _seen(self, obs: dict[str, Any], game: Tree) -> dict[str, Any]:
        legal, agents = self.game.get_avail_actions(game), self.game.agents
        alive = game.state.unit_alive[: len(agents)]
        return {
            "obs": jnp.stack([obs[agent] for agent in agents]),
            "state": obs["world_state"],
            # The game lets a dead unit stop; here one that does not act has no action.
            "legal": jnp.stack([legal[agent] for agent in agents]).astype(bool) & alive[:, None],
            "alive": alive,
        }


@cache
def engine(map_name: str, settings: SmaxSettings) -> Engine:
    """Return the engine of a map, the same one for equal settings."""
    return Engine(map_name, settings)


def keys_of(seeds: SeedArray) -> Array:
    """Return what ``jax.random.key_data(jax.random.key(seed))`` gives: uint32 [B, 2]."""
    halves = [seeds >> np.uint64(32), seeds & np.uint64(0xFFFFFFFF)]
    return np.stack(halves, -1).astype(np.uint32)


def chunks(where: BoolArray, size: int) -> list[tuple[IntArray, IntArray]]:
    """Return the indices that are True in ``where``, ``size`` at a time, alone and filled up."""
    rows = np.flatnonzero(where)
    parts = [rows[first : first + size] for first in range(0, len(rows), size)]
    return [(part, np.resize(part, size)) for part in parts]


def _stream(key: Tree, number: Tree) -> Tree:
    """Return stream ``number`` of a game: 0 for its start, ``k`` for its ``k``-th step."""
    return jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), number)
