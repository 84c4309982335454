"""Upper bounds of p values, and their correction for many tests.

Every bound is at or above the true p value, so a test is never more certain than its data. None
needs a special function.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kd_offline.types import Array, FloatArray, IntArray

COMPARABLE = 50
"""Decisions that a rate needs."""

REPLACED_SHARES = (0.002, 0.01, 0.05, 0.25)
"""Shares of replaced actions that :func:`log_evidence` holds against the recorded policy."""


def log_evidence(log_ratio: FloatArray) -> float:
    """Return the logarithm of the evidence that some actions were not drawn from their policy.

    The evidence is a likelihood ratio: of "a share of the actions is drawn evenly from the legal
    ones", averaged over :data:`REPLACED_SHARES`, to "every action is drawn from its policy". Under
    the latter its mean is 1 for any policy and memory, so its reciprocal bounds the p value (Ville,
    1939; Vovk and Wang, 2021).

    Parameters
    ----------
    log_ratio : float64 [D]
        Logarithm of the probability of each executed action if it is drawn evenly from the legal
        ones, minus that under its recorded policy.
    """
    ratio = np.exp(log_ratio)
    logs = [float(np.log1p(share * (ratio - 1)).sum()) for share in REPLACED_SHARES]
    top = max(logs)
    return top + math.log(sum(math.exp(x - top) for x in logs) / len(logs))


def log_binomial_bound(hits: float, trials: float, rate: float) -> float:
    """Return the logarithm of an upper bound of P(X >= hits) for X ~ Binomial(trials, rate).

    It is ``-trials KL(hits / trials || rate)`` (Chernoff), and 0 where no more hits came than
    expected. Numbers need not be whole; ``rate`` lies between 0 and 1, both excluded.
    """
    if trials <= 0 or hits <= trials * rate:
        return 0.0
    share = min(1.0, hits / trials)
    divergence = share * math.log(share / rate)
    if share < 1:
        divergence += (1 - share) * math.log((1 - share) / (1 - rate))
    return -trials * divergence


def dispersion(hits: IntArray, expected: FloatArray) -> float:
    """Return how much counts of whole episodes vary, against independent steps: at least 1.

    It is Pearson's chi-squared over the number of episodes. Steps of one episode are alike, so
    counts vary more than their number says; evidence is divided by this.

    Parameters
    ----------
    hits : int64 [E]
    expected : float64 [E]
    """
    some = expected > 0
    if not some.any():
        return 1.0
    return max(1.0, float(np.mean((hits[some] - expected[some]) ** 2 / expected[some])))


def rejected(log_p: Sequence[float], level: float) -> list[bool]:
    """Return which tests reject by Holm's procedure, from the logarithms of their p values.

    The probability of any false rejection is at most ``level``, whatever the tests have in common
    (Holm, 1979).
    """
    result = [False] * len(log_p)
    for rank, place in enumerate(np.argsort(log_p, kind="stable").tolist()):
        if log_p[place] > math.log(level / (len(log_p) - rank)):
            break
        result[place] = True
    return result


class Rates(NamedTuple):
    """Surprises of one source, and how many other sources lead to expect."""

    log_p: float
    hits: int
    of: int
    expected: float


def fold_rates(
    total: IntArray, hit: IntArray, source: int, least: int = COMPARABLE
) -> Rates | None:
    """Compare a source with the other sources of its fold, [S, G], within each group.

    Conditional on all surprises, those of one source are binomial if the rates are the same
    (Przyborowski and Wilenski, 1940). None where there is too little to compare.
    """
    others = same_fold(np.arange(len(total)), source)
    n_others, k_others = total[others].sum(axis=0), hit[others].sum(axis=0)
    compared = (n_others >= least) & (total[source] > 0)
    of, count = int(total[source, compared].sum()), float(hit[source, compared].sum())
    if of < least:
        return None
    rate = (k_others[compared] + 1) / (n_others[compared] + 1)
    expected = float((total[source, compared] * rate).sum())
    elsewhere = float((k_others[compared] + 1).sum())
    log_p = log_binomial_bound(count, count + elsewhere, expected / (expected + elsewhere))
    return Rates(log_p, int(count), of, expected)


def same_fold(source: IntArray, number: int) -> Array:
    """Return which sources share the fold of ``number``, without it; bool as ``source``."""
    return np.asarray((source % 2 == number % 2) & (source != number))
