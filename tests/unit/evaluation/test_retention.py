from typing import Any

import numpy as np
import pytest

from kd_offline.errors import MismatchError
from kd_offline.evaluation.retention import Samples, add_sides, normalised_of, retention

LUCK = np.random.default_rng(1).normal(0, 30, (1, 400))


def samples(
    student: Any, *, expert: float = -30.0, random: float = -80.0, ceiling: Any = None, **won: Any
) -> Samples:
    def figure(level: Any) -> Any:
        return np.atleast_1d(level)[:, None] + LUCK

    top = None if ceiling is None else figure(ceiling)
    return Samples(figure(expert), figure(student), figure(random), top, **won)


def test_hand_worked_retentions():
    got = retention(samples(-40.0, ceiling=-35.0))
    assert got.normalised is not None
    assert got.of_ceiling is not None
    assert got.normalised.mean == pytest.approx(40 / 50)
    assert got.of_ceiling.mean == pytest.approx(40 / 45)
    assert got.ratio is None, "the quotient of two negative returns means nothing"


def test_luck_of_the_evaluation_seeds_cancels():
    got = retention(samples(-40.0)).normalised
    assert got is not None
    np.testing.assert_allclose(got, 0.8, atol=1e-9)


def test_seeds_give_the_interval_its_width():
    got = retention(samples([-50.0, -40.0, -30.0])).normalised
    assert got is not None
    assert got.mean == pytest.approx(0.8)
    # 0.6, 0.8 and 1.0 have a standard deviation of 0.2, and t has two degrees of freedom
    assert got.high - 0.8 == pytest.approx(4.302653 * 0.2 / np.sqrt(3), rel=1e-5)
    assert 0.8 - got.low == pytest.approx(got.high - 0.8, rel=1e-5)


def test_nothing_to_retain_is_undefined():
    assert retention(samples(-40.0, expert=-80.0)).normalised is None
    assert retention(samples(-40.0, expert=-90.0)).normalised is None
    assert normalised_of(np.ones(3), np.zeros(3), np.zeros(3)) is None


def test_an_expert_that_is_only_luckily_better_is_not_a_yardstick():
    noise = np.random.default_rng(2).normal(0, 30, (2, 1, 400))
    unsure = Samples(noise[0] + 0.1, noise[0], noise[1])
    assert retention(unsure).normalised is None


def test_the_ratio_is_of_win_rates():
    wins = np.zeros((1, 400))
    wins[0, :300] = 1
    fewer = np.zeros((1, 400))
    fewer[0, :240] = 1
    got = retention(samples(-40.0, expert_won=wins, student_won=fewer)).ratio
    assert got is not None
    assert got.mean == pytest.approx(0.8)
    assert got.low < 0.8 < got.high
    none = retention(samples(-40.0, expert_won=np.zeros((1, 400)), student_won=fewer))
    assert none.ratio is None


def test_sides_add_up_and_lose_their_wins():
    one, two = samples(-40.0, ceiling=-36.0), samples(-60.0, ceiling=-35.0)
    both = add_sides([one, two])
    np.testing.assert_allclose(both.student, one.student + two.student)
    got = retention(both)
    assert got.normalised is not None
    assert got.normalised.mean == pytest.approx((40 + 20) / 100)
    assert both.ceiling is not None
    assert add_sides([one, samples(-60.0)]).ceiling is None
    assert add_sides([one]) is one


def test_figures_of_other_episodes_are_refused():
    with pytest.raises(MismatchError, match="same E evaluation seeds"):
        Samples(np.zeros((1, 4)), np.zeros((2, 5)), np.zeros((1, 4)))
