import numpy as np
import pytest

from kd_offline.datasets.writing.statistics import Moments, count_actions, episode_returns


def test_moments_in_parts_equal_the_whole():
    values = np.random.default_rng(0).standard_normal((1000, 3)).astype(np.float32) * 3 + 100
    moments = Moments()
    for part in np.array_split(values, 7):
        moments.add(part)
    got, exact = moments.spread(), values.astype(np.float64)
    np.testing.assert_allclose(got.mean, exact.mean(), rtol=1e-12)
    np.testing.assert_allclose(got.std, exact.std(), rtol=1e-5)
    assert (got.min, got.max) == (exact.min(), exact.max())


@pytest.mark.parametrize("size", [1e17, 1e20, 3.4e38])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_moments_of_large_values_are_finite(size, dtype):
    values = (np.random.default_rng(0).uniform(-1, 1, (50, 3)) * size).astype(dtype)
    values[0] = size, -size, size
    moments = Moments()
    for part in np.array_split(values, 3):
        moments.add(part)
    got, exact = moments.spread(), values.astype(np.float64)
    assert got.std == pytest.approx(exact.std(), rel=1e-6)
    assert got.mean == pytest.approx(exact.mean(), rel=1e-6)


def test_dead_agents_do_not_count():
    actions = np.array([[0, 1], [2, 1], [2, 0]], dtype=np.int16)
    alive = np.array([[True, True], [True, False], [True, True]])
    assert count_actions(actions, alive, 3).tolist() == [[1, 0, 2], [1, 1, 0]]


def test_returns_are_sums_by_episode_and_agent():
    reward = np.arange(12, dtype=np.float32).reshape(6, 2)
    got = episode_returns(reward, np.array([1, 3, 2]))
    assert got.tolist() == [[0, 1], [12, 15], [18, 20]]
