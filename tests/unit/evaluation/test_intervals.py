import numpy as np
import pytest
from scipy.stats import binomtest, t

from kd_offline.errors import UsageError
from kd_offline.evaluation.intervals import (
    difference_interval,
    mean_interval,
    quotient_interval,
    rate_interval,
    rate_quotient,
    t_quantile,
    wilson,
)


def half(interval):
    return (interval.high - interval.low) / 2


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


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 9, 10, 31, 200, 999, 3999])
def test_quantiles_of_t_equal_the_reference_implementation(degrees):
    assert t_quantile(degrees) == pytest.approx(t.ppf(0.975, degrees), rel=1e-9)


def test_a_single_row_has_the_interval_of_students_t():
    values = np.array([1.0, 2.0, 4.0, 9.0])
    got = mean_interval(values)
    assert got.mean == 4.0
    assert half(got) == pytest.approx(t.ppf(0.975, 3) * values.std(ddof=1) / 2)


def test_seeds_alone_have_the_interval_of_their_means():
    # Episodes do not differ, so there are three numbers: 1, 2 and 6, with a variance of 7.
    got = mean_interval(np.repeat([[1.0], [2.0], [6.0]], 50, axis=1))
    assert got.mean == pytest.approx(3.0)
    assert half(got) == pytest.approx(t.ppf(0.975, 2) * np.sqrt(7 / 3))


def test_two_seeds_and_two_episodes_by_hand():
    # Row means 1 and 5, column means 2 and 4, residuals all 1 in size.
    # Parts of the variance: seeds 8/2 = 4, episodes 2/2 = 1, interaction 4/1/4 = 1.
    got = mean_interval(np.array([[1.0, 1.0], [3.0, 7.0]]))
    assert got.mean == 3.0
    assert half(got) == pytest.approx(t.ppf(0.975, 1) * np.sqrt(4 + 1 - 1))


def test_a_constant_has_no_spread():
    np.testing.assert_allclose(mean_interval(np.full((3, 7), 2.5)), 2.5)


def test_one_number_has_no_interval():
    with pytest.raises(UsageError, match="play 2 episodes or more"):
        mean_interval(np.ones((1, 1)))


# Standard deviations of seeds, of episodes (over 100 of them) and of both together.
WORLDS = {
    "seeds alone": (1.0, 0.0, 0.0),
    "seeds above all": (1.0, 1.0, 1.0),
    "seeds as much as episodes": (0.1, 1.0, 0.1),
    "seeds less than episodes": (0.03, 1.0, 0.3),
    "every figure by itself": (0.0, 0.0, 1.0),
}


def drawn(rng, seeds, episodes, world):
    of_seed, of_episode, of_both = world
    return (
        of_seed * rng.normal(size=(seeds, 1))
        + of_episode * rng.normal(size=(1, episodes))
        + of_both * rng.normal(size=(seeds, episodes))
    )


@pytest.mark.parametrize("seeds", [2, 5])
@pytest.mark.parametrize("world", WORLDS)
def test_means_are_covered_as_often_as_is_said(world, seeds):
    """The true mean is zero. 2,000 tables tell 93 % from 95 % by four standard errors."""
    rng = np.random.default_rng(seeds)
    tables = (drawn(rng, seeds, 100, WORLDS[world]) for _ in range(2000))
    covered = np.mean([abs(got.mean) <= half(got) for got in map(mean_interval, tables)])
    assert covered >= 0.925
    if world in ("seeds alone", "seeds above all"):  # there it is not too wide either
        assert covered <= 0.97


@pytest.mark.parametrize("seeds", [2, 5])
def test_quotients_are_covered_as_often_as_is_said(seeds):
    """Students keep 0.9 in the mean of all seeds; expert and random play share the luck."""
    rng = np.random.default_rng(seeds)
    covered = []
    for _ in range(1000):
        luck = rng.normal(size=(1, 60))
        random, expert = luck - 10, 2 * luck + rng.normal(size=(1, 60))
        student = drawn(rng, seeds, 60, (0.5, 0.0, 1.0)) + 0.1 * random + 0.9 * expert
        got = quotient_interval(student - random, expert - random)
        assert got is not None
        covered.append(got.low <= 0.9 <= got.high)
    assert 0.925 <= np.mean(covered) <= 0.975


def test_a_difference_of_single_rows_is_that_of_paired_episodes():
    one, other = np.array([1.0, 5.0, 3.0, 7.0]), np.array([0.0, 3.0, 5.0, 4.0])
    got, gap = difference_interval(one, other), one - other  # 1, 2, -2, 3
    assert got.mean == 1.0
    assert half(got) == pytest.approx(t.ppf(0.975, 3) * gap.std(ddof=1) / 2)


