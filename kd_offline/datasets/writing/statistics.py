"""Statistics of a dataset, computed while its rows are read or written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kd_offline.schemas.dataset import Spread, Statistics
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.types import Array

_LARGE = 1e18  # 18 times this, squared, is the largest float32


@dataclass(slots=True)
class Moments:
    """Running count, mean, variance and range of finite numbers, in float64."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0  # sum of squared deviations from the mean
    low: float = math.inf
    high: float = -math.inf

    def add(self, values: Array) -> None:
        """Add all entries of ``values``, by the pairwise update of Chan et al. (1979)."""
        if values.size == 0:
            return
        size = values.size
        low, high = float(values.min()), float(values.max())
        mean = float(values.mean(dtype=np.float64))
        flat = values.reshape(-1)
        if max(high - mean, mean - low) > _LARGE:  # its square would be infinite
            flat = flat.astype(np.float64)
        # Squares around a nearby float32 constant need no float64 copy of the chunk.
        shifted = flat - flat.dtype.type(mean)
        offset = mean - float(flat.dtype.type(mean))
        np.square(shifted, out=shifted)
        squares = float(shifted.sum(dtype=np.float64)) - size * offset * offset
        total = self.count + size
        gap = mean - self.mean
        self.squares += max(squares, 0.0) + gap * gap * self.count * size / total
        self.mean += gap * size / total
        self.count = total
        self.low, self.high = min(self.low, low), max(self.high, high)

    def spread(self) -> Spread:
        """Return mean, standard deviation and range."""
        std = math.sqrt(self.squares / self.count)
        return Spread(mean=self.mean, std=std, min=self.low, max=self.high)


def spread(values: Array) -> Spread:
    """Return mean, population standard deviation and range of a non-empty array."""
    exact = np.asarray(values, dtype=np.float64)
    return Spread(
        mean=float(exact.mean()),
        std=float(exact.std()),
        min=float(exact.min()),
        max=float(exact.max()),
    )


def side_returns(spec: EnvironmentSpec, agent_return: Array) -> dict[str, Spread]:
    """Return side -> statistics of its returns, the sums over its agents of float64 [E, N].

    Empty if there is one side. With several, a sum over all agents has little meaning, because
    each side has rewards of its own.
    """
    if len(spec.sides) == 1:
        return {}
    owner = np.array(spec.side_of)
    return {
        side: spread(agent_return[:, owner == k].sum(axis=1)) for k, side in enumerate(spec.sides)
    }


def count_actions(actions: Array, alive: Array, width: int) -> Array:
    """Return how often each agent executed each action while alive, int64 [N, A]."""
    n_agents = actions.shape[1]
    legal = alive & (actions >= 0) & (actions < width)
    cell = actions.astype(np.int64) + np.arange(n_agents) * width
    return np.bincount(cell[legal], minlength=n_agents * width).reshape(n_agents, width)


def episode_returns(reward: Array, lengths: Array) -> Array:
    """Return the sum of rewards of each agent and episode, float64 [E, N]; ``reward``: [R, N]."""
    starts = np.cumsum(lengths) - lengths
    return np.add.reduceat(reward.astype(np.float64), starts, axis=0)


def summarise(
    episodes: Mapping[str, Array], action_counts: Array, values: Mapping[str, Moments]
) -> Statistics:
    """Return the manifest's statistics from the episode table (bare names) and running totals."""
    won = episodes.get("won")
    known = won[won >= 0] if won is not None else np.zeros(0)
    return Statistics(
        episodes=len(episodes["length"]),
        steps=int(episodes["length"].sum()),
        length=spread(episodes["length"]),
        returns=spread(episodes["return"]),
        agent_returns=tuple(spread(column) for column in episodes["agent_return"].T),
        won=float((known > 0).mean()) if known.size else None,
        action_counts=tuple(tuple(map(int, row)) for row in action_counts),
        values={name: moments.spread() for name, moments in sorted(values.items())},
    )
