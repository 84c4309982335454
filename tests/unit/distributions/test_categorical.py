import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_offline.distributions.categorical import (
    choose_actions,
    epsilon_greedy,
    masked_log_softmax,
    mixture_probability,
)

LOGITS = np.array([[math.log(1), math.log(2), math.log(5), 50.0]])
LEGAL = np.array([[True, True, True, False]])


@pytest.mark.parametrize(
    ("uniform", "action"),
    [(0.0, 0), (0.1249, 0), (0.1251, 1), (0.3749, 1), (0.3751, 2), (1 - 2**-53, 2)],
)
def test_sampling_inverts_the_hand_worked_cdf(uniform, action):
    # weights 1, 2, 5 of 8: the cumulative distribution is 0.125, 0.375, 1
    assert choose_actions(LOGITS, LEGAL, np.array([uniform])).tolist() == [action]


def test_greedy_is_the_best_legal_action_and_ties_go_to_the_lowest():
    logits = np.array([[1.0, 3.0, 3.0], [9.0, -5.0, -6.0], [4.0, 4.0, 4.0]])
    legal = np.array([[True, True, True], [False, True, True], [False, False, False]])
    assert choose_actions(logits, legal).tolist() == [1, 1, 0]


def test_log_softmax_is_over_legal_actions_only():
    got = np.exp(masked_log_softmax(LOGITS, LEGAL))
    np.testing.assert_allclose(got, [[1 / 8, 2 / 8, 5 / 8, 0]], rtol=1e-12)
    assert np.isneginf(masked_log_softmax(LOGITS, np.zeros_like(LEGAL))).all()


@given(
    st.lists(st.floats(-80, 80, width=32), min_size=1, max_size=6),
    st.integers(0, 2**6 - 1),
    st.floats(0, 1, exclude_max=True),
)
def test_every_choice_is_legal(logits, mask, uniform):
    legal = np.array([[bool(mask >> k & 1) for k in range(len(logits))]])
    chosen = [
        choose_actions(np.array([logits], np.float32), legal, u)[0]
        for u in (None, np.array([uniform]))
    ]
    assert all(legal[0, a] or not legal.any() for a in chosen)


def test_sampled_frequencies_follow_the_probabilities():
    uniforms = (np.arange(8000) + 0.5) / 8000
    wide = np.broadcast_to(LOGITS, (8000, 4))
    counts = np.bincount(choose_actions(wide, np.broadcast_to(LEGAL, (8000, 4)), uniforms))
    assert counts.tolist() == [1000, 2000, 5000]


def test_epsilon_greedy_is_greedy_but_for_epsilon():
    q = np.array([[1.0, 5.0, 3.0, 9.0], [0.0, 0.0, 0.0, 0.0]])
    legal = np.array([[True, True, True, False], [False, False, False, True]])
    logits = epsilon_greedy(q, legal, 0.3)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(
        np.exp(masked_log_softmax(logits, legal)), [[0.1, 0.8, 0.1, 0], [0, 0, 0, 1]], atol=1e-6
    )
    for epsilon in (0.0, 1.0):
        logits = epsilon_greedy(q, legal, epsilon)
        assert np.isfinite(logits).all()
    np.testing.assert_array_equal(choose_actions(epsilon_greedy(q, legal, 0.0), legal), [1, 3])
    nobody = epsilon_greedy(q, np.zeros_like(legal), 0.1)
    assert np.isfinite(nobody).all()


def test_the_probability_of_a_mixture():
    logits = np.log([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]])
    legal = np.array([[True, True, False], [False, False, False]])
    got = mixture_probability(logits, legal, np.array([0, 0]), np.array([0.5, 0.5]))
    np.testing.assert_allclose(got, [0.5 * 2 / 3 + 0.5 / 2, 0])
