"""Means, differences and quotients with 95 % intervals over seeds and episodes; Wilson for rates.

Every policy plays the same evaluation seeds, so training seeds and episodes are *crossed* factors:
a table [K, E] holds the result of training seed ``k`` in evaluation episode ``e``. The variance of
the table's mean has one component of the seeds and one of the episodes. A handful of seeds
estimates its own component badly: a bootstrap over K seeds covers 54 % (K = 2) to 83 % (K = 5)
instead of 95 %. Student's t with the degrees of freedom of each component does cover 95 %
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
        One row for each training seed. A policy without training seeds has a single row, and its
        interval then does not cover the choice of a training seed.

    Raises
    ------
    UsageError
        There is a single number, which has no spread.
    """
    table = _table(values)
    mean = float(table.mean())
    half_width = _half_width(_components(table, table), *table.shape)
    return Interval(mean, mean - half_width, mean + half_width)


def difference_interval(one: FloatArray, other: FloatArray) -> Interval:
    """Return the mean of ``one`` minus the mean of ``other`` with its 95 % interval.

    Parameters
    ----------
    one, other : float [K, E], [L, E] or [E]
        Results of two kinds of policies, each with training seeds of its own, in the same
        episodes. The variation that both share in an episode cancels. With E = 1 (means of
        training seeds) the interval covers the seeds alone.

    Raises
    ------
    UsageError
        The numbers of episodes differ, or there is a single number.
    """
    tables = _table(one), _table(other)
    (k, e), (rows, columns) = (table.shape for table in tables)
    if columns != e:
        msg = f"cannot compare {e} with {columns} episodes: play both kinds on the same ones"
        raise UsageError(msg)
    components = [_components(table, table) for table in tables]
    differences = tables[0].mean(axis=0) - tables[1].mean(axis=0)
    episodes = float(differences.var(ddof=1)) / e if e > 1 else 0.0
    mean = float(differences.mean())
    half_width = _half_width_of_parts(
        [(components[0][0], k - 1), (components[1][0], rows - 1), (episodes, e - 1)],
        interaction=float(components[0][2] + components[1][2]),
    )
    return Interval(mean, mean - half_width, mean + half_width)


def quotient_interval(above: FloatArray, below: FloatArray) -> Interval | None:
    """Return the quotient of two means with its 95 % interval (Fieller, 1954).

    The interval holds every ratio ``r`` for which the mean of ``above - r * below`` does not differ
    significantly from zero. Both tables are of the same episodes, so the variation that they share
    cancels.

    Parameters
    ----------
    above, below : float [K, E] or [E]
        A table with a single row is used for every training seed of the other one.

    Returns
    -------
    Interval or None
        None where the mean of ``below`` is not significantly above zero: then the interval is not
        bounded, and the quotient has no meaning.
    """
    numerators, denominators = np.broadcast_arrays(_table(above), _table(below))
    if mean_interval(below).low <= 0:
        return None
    shape = numerators.shape
    components = (
        _components(numerators, numerators),
        _components(numerators, denominators),
        _components(denominators, denominators),
    )
    numerator, denominator = float(numerators.mean()), float(denominators.mean())
    quotient = numerator / denominator

    def differs(ratio: float) -> bool:
        spread = components[0] - 2 * ratio * components[1] + ratio**2 * components[2]
        return abs(numerator - ratio * denominator) > _half_width(spread, *shape)

    ends = (_boundary(differs, quotient, direction) for direction in (-1.0, 1.0))
    return Interval(quotient, *ends)


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
    half_width = _Z95 / (1 + z2 / n) * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))
    # The ends are exact at 0 and 1; rounding must not move them past the rate itself.
    low = 0.0 if rate == 0.0 else max(0.0, centre - half_width)
    high = 1.0 if rate == 1.0 else min(1.0, centre + half_width)
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
    numerator = wilson(min(1.0, float(np.mean(above))), np.shape(above)[-1])
    low, high = numerator.low / rate, numerator.high / rate
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
    """Return the components of the covariance of two tables' means: seeds, episodes, interaction.

    The first two include the third, as mean squares of a crossed design do. A component that a
    single row or column cannot estimate is zero.
    """
    k, e = one.shape
    degrees = (k - 1, e - 1, (k - 1) * (e - 1))
    return np.array(
        [
            float(np.vdot(one_effect, other_effect)) / freedom / count if freedom else 0.0
            for one_effect, other_effect, freedom, count in zip(
                _effects(one), _effects(other), degrees, (k, e, k * e), strict=True
            )
        ]
    )


def _effects(table: _F64) -> tuple[_F64, _F64, _F64]:
    """Return the effects of rows [K], of columns [E] and their interaction [K, E]."""
    mean, rows, columns = table.mean(), table.mean(axis=1), table.mean(axis=0)
    return rows - mean, columns - mean, table - rows[:, None] - columns + mean


def _half_width(components: _F64, k: int, e: int) -> float:
    """Return half of the interval's width from the variance components of a mean."""
    seeds, episodes, interaction = np.maximum(components, 0.0).tolist()
    return _half_width_of_parts([(seeds, k - 1), (episodes, e - 1)], interaction=interaction)


def _half_width_of_parts(parts: Sequence[tuple[float, int]], *, interaction: float) -> float:
    """Return half of the interval's width from variance components and their degrees of freedom.

    The variance is the sum of the components minus the ``interaction``, which both include. The
    quantile is the mean of the components' t quantiles, weighted by the components (Cochran,
    1964). It covers at least 95 %; Satterthwaite's degrees of freedom cover 87 % with two seeds.
    """
    total = sum(part for part, _ in parts)
    if total == 0.0:
        return 0.0
    quantile = sum(part * t_quantile(degrees) for part, degrees in parts if degrees) / total
    return float(quantile * math.sqrt(max(total - interaction, *(part for part, _ in parts))))


def _boundary(outside_interval: Callable[[float], bool], start: float, direction: float) -> float:
    """Return where ``outside_interval`` becomes true, going from ``start`` in a direction.

    The step is doubled until it is true; then 80 bisections follow.
    """
    step = 1e-6 * (1.0 + abs(start))
    inner, outer = start, start + direction * step
    while not outside_interval(outer):
        inner, step = outer, 2 * step
        outer = start + direction * step
    for _ in range(80):
        middle = (inner + outer) / 2
        inner, outer = (inner, middle) if outside_interval(middle) else (middle, outer)
    return inner
