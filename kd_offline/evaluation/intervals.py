"""Means, differences and quotients with 95 % intervals over seeds and episodes; Wilson for rates.

Every policy is played on the same evaluation seeds, so training seeds and episodes are *crossed*:
a table [K, E] holds the figure of training seed ``k`` in evaluation episode ``e``. The variance of
its mean has a part of the seeds and a part of the episodes, and what a handful of seeds says about
its own part is little: a bootstrap over K seeds covers 54 % (K = 2) to 83 % (K = 5) instead of
95 % where seeds matter. Student's t with as many degrees of freedom as each part has does cover it
(docs/decisions/005-evaluation.md has the simulated coverage).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kd_offline.errors import UsageError
from kd_offline.types import FloatArray

_F64 = npt.NDArray[np.float64]
_Z95 = 1.959963984540054


class Interval(NamedTuple):
    """A mean and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float


def mean_interval(values: FloatArray) -> Interval:
    """Return the mean of a table with its 95 % interval.

    Parameters
    ----------
    values : float [K, E] or [E]
        One row for each training seed; policies without one have a single row, and the interval
        then says nothing about other training seeds.

    Raises
    ------
    UsageError
        There is a single number, which says nothing about its own spread.
    """
    table = _table(values)
    mean = float(table.mean())
    half = _half_width(_components(table, table), *table.shape)
    return Interval(mean, mean - half, mean + half)


def difference_interval(one: FloatArray, other: FloatArray) -> Interval:
    """Return the mean of ``one`` minus that of ``other`` with its 95 % interval.

    Parameters
    ----------
    one, other : float [K, E], [L, E] or [E]
        Figures of two kinds of policies with training seeds of their own in the same episodes, so
        the luck that both share cancels. With E = 1 (means of training seeds alone) the interval
        is of the seeds, and says nothing about other episodes.

    Raises
    ------
    UsageError
        The episodes differ in number, or there is a single number.
    """
    tables = _table(one), _table(other)
    (k, e), (rows, columns) = (table.shape for table in tables)
    if columns != e:
        msg = f"cannot compare {e} with {columns} episodes: play both kinds on the same ones"
        raise UsageError(msg)
    parts = [_components(table, table) for table in tables]
    gap = tables[0].mean(axis=0) - tables[1].mean(axis=0)
    episodes = float(gap.var(ddof=1)) / e if e > 1 else 0.0
    mean = float(gap.mean())
    half = _half(
        [(parts[0][0], k - 1), (parts[1][0], rows - 1), (episodes, e - 1)],
        twice=float(parts[0][2] + parts[1][2]),
    )
    return Interval(mean, mean - half, mean + half)


def quotient_interval(above: FloatArray, below: FloatArray) -> Interval | None:
    """Return the quotient of two means with its 95 % interval (Fieller, 1954).

    The interval holds every ratio ``r`` for which the mean of ``above - r * below`` does not differ
    from zero. Both tables are of the same episodes, so the luck that they share cancels.

    Parameters
    ----------
    above, below : float [K, E] or [E]
        A table with a single row counts for every training seed of the other.

    Returns
    -------
    Interval or None
        None where the mean of ``below`` is not above zero with confidence: then there is no such
        interval, and the quotient would be noise.
    """
    over, under = np.broadcast_arrays(_table(above), _table(below))
    if mean_interval(below).low <= 0:
        return None
    shape = over.shape
    parts = _components(over, over), _components(over, under), _components(under, under)
    top, bottom = float(over.mean()), float(under.mean())
    point = top / bottom

    def differs(ratio: float) -> bool:
        spread = parts[0] - 2 * ratio * parts[1] + ratio**2 * parts[2]
        return abs(top - ratio * bottom) > _half_width(spread, *shape)

    ends = (_first(differs, point, direction) for direction in (-1.0, 1.0))
    return Interval(point, *ends)


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


def rate_interval(wins: FloatArray) -> Interval:
    """Return a win rate with an interval that is never too narrow.

    A table of wins alone has no spread and Wilson knows nothing of training seeds, so the interval
    is the hull of both; Wilson counts each evaluation episode once, not once a seed.

    Parameters
    ----------
    wins : float [K, E] or [E]
        1 for a won episode, 0 otherwise.
    """
    crossed = mean_interval(wins)
    scored = wilson(min(1.0, crossed.mean), np.shape(wins)[-1])
    low, high = min(crossed.low, scored.low), max(crossed.high, scored.high)
    return Interval(crossed.mean, max(0.0, low), min(1.0, high))


