"""The process of one game: it reads requests from its input and writes answers to its output.

Requests are pickled pairs (name of a method of :class:`Host`, arguments). Answers are pickled pairs
(whether it succeeded, result). The end of the input ends the game and the process.
"""

from __future__ import annotations

import importlib
import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np

from kd_offline.types import BoolArray, Float32Array
from kd_offline.user_code import described

FAR = 2.0**20
"""A power of two: multiplied by it, distances divided by it are the same bits as before."""

Snapshot = tuple[Float32Array, Float32Array, BoolArray]
"""Observations [N, O], state [S] and legal actions [N, A] of one game."""

Step = tuple[Snapshot, float, bool, bool, bool]
"""What a step brought: snapshot, reward, terminated, truncated, won."""


class Host:
    """One ``StarCraft2Env``, from the installed package ``smac.env``."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        make: Callable[..., Any] = importlib.import_module("smac.env").StarCraft2Env
        self._make, self._arguments = make, arguments
        self._env: Any = None
        self._finished = 0

    def describe(self) -> dict[str, Any]:
        """Return the environment's own description; starts no game."""
        env = self._make(**self._arguments)
        try:
            info = env.get_env_info()
        finally:
            env.close()
        return {key: v if isinstance(v, int) else str(v) for key, v in info.items()}

    def reset(self, seed: int, anew: bool) -> Snapshot:
        """Start an episode, in the game that is running or (``anew``) in one of its own.

        SMAC takes a seed for a whole game, never for an episode. Asked for an episode before the
        first one has ended, it would start a second game beside the first, which is left behind.
        """
        if self._env is None or anew or not self._finished:
            self.close()
            self._env = self._make(**self._arguments, seed=seed % 2**32)
            self._finished = 0
        self._env.reset()
        return self._snapshot()

    def step(self, actions: list[int]) -> Step:
        """Play one step; a game that broke down and was restarted by SMAC cuts the episode off."""
        reward, over, info = self._env.step(actions)
        broken = over and "battle_won" not in info
        cut = bool(over and (broken or info.get("episode_limit", False)))
        self._finished += bool(over)
        won = bool(info.get("battle_won", False))
        return self._snapshot(), float(reward), bool(over) and not cut, cut, won

    def full(self) -> Float32Array:
        """Return observations [N, O] with sight ranges ``FAR`` times as long.

        SMAC divides distances by the sight range, which only observations use.
        """
        env = self._env
        usual = env.unit_sight_range
        env.unit_sight_range = lambda agent: FAR * usual(agent)
        try:
            return np.asarray(env.get_obs(), np.float32)
        finally:
            del env.unit_sight_range  # the method of its class is found again

    def close(self) -> None:
        """End the game."""
        if self._env is not None:
            self._env.close()
            self._env = None

    def _snapshot(self) -> Snapshot:
        env = self._env
        return (
            np.asarray(env.get_obs(), np.float32),
            np.asarray(env.get_state(), np.float32),
            np.asarray(env.get_avail_actions(), bool),
        )


def main(arguments: dict[str, Any]) -> None:
    """Serve one game until the input ends; ``arguments`` are those of its constructor."""
    source, sink = _private_pipes()
    host: Host | None = None
    while (request := _next(source)) is not None:
        name, given = request
        try:
            host = host or Host(arguments)
            answer = (True, getattr(host, name)(*given))
        except BaseException as error:  # whatever the game's library raises
            answer = (False, described(error).rstrip("."))
        pickle.dump(answer, sink)
        sink.flush()
    if host is not None:
        with suppress(BaseException):
            host.close()


def _private_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Redirect what the game prints, so that it does not get between the answers."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return source, sink


def _next(source: BinaryIO) -> tuple[str, tuple[Any, ...]] | None:
    try:
        request: tuple[str, tuple[Any, ...]] = pickle.load(source)
    except EOFError:
        return None
    return request
