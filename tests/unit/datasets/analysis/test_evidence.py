"""Bounds of p values against numbers worked out by hand, and against exact ones."""

import math
from math import comb, log

import numpy as np
import pytest

from kd_offline.datasets.analysis.evidence import (
    REPLACED_SHARES,
    dispersion,
    log_binomial_bound,
    log_evidence,
    rejected,
)


def test_evidence_of_one_unlikely_action():
    # Even choice 0.2, policy 0.002: a ratio of 100, so the mean of 1 + share * 99.
    wanted = np.mean([1 + share * 99 for share in REPLACED_SHARES])
    assert log_evidence(np.array([log(100)])) == pytest.approx(log(wanted))


def test_evidence_is_one_on_average_whatever_the_policy():
    policy, even = np.array([0.9, 0.05, 0.04, 0.01]), 0.25
    single = sum(p * math.exp(log_evidence(np.array([log(even / p)]))) for p in policy)
    assert single == pytest.approx(1)
    pairs = [
        p * q * math.exp(log_evidence(np.log([even / p, even / q]))) for p in policy for q in policy
    ]
    assert sum(pairs) == pytest.approx(1)


@pytest.mark.parametrize(("hits", "trials", "rate"), [(3, 10, 0.1), (8, 10, 0.5), (10, 10, 0.2)])
def test_the_bound_is_above_the_exact_tail(hits, trials, rate):
    tail = sum(
        comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in range(hits, trials + 1)
    )
    assert log(tail) <= log_binomial_bound(hits, trials, rate) < 0


def test_the_bound_by_hand():
    # 0.5 ln(0.5 / 0.1) + 0.5 ln(0.5 / 0.9) = 0.5108, times 4 trials.
    assert log_binomial_bound(2, 4, 0.1) == pytest.approx(-4 * 0.5108256)
    assert log_binomial_bound(4, 4, 0.1) == pytest.approx(4 * log(0.1))


def test_no_more_than_expected_is_no_evidence():
    assert log_binomial_bound(1, 10, 0.1) == 0
    assert log_binomial_bound(0, 0, 0.1) == 0


def test_dispersion_of_episodes():
    # (4 - 2)^2 / 2, (0 - 2)^2 / 2, (0 - 1)^2 / 1: mean of 2, 2 and 1.
    assert dispersion(np.array([4, 0, 0]), np.array([2.0, 2.0, 1.0])) == pytest.approx(5 / 3)
    assert dispersion(np.array([2, 2]), np.array([2.0, 2.0])) == 1
    assert dispersion(np.array([0]), np.array([0.0])) == 1


def test_holms_procedure_stops_at_the_first_that_it_keeps():
    # Levels 0.05 / 4, / 3, / 2, / 1 for p values in ascending order.
    p = [0.012, 0.03, 0.001, 0.9]
    assert rejected([log(x) for x in p], 0.05) == [True, False, True, False]
    assert rejected([], 0.05) == []
