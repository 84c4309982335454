"""Counters over the steps of a dataset, given in reverse order, the last rows first.

In reverse order the return-to-go of a row is known when the row is added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from kd_offline.datasets.format.layout import ACTION_SOURCES
from kd_offline.distributions.base import Played
from kd_offline.types import Array, BoolArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of the steps: arrays by bare name, and their episodes and times.

    ``episode``: int64 [r]; ``time_bin``: int64 [r]; ``last``: bool [r], whether the row is the last
    of its episode.
    """

    arrays: Mapping[str, Array]
    episode: IntArray
    time_bin: IntArray
    last: BoolArray

    @property
    def alive(self) -> BoolArray:
        """Which agents act, bool [r, N]."""
        return self.arrays["alive"]


@dataclass(slots=True)
class Actions:
    """How often each agent took each action, by time, and how often it was legal."""

    time_bins: int
    agents: int
    actions: int
    taken: IntArray = field(init=False)  # [time_bins, N, A]
    alive: IntArray = field(init=False)  # [time_bins, N]
    legal: IntArray = field(init=False)  # [N, A]

    def __post_init__(self) -> None:
        self.taken = np.zeros((self.time_bins, self.agents, self.actions), np.int64)
        self.alive = np.zeros((self.time_bins, self.agents), np.int64)
        self.legal = np.zeros((self.agents, self.actions), np.int64)

    def add(self, rows: Rows) -> None:
        """Add some rows."""
        alive, chosen = rows.alive, rows.arrays["actions"].astype(np.int64)
        time_agent = _time_agent_index(rows, self.agents)
        known = alive & (chosen >= 0) & (chosen < self.actions)
        cell = (time_agent * self.actions + chosen)[known]
        self.taken += np.bincount(cell, minlength=self.taken.size).reshape(self.taken.shape)
        self.alive += np.bincount(time_agent[alive], minlength=self.alive.size).reshape(
            self.alive.shape
        )
        self.legal += (rows.arrays["available_actions"] & alive[..., None]).sum(axis=0)

    def frequency(self) -> FloatArray:
        """Return the share of each action, float64 [time_bins, N, A]; zero without actions."""
        return np.asarray(self.taken / np.maximum(self.taken.sum(axis=-1, keepdims=True), 1))

    def legal_rate(self) -> FloatArray:
        """Return how often each action was legal, float64 [N, A]."""
        return np.asarray(self.legal / np.maximum(self.alive.sum(axis=0), 1)[:, None])


@dataclass(slots=True)
class Entropy:
    """Entropy of the expert's policy over its legal actions, in nats, by time."""

    actions: type[Played]
    time_bins: int
    agents: int
    total: FloatArray = field(init=False)  # [time_bins, N]
    count: IntArray = field(init=False)

    def __post_init__(self) -> None:
        self.total = np.zeros((self.time_bins, self.agents))
        self.count = np.zeros((self.time_bins, self.agents), np.int64)

    def add(self, rows: Rows) -> None:
        """Add some rows."""
        policy = self.actions(rows.arrays["logits"], rows.arrays["available_actions"])
        alive, time_agent = rows.alive, _time_agent_index(rows, self.agents)
        size, shape = self.total.size, self.total.shape
        sums = np.bincount(time_agent[alive], policy.entropy()[alive], minlength=size)
        self.total += sums.reshape(shape)
        self.count += np.bincount(time_agent[alive], minlength=size).reshape(shape)

    def mean(self) -> FloatArray:
        """Return the mean entropy, float64 [time_bins, N]; NaN without actions."""
        return _masked_mean(self.total, self.count)


@dataclass(slots=True)
class Similarity:
    """Mean cosine of the embeddings of two agents in the same step."""

    agents: int
    total: FloatArray = field(init=False)  # [N, N]
    count: IntArray = field(init=False)

    def __post_init__(self) -> None:
        self.total = np.zeros((self.agents, self.agents))
        self.count = np.zeros((self.agents, self.agents), np.int64)

    def add(self, rows: Rows) -> None:
        """Add some rows; an embedding of zeros has a cosine of zero."""
        vectors = rows.arrays["embedding"].astype(np.float32)
        lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
        vectors /= np.maximum(lengths, np.finfo(np.float32).tiny)
        vectors *= rows.alive[..., None]
        alive = rows.alive.astype(np.int64)
        self.total += np.matmul(vectors, vectors.transpose(0, 2, 1)).sum(axis=0, dtype=np.float64)
        self.count += alive.T @ alive

    def mean(self) -> FloatArray:
        """Return the matrix, float64 [N, N]; NaN for agents that never act together."""
        return _masked_mean(self.total, self.count)


@dataclass(slots=True)
class Sources:
    """How often the expert, noise or another policy chose each agent's actions."""

    agents: int
    counts: IntArray = field(init=False)  # [N, 3]

    def __post_init__(self) -> None:
        self.counts = np.zeros((self.agents, len(ACTION_SOURCES)), np.int64)

    def add(self, rows: Rows) -> None:
        """Add some rows."""
        source, kinds = rows.arrays["action_source"].astype(np.int64), len(ACTION_SOURCES)
        known = rows.alive & (source < kinds)
        cell = (np.arange(self.agents) * kinds + source)[known]
        self.counts += np.bincount(cell, minlength=self.counts.size).reshape(self.counts.shape)


def _masked_mean(total: FloatArray, count: IntArray) -> FloatArray:
    out: FloatArray = np.full(total.shape, np.nan)
    np.divide(total, count, out=out, where=count > 0)
    return out


def _time_agent_index(rows: Rows, agents: int) -> IntArray:
    """Return the flat index of (time bin, agent) of every row and agent, int64 [r, N]."""
    return rows.time_bin[:, None] * agents + np.arange(agents)
