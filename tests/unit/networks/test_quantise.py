import numpy as np
import pytest

from kd_offline.networks.quantise import quantised, restored, rounded


def test_the_rule_by_hand():
    weight = np.array([[1.0, -0.5, 0.25], [0.0, 0.0, 0.0], [-2.54, 0.052, 0.012]], np.float32)
    steps, scale = quantised(weight)
    assert steps.dtype == np.int8
    assert scale == pytest.approx([1 / 127, 1.0, 0.02])
    # -0.5 * 127 = -63.5 goes to the even -64, 0.25 * 127 = 31.75 to 32; 0.052 / 0.02 = 2.6
    # to 3, 0.012 / 0.02 = 0.6 to 1.
    assert steps[0].tolist() == [127, -64, 32]
    assert steps[1].tolist() == [0, 0, 0]
    assert steps[2].tolist() == [-127, 3, 1]


def test_ties_go_to_the_even_number():
    steps, scale = quantised(np.array([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]], np.float32))
    assert scale.tolist() == [1.0]
    assert steps[0].tolist() == [127, 0, 2, 2, 0, -2]


def test_no_value_moves_by_more_than_half_a_step_and_none_is_below_minus_127():
    weight = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)
    steps, scale = quantised(weight)
    assert np.abs(restored(steps, scale) - weight).max() <= scale.max() / 2 * (1 + 1e-6)
    assert steps.min() == -127 or steps.max() == 127
    assert np.abs(steps.astype(int)).max() == 127
    assert (np.abs(steps.astype(int)).max(axis=1) == 127).all()


def test_rounding_twice_is_rounding_once():
    weight = np.random.default_rng(1).normal(size=(5, 7)).astype(np.float32)
    assert rounded(rounded(weight)) == pytest.approx(rounded(weight), abs=1e-7)


def test_a_matrix_without_columns_has_the_scale_one():
    steps, scale = quantised(np.zeros((2, 0), np.float32))
    assert steps.shape == (2, 0)
    assert scale.tolist() == [1.0, 1.0]
