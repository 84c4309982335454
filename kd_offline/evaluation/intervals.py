"""Means with intervals: a paired bootstrap over training seeds and episodes, Wilson for rates.

Every policy is played on the same evaluation seeds, so episodes and training seeds are *crossed*,
not nested. One replicate draws training seeds and, independently, episodes, both with replacement,
and uses the same episodes for every policy. Luck of an evaluation seed then cancels in
differences and ratios, and shared luck is not mistaken for independent evidence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kd_offline.errors import UsageError
from kd_offline.seeding import generator
from kd_offline.types import FloatArray

_F64 = npt.NDArray[np.float64]
_Z95 = 1.959963984540054
REPLICATES = 2000


class Interval(NamedTuple):
    """A mean and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Resampling:
    """The draws of a bootstrap, shared by every quantity that is compared.

    ``episodes`` holds, for each of ``R`` replicates, the weight of each episode in the replicate's
    mean: float64 [R, E], rows sum to 1.
    """

    episodes: _F64
    seed: int

    @classmethod
    def draw(cls, n_episodes: int, *, seed: int = 0, replicates: int = REPLICATES) -> Resampling:
        """Draw the episodes of every replicate.

        Raises
        ------
        UsageError
            Without an episode or a replicate.
        """
        if n_episodes < 1 or replicates < 1:
            msg = f"got {n_episodes} episodes and {replicates} replicates: give at least 1 of each"
            raise UsageError(msg)
        return cls(_weights(n_episodes, replicates, seed, "episodes"), seed)

    def means(self, values: FloatArray) -> _F64:
        """Return the mean of each replicate: float64 [R].

        Parameters
        ----------
        values : float [K, E] or [E]
            One row for each training seed; policies without one have a single row. Arrays with
            the same K share their draws of seeds too.
        """
        rows = np.atleast_2d(np.asarray(values, np.float64))
        # Draws of whole rows: [R, E] @ [E, K] first, since K is small.
        by_seed = self.episodes @ rows.T
        if len(rows) == 1:
            return by_seed[:, 0]
        seeds = _weights(len(rows), len(self.episodes), self.seed, "seeds", len(rows))
        return np.asarray((by_seed * seeds).sum(axis=1))

    def interval(self, values: FloatArray) -> Interval:
        """Return the mean of ``values`` (float [K, E] or [E]) with its 95 % interval."""
        return percentile(float(np.mean(values, dtype=np.float64)), self.means(values))


def percentile(point: float, replicates: FloatArray) -> Interval:
    """Return ``point`` with the 2.5th and 97.5th percentile of its replicates (float [R])."""
    low, high = np.quantile(replicates, [0.025, 0.975])
    return Interval(point, float(low), float(high))


def wilson(rate: float, n: int) -> Interval:
    """Return the Wilson score interval at 95 % of a success rate in [0, 1] out of ``n`` trials.

    Raises
    ------
    UsageError
        The rate is outside [0, 1] or there are no trials.
    """
    if n < 1 or not 0.0 <= rate <= 1.0:
        msg = f"got a rate of {rate} out of {n} trials: give a rate in [0, 1] and 1 trial or more"
        raise UsageError(msg)
    z2 = _Z95**2
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))
    # The ends are exact at 0 and 1; rounding must not move them past the rate itself.
    low = 0.0 if rate == 0.0 else max(0.0, centre - half)
    high = 1.0 if rate == 1.0 else min(1.0, centre + half)
    return Interval(rate, low, high)


def rate_interval(draws: Resampling, wins: FloatArray) -> Interval:
    """Return a win rate with an interval that is never too narrow.

    A bootstrap of 100 % wins has no spread and Wilson knows nothing of training seeds, so the
    interval is the hull of both; Wilson counts each evaluation episode once, not once a seed.

    Parameters
    ----------
    draws : Resampling
    wins : float [K, E] or [E]
        1 for a won episode, 0 otherwise.
    """
    resampled = draws.interval(wins)
    scored = wilson(min(1.0, resampled.mean), draws.episodes.shape[1])
    low, high = min(resampled.low, scored.low), max(resampled.high, scored.high)
    return Interval(resampled.mean, max(0.0, low), min(1.0, high))


def _weights(n: int, replicates: int, seed: int, *purpose: object) -> _F64:
    """Return how often each of ``n`` items was drawn in ``n`` draws, over ``n``: [R, n]."""
    drawn = generator(seed, "bootstrap", *purpose).integers(0, n, size=(replicates, n))
    flat = drawn + np.arange(replicates)[:, None] * n
    counts = np.bincount(flat.ravel(), minlength=replicates * n)
    return counts.reshape(replicates, n) / n