def test_a_difference_of_seeds_alone_by_hand():
    # Means of seeds 1, 2, 6 (variance 7) and 0, 4 (variance 8): 7/3 with t of 2, 8/2 with t of 1.
    got = difference_interval(np.array([[1.0], [2.0], [6.0]]), np.array([[0.0], [4.0]]))
    seeds, quantiles = np.array([7 / 3, 8 / 2]), t.ppf(0.975, [2, 1])
    assert got.mean == pytest.approx(1.0)
    assert half(got) == pytest.approx(seeds @ quantiles / seeds.sum() * np.sqrt(seeds.sum()))


def test_a_difference_of_two_seeds_and_two_episodes_by_hand():
    # Of the table: seeds 4 and interaction 1, as above; the gaps of the episodes are 2 and 6.
    got = difference_interval(np.array([[1.0, 1.0], [3.0, 7.0]]), np.array([[0.0, -2.0]]))
    assert got.mean == 4.0  # seeds 4, episodes (8 / 2); the interaction 1 is in both
    assert half(got) == pytest.approx(t.ppf(0.975, 1) * np.sqrt(4 + 4 - 1))


def test_luck_that_both_kinds_share_cancels_in_differences():
    luck = np.random.default_rng(0).normal(0, 50, 300)
    np.testing.assert_allclose(difference_interval(luck + 3, luck + 1), 2.0, atol=1e-9)


@pytest.mark.parametrize("seeds", [(2, 5), (5, 5)])
@pytest.mark.parametrize("world", WORLDS)
def test_differences_are_covered_as_often_as_is_said(world, seeds):
    """Both kinds are equally good, with an episode of their own kind's luck beside the shared."""
    rng = np.random.default_rng(sum(seeds))
    covered = []
    for _ in range(1000):
        luck = 10 * rng.normal(size=(1, 60))
        one, other = (drawn(rng, k, 60, WORLDS[world]) for k in seeds)
        got = difference_interval(one + luck, other + luck)
        covered.append(got.low <= 0 <= got.high)
    assert np.mean(covered) >= 0.925


def test_differences_need_the_same_episodes():
    with pytest.raises(UsageError, match="play both kinds on the same ones"):
        difference_interval(np.ones((2, 3)), np.ones((2, 4)))


def test_a_quotient_over_an_exact_number_is_the_interval_over_it():
    table = drawn(np.random.default_rng(0), 3, 40, (1.0, 1.0, 1.0)) + 8
    got, want = quotient_interval(table, np.full(40, 4.0)), mean_interval(table)
    np.testing.assert_allclose(got, np.array(want) / 4, rtol=1e-9)


def test_fieller_by_hand():
    """One row each: the ends are the roots of the quadratic equation that Fieller gives."""
    rng = np.random.default_rng(3)
    above, below = rng.normal(3, 1, 30), rng.normal(2, 1, 30)
    got = quotient_interval(above, below)
    cov = np.cov(above, below) / 30
    q2 = t.ppf(0.975, 29) ** 2
    roots = np.roots(
        [
            below.mean() ** 2 - q2 * cov[1, 1],
            -2 * (above.mean() * below.mean() - q2 * cov[0, 1]),
            above.mean() ** 2 - q2 * cov[0, 0],
        ]
    )
    np.testing.assert_allclose(got, [above.mean() / below.mean(), *sorted(roots)], rtol=1e-6)


def test_shared_luck_cancels_in_quotients():
    luck = np.random.default_rng(0).normal(0, 50, 300)
    got = quotient_interval(0.8 * (100 + luck), 100 + luck)
    np.testing.assert_allclose(got, 0.8, atol=1e-9)


def test_what_is_not_above_zero_with_confidence_divides_nothing():
    noise = np.random.default_rng(0).normal(size=50)
    assert quotient_interval(np.ones(50), noise) is None
    assert quotient_interval(np.ones(50), noise - 9) is None


def test_a_perfect_win_rate_is_not_certain():
    got = rate_interval(np.ones((3, 100)))
    assert got.mean == got.high == 1.0
    assert got.low == pytest.approx(wilson(1.0, 100).low)


def test_the_quotient_of_two_perfect_win_rates_is_not_certain():
    got = rate_quotient(np.ones((3, 100)), np.ones(100))
    assert got is not None
    assert got.mean == got.high == 1.0
    assert got.low == pytest.approx(wilson(1.0, 100).low)
    assert rate_quotient(np.ones(100), np.zeros(100)) is None
