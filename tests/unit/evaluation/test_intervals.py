import numpy as np
import pytest
from scipy.stats import binomtest

from kd_offline.errors import UsageError
from kd_offline.evaluation.intervals import Resampling, percentile, rate_interval, wilson


@pytest.mark.parametrize(("wins", "n"), [(0, 10), (1, 10), (37, 50), (10, 10), (3999, 4000)])
def test_wilson_equals_the_reference_implementation(wins, n):
    want = binomtest(wins, n).proportion_ci(0.95, method="wilson")
    got = wilson(wins / n, n)
    assert got.low == pytest.approx(want.low, abs=1e-12)
    assert got.high == pytest.approx(want.high, abs=1e-12)
    assert got.mean == wins / n


def test_wilson_by_hand_at_zero():
    z2 = 1.959963984540054**2  # the upper end is z2 / (n + z2) where nothing was won
    assert wilson(0.0, 10).high == pytest.approx(z2 / (10 + z2))
    assert wilson(0.0, 10).low == 0.0


@pytest.mark.parametrize(("rate", "n"), [(1.1, 10), (0.5, 0), (-0.1, 3)])
def test_wilson_refuses_what_is_not_a_rate(rate, n):
    with pytest.raises(UsageError, match=r"rate in \[0, 1\]"):
        wilson(rate, n)


def test_two_episodes_have_the_binomial_bootstrap_distribution():
    means = Resampling.draw(2, replicates=40_000).means(np.array([0.0, 1.0]))
    values, counts = np.unique(means, return_counts=True)
    assert values.tolist() == [0.0, 0.5, 1.0]
    np.testing.assert_allclose(counts / 40_000, [0.25, 0.5, 0.25], atol=0.01)


def test_two_seeds_and_two_episodes_are_drawn_crossed():
    # value 1 only at (seed 1, episode 1): the mean is (share of seed 1) x (share of episode 1)
    table = np.array([[0.0, 0.0], [0.0, 1.0]])
    means = Resampling.draw(2, replicates=40_000).means(table)
    values, counts = np.unique(means, return_counts=True)
    assert values.tolist() == [0.0, 0.25, 0.5, 1.0]
    np.testing.assert_allclose(counts / 40_000, [7 / 16, 4 / 16, 4 / 16, 1 / 16], atol=0.01)


def test_the_interval_of_many_episodes_is_the_normal_one():
    values = np.random.default_rng(0).normal(3.0, 2.0, 4000)
    got = Resampling.draw(4000).interval(values)
    half = 1.96 * values.std() / np.sqrt(4000)
    assert got.mean == pytest.approx(values.mean(), abs=1e-12)
    assert got.high - got.mean == pytest.approx(half, rel=0.08)
    assert got.mean - got.low == pytest.approx(half, rel=0.08)


def test_seeds_widen_the_interval():
    noise = np.random.default_rng(0).normal(size=(5, 500))
    draws = Resampling.draw(500)
    alike, apart = draws.interval(noise), draws.interval(noise + np.arange(5)[:, None])
    assert apart.high - apart.low > 10 * (alike.high - alike.low)


def test_shared_luck_cancels_in_paired_draws():
    luck = np.random.default_rng(0).normal(0, 50, 300)
    draws = Resampling.draw(300)
    gap = draws.means(luck + 1.0) - draws.means(luck)
    np.testing.assert_allclose(gap, 1.0, atol=1e-9)


def test_a_constant_has_no_spread_and_the_same_seed_the_same_draws():
    draws = Resampling.draw(7, seed=4)
    np.testing.assert_allclose(draws.interval(np.full((3, 7), 2.5)), 2.5)
    np.testing.assert_array_equal(draws.episodes, Resampling.draw(7, seed=4).episodes)
    assert (draws.episodes != Resampling.draw(7, seed=5).episodes).any()
    np.testing.assert_allclose(draws.episodes.sum(axis=1), 1.0)


def test_percentile_keeps_the_point():
    assert percentile(9.0, np.arange(41.0)) == (9.0, 1.0, 39.0)


def test_a_perfect_win_rate_is_not_certain():
    got = rate_interval(Resampling.draw(100), np.ones((3, 100)))
    assert got.mean == got.high == 1.0
    assert got.low == pytest.approx(wilson(1.0, 100).low)


def test_no_episodes_are_refused():
    with pytest.raises(UsageError, match="0 episodes"):
        Resampling.draw(0)