def rate_quotient(above: FloatArray, below: FloatArray) -> Interval | None:
    """Return the quotient of two win rates with its 95 % interval, None where it is undefined.

    Equal tables of wins would leave no spread, so the interval also holds what Wilson's interval
    of the rate above leaves open.

    Parameters
    ----------
    above, below : float [K, E] or [E]
        1 for a won episode, 0 otherwise.
    """
    rate = float(np.mean(below))
    quotient = None if rate_interval(below).low <= 0 else quotient_interval(above, below)
    if quotient is None:
        return None
    scored = wilson(min(1.0, float(np.mean(above))), np.shape(above)[-1])
    low, high = scored.low / rate, scored.high / rate
    return Interval(quotient.mean, min(quotient.low, low), max(quotient.high, high))


@lru_cache(maxsize=64)
def t_quantile(degrees: int) -> float:
    """Return the 97.5th percentile of Student's t with a whole number of degrees of freedom.

    By bisection of the closed form of the distribution (Abramowitz & Stegun, 26.7.3 and 26.7.4).
    """
    odd = degrees % 2
    # cos, 2/3 cos^3, 2/3 4/5 cos^5, ... or 1, 1/2 cos^2, 1/2 3/4 cos^4, ...
    steps = np.arange(1, degrees // 2, dtype=np.float64)
    factors = np.cumprod(2 * steps / (2 * steps + 1) if odd else (2 * steps - 1) / (2 * steps))

    def probability(angle: float) -> float:
        """Return P(|t| < sqrt(degrees) tan(angle))."""
        cos = math.cos(angle)
        series = 1.0 + float(factors @ cos ** (2 * steps))
        if not odd:
            return math.sin(angle) * series
        return 2 / math.pi * (angle + (math.sin(angle) * cos * series if degrees > 1 else 0.0))

    low, high = 0.0, math.pi / 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if probability(middle) < 0.95 else (low, middle)
    return math.sqrt(degrees) * math.tan(low)


def _table(values: FloatArray) -> _F64:
    table = np.atleast_2d(np.asarray(values, np.float64))
    if table.size < 2:
        msg = f"an interval over {table.size} episodes is not possible: play 2 episodes or more"
        raise UsageError(msg)
    return table


def _components(one: _F64, other: _F64) -> _F64:
    """Return the parts of the covariance of two tables' means: seeds, episodes, interaction.

    The first two hold the third one as well, as mean squares of a crossed design do. A part that
    a single row or column cannot tell is zero.
    """
    k, e = one.shape
    degrees = (k - 1, e - 1, (k - 1) * (e - 1))
    return np.array(
        [
            float(np.vdot(mine, theirs)) / free / size if free else 0.0
            for mine, theirs, free, size in zip(
                _effects(one), _effects(other), degrees, (k, e, k * e), strict=True
            )
        ]
    )


def _effects(table: _F64) -> tuple[_F64, _F64, _F64]:
    """Return what rows [K], columns [E] and both together [K, E] add to the mean of a table."""
    mean, rows, columns = table.mean(), table.mean(axis=1), table.mean(axis=0)
    return rows - mean, columns - mean, table - rows[:, None] - columns + mean


def _half_width(components: _F64, k: int, e: int) -> float:
    """Return half of the interval's width from the parts of a mean's variance."""
    seeds, episodes, both = np.maximum(components, 0.0).tolist()
    return _half([(seeds, k - 1), (episodes, e - 1)], twice=both)


def _half(parts: Sequence[tuple[float, int]], *, twice: float) -> float:
    """Return half of the interval's width from parts of the variance and their degrees of freedom.

    The variance is the sum of the parts less what they count ``twice``, the interaction. The
    quantile is the mean of those of the parts, weighted by them (Cochran, 1964), which never
    covers less than it says: Satterthwaite's degrees of freedom cover 87 % with two seeds.
    """
    total = sum(part for part, _ in parts)
    if total == 0.0:
        return 0.0
    quantile = sum(part * t_quantile(degrees) for part, degrees in parts if degrees) / total
    return float(quantile * math.sqrt(max(total - twice, *(part for part, _ in parts))))


def _first(differs: Callable[[float], bool], point: float, direction: float) -> float:
    """Return where ``differs`` begins to hold, going away from ``point`` in a direction."""
    step = 1e-6 * (1.0 + abs(point))
    inside, outside = point, point + direction * step
    while not differs(outside):
        inside, step = outside, 2 * step
        outside = point + direction * step
    for _ in range(80):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if differs(middle) else (middle, outside)
    return inside
