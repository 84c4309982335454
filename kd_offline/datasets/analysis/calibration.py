"""Compare the critic's values with the discounted returns that followed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from kd_offline.datasets.analysis.tallies import Rows
from kd_offline.datasets.format.layout import ACTION_SOURCES
from kd_offline.types import Array, BoolArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Calibration:
    """Values against discounted returns-to-go, by agent; NaN where nothing was counted.

    ``value``, ``outcome``: float64 [N, bins], means over the rows of each bin of values;
    ``count``: int64 [N, bins]. ``correlation``, ``bias`` (mean of value minus outcome) and
    ``explained`` (explained share of the outcome's variance): float64 [N].
    """

    value: FloatArray
    outcome: FloatArray
    count: IntArray
    correlation: FloatArray
    bias: FloatArray
    explained: FloatArray


def returns_to_go(
    reward: FloatArray, discount: FloatArray, ends: BoolArray, after: FloatArray
) -> FloatArray:
    """Return the discounted sum of rewards from every row to the end of its episode.

    Parameters
    ----------
    reward : float64 [r, C]
    discount : float64 [r, C]
        Weight of the following row's return-to-go.
    ends : bool [r]
        Whether the row is the last of its episode.
    after : float64 [C]
        Return-to-go of the row after the last one.

    Notes
    -----
    Computed in log2(r) passes by doubling; a Python loop over rows would take seconds.
    """
    total = np.concatenate([reward, after[None]])
    weight = np.concatenate([np.where(ends[:, None], 0.0, discount), np.zeros((1, len(after)))])
    reach = 1
    while reach < len(total) and weight.any():
        total[:-reach] += weight[:-reach] * total[reach:]
        weight[:-reach] *= weight[reach:]
        weight[-reach:] = 0.0
        reach *= 2
    return np.asarray(total[:-1])


@dataclass(slots=True)
class CalibrationCounter:
    """Computes a :class:`Calibration` from rows in reverse order.

    A row counts only if no other policy and no noise acts from it to the end of the episode,
    because the expert's values are of its own play.

    Parameters
    ----------
    side_of
        Index of each agent's side; the critic values the mean reward of a side.
    gamma
        Discount of each episode, float64 [E].
    beyond
        Value after the last step of a truncated episode, float64 [E, N]; zero for experts that
        take a time limit for an end.
    edges
        Bins of values, float64 [bins + 1]; values outside count into the outer ones.
    """

    side_of: Sequence[int]
    gamma: FloatArray
    beyond: FloatArray
    edges: FloatArray
    _after: FloatArray = field(init=False)  # [N + 1], return-to-go of the row after the next ones
    _binned: FloatArray = field(init=False)  # [3, N, bins]: count, value, outcome
    _sums: FloatArray = field(init=False)  # [6, N]

    def __post_init__(self) -> None:
        n = len(self.side_of)
        self._after = np.zeros(n + 1)
        self._binned = np.zeros((3, n, len(self.edges) - 1))
        self._sums = np.zeros((6, n))

    def add(self, rows: Rows) -> None:
        """Add some rows; they must come before all rows added so far."""
        outcome, pure = self._outcomes(rows)
        counted = rows.alive & pure[:, None]
        value = rows.arrays["value"].astype(np.float64)
        agents, bins = self._binned.shape[1:]
        inner = np.searchsorted(self.edges[1:-1], value, side="right")
        cell = (np.arange(agents) * bins + inner)[counted]
        for k, weights in enumerate((None, value[counted], outcome[counted])):
            sums = np.bincount(cell, weights, minlength=agents * bins)
            self._binned[k] += sums.reshape(agents, bins)
        self._sums += _moments(value - self._centre, outcome - self._centre, counted)

    @property
    def _centre(self) -> float:
        """A number near the values; squares of differences from it keep their precision."""
        return float(self.edges.mean())

    def _outcomes(self, rows: Rows) -> tuple[FloatArray, BoolArray]:
        """Return the return-to-go of every row and agent, and whether only the expert acts."""
        gamma = self.gamma[rows.episode][:, None]
        reward = _side_means(rows.arrays["reward"].astype(np.float64), self.side_of)
        cut = rows.last & rows.arrays["truncated"]
        reward += np.where(cut[:, None], gamma * self.beyond[rows.episode], 0.0)
        both = np.concatenate([reward, _others_acted(rows)[:, None]], axis=1)
        discount = np.concatenate([np.broadcast_to(gamma, reward.shape), np.ones_like(gamma)], 1)
        total = returns_to_go(both, discount, rows.last, self._after)
        if len(total):
            self._after = total[0].copy()
        return total[:, :-1], total[:, -1] == 0

    def result(self) -> Calibration:
        """Return the calibration of all rows so far."""
        count, value, outcome = self._binned
        n, v, g, vv, gg, vg = self._sums
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = np.sqrt((n * vv - v**2) * (n * gg - g**2))
            errors = (vv - 2 * vg + gg) / n - ((g - v) / n) ** 2
            variance = gg / n - (g / n) ** 2
            return Calibration(
                value=value / count,
                outcome=outcome / count,
                count=count.astype(np.int64),
                correlation=np.where(spread > 0, (n * vg - v * g) / spread, np.nan),
                bias=(v - g) / n,
                explained=np.where(variance > 0, 1 - errors / variance, np.nan),
            )


def _others_acted(rows: Rows) -> FloatArray:
    """Return 1 for every row in which noise or another policy acted, float64 [r]."""
    source = rows.arrays.get("action_source")
    if source is None:
        return np.zeros(len(rows.episode))
    return np.asarray(((source != ACTION_SOURCES["expert"]) & rows.alive).any(axis=1), np.float64)


def _side_means(reward: FloatArray, side_of: Sequence[int]) -> FloatArray:
    sides = np.array(side_of)
    same = (sides[:, None] == sides).astype(np.float64)
    return np.asarray(reward @ (same / same.sum(axis=0)))


def _moments(value: FloatArray, outcome: FloatArray, counted: BoolArray) -> FloatArray:
    """Return count and sums of v, g, v^2, g^2 and v g over the counted rows, [6, N]."""
    v, g = np.where(counted, value, 0.0), np.where(counted, outcome, 0.0)
    parts: list[Array] = [counted, v, g, v * v, g * g, v * g]
    return np.stack([part.sum(axis=0, dtype=np.float64) for part in parts])
