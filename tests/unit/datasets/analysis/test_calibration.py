"""Values against returns, by numbers worked out by hand."""

import numpy as np
import pytest

from kd_offline.datasets.analysis.calibration import returns_to_go
from kd_offline.datasets.analysis.profile import profile
from tests.unit.datasets.analysis.conftest import dataset


def test_returns_to_go_by_hand():
    reward = np.array([[1.0], [2.0], [4.0], [8.0], [16.0]])
    ends = np.array([False, True, False, False, False])
    found = returns_to_go(reward, np.full((5, 1), 0.5), ends, np.array([32.0]))
    np.testing.assert_allclose(found[:, 0], [2, 2, 4 + 4 + 4 + 4, 8 + 8 + 8, 16 + 16])


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 64, 100])
def test_returns_to_go_equal_a_loop(rows):
    rng = np.random.default_rng(rows)
    reward, discount = rng.normal(size=(rows, 3)), rng.random((rows, 3))
    ends, after = rng.random(rows) < 0.2, rng.normal(size=3)
    wanted, following = np.empty_like(reward), after
    for t in range(rows - 1, -1, -1):
        wanted[t] = reward[t] + (0 if ends[t] else discount[t] * following)
        following = wanted[t]
    np.testing.assert_allclose(returns_to_go(reward, discount, ends, after), wanted, atol=1e-12)


# Mean reward of the side, discounted by 1/2, of the episodes of 2, 3 and 1 steps.
REWARD = np.array([[1, 3], [4, 4], [0, 2], [2, 2], [4, 8], [10, 0]], np.float32)


TO_GO = np.array([2 + 0.5 * 4, 4, 1 + 0.5 * (2 + 0.5 * 6), 2 + 0.5 * 6, 6, 5])


def test_values_against_returns(tmp_path, chunked):
    value = np.stack([TO_GO, TO_GO + 1], axis=1).astype(np.float32)
    buffer = dataset(tmp_path / "d", steps_reward=REWARD, steps_value=value, expert={"gamma": 0.5})
    found = profile(buffer).calibration
    np.testing.assert_allclose(found.correlation, [1, 1])
    np.testing.assert_allclose(found.bias, [0, 1], atol=1e-6)
    np.testing.assert_allclose(found.explained, [1, 1])
    np.testing.assert_array_equal(found.count.sum(1), [6, 6])
    seen = found.count[0] > 0
    np.testing.assert_allclose(found.value[0, seen], found.outcome[0, seen])
    np.testing.assert_allclose(
        (found.outcome[1] * found.count[1])[found.count[1] > 0].sum(), TO_GO.sum()
    )


def test_bad_values_are_seen_to_be_bad(tmp_path, chunked):
    value = np.stack([-TO_GO, np.full(6, 3.0)], axis=1).astype(np.float32)
    buffer = dataset(tmp_path / "d", steps_reward=REWARD, steps_value=value, expert={"gamma": 0.5})
    found = profile(buffer).calibration
    np.testing.assert_allclose(found.correlation[0], -1)
    assert np.isnan(found.correlation[1])
    np.testing.assert_allclose(found.bias, [-2 * TO_GO.mean(), 3 - TO_GO.mean()], rtol=1e-6)
    np.testing.assert_allclose(found.explained, [1 - 4, 0], atol=1e-6)


def test_steps_that_something_else_disturbs_later_do_not_count(tmp_path, chunked):
    source = np.zeros((6, 2), np.uint8)
    source[3, 1] = 1  # row 3 is disturbed, so rows 2 and 3 say nothing of the expert
    buffer = dataset(
        tmp_path / "d",
        steps_reward=REWARD,
        steps_value=np.stack([TO_GO, TO_GO], 1).astype(np.float32),
        steps_action_source=source,
        expert={"gamma": 0.5},
    )
    found = profile(buffer).calibration
    np.testing.assert_array_equal(found.count.sum(1), [4, 4])
    total = (found.outcome * found.count)[0][found.count[0] > 0].sum()
    np.testing.assert_allclose(total, TO_GO[[0, 1, 4, 5]].sum())


def test_what_follows_a_time_limit_is_worth_what_the_expert_thinks(tmp_path, chunked):
    """Episode 1 is truncated; episodes 0 and 2 are terminated."""
    value = np.stack([TO_GO, TO_GO], 1).astype(np.float32)
    beyond = np.full((3, 2), 8.0, np.float32)
    arrays = {"steps_reward": REWARD, "steps_value": value, "final_value": beyond}
    plain = dataset(tmp_path / "a", **arrays, expert={"gamma": 0.5, "bootstraps_truncation": False})
    more = dataset(tmp_path / "b", **arrays, expert={"gamma": 0.5, "bootstraps_truncation": True})
    shift = profile(plain).calibration.bias - profile(more).calibration.bias
    np.testing.assert_allclose(shift, (1 + 2 + 4) / 6)


def test_no_discount_no_calibration(tmp_path):
    assert profile(dataset(tmp_path / "d", expert={"gamma": None})).calibration is None
