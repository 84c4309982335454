import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_offline.distributions.categorical import Categorical, epsilon_greedy

LOGITS = np.array([[math.log(1), math.log(2), math.log(5), 50.0]])
LEGAL = np.array([[True, True, True, False]])


@pytest.mark.parametrize(
    ("uniform", "action"),
    [(0.0, 0), (0.1249, 0), (0.1251, 1), (0.3749, 1), (0.3751, 2), (1 - 2**-53, 2)],
)
def test_sampling_inverts_the_hand_worked_cdf(uniform, action):
    # weights 1, 2, 5 of 8: the cumulative distribution is 0.125, 0.375, 1
    assert Categorical(LOGITS, LEGAL).sample(np.array([uniform])).tolist() == [action]


def test_greedy_is_the_best_legal_action_and_ties_go_to_the_lowest():
    logits = np.array([[1.0, 3.0, 3.0], [9.0, -5.0, -6.0], [4.0, 4.0, 4.0]])
    legal = np.array([[True, True, True], [False, True, True], [False, False, False]])
    assert Categorical(logits, legal).mode().tolist() == [1, 1, 0]


def test_log_softmax_is_over_legal_actions_only():
    got = np.exp(Categorical(LOGITS, LEGAL).log_probabilities)
    np.testing.assert_allclose(got, [[1 / 8, 2 / 8, 5 / 8, 0]], rtol=1e-12)
    nobody = Categorical(LOGITS, np.zeros_like(LEGAL))
    assert np.isneginf(nobody.log_probabilities).all()


@given(
    st.lists(st.floats(-80, 80, width=32), min_size=1, max_size=6),
    st.integers(0, 2**6 - 1),
    st.floats(0, 1, exclude_max=True),
)
def test_every_choice_is_legal(logits, mask, uniform):
    legal = np.array([[bool(mask >> k & 1) for k in range(len(logits))]])
    policy = Categorical(np.array([logits], np.float32), legal)
    chosen = [policy.mode()[0], policy.sample(np.array([uniform]))[0]]
    assert all(legal[0, a] or not legal.any() for a in chosen)


def test_sampled_frequencies_follow_the_probabilities():
    uniforms = (np.arange(8000) + 0.5) / 8000
    wide = np.broadcast_to(LOGITS, (8000, 4))
    policy = Categorical(wide, np.broadcast_to(LEGAL, (8000, 4)))
    counts = np.bincount(policy.sample(uniforms))
    assert counts.tolist() == [1000, 2000, 5000]


def test_epsilon_greedy_is_greedy_but_for_epsilon():
    q = np.array([[1.0, 5.0, 3.0, 9.0], [0.0, 0.0, 0.0, 0.0]])
    legal = np.array([[True, True, True, False], [False, False, False, True]])
    logits = epsilon_greedy(q, legal, 0.3)
    assert logits.dtype == np.float32
    likely = np.exp(Categorical(logits, legal).log_probabilities)
    np.testing.assert_allclose(likely, [[0.1, 0.8, 0.1, 0], [0, 0, 0, 1]], atol=1e-6)
    for epsilon in (0.0, 1.0):
        logits = epsilon_greedy(q, legal, epsilon)
        assert np.isfinite(logits).all()
    greedy = Categorical(epsilon_greedy(q, legal, 0.0), legal).mode()
    np.testing.assert_array_equal(greedy, [1, 3])
    nobody = epsilon_greedy(q, np.zeros_like(legal), 0.1)
    assert np.isfinite(nobody).all()


def test_the_probability_of_a_mixture():
    logits = np.log([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]])
    legal = np.array([[True, True, False], [False, False, False]])
    policy = Categorical(logits, legal)
    got = policy.mixture_probability(np.array([0, 0]), np.array([0.5, 0.5]))
    np.testing.assert_allclose(got, [0.5 * 2 / 3 + 0.5 / 2, 0])


def test_entropy_and_divergence_are_over_legal_actions_only():
    other = Categorical(np.zeros((1, 4)), LEGAL)
    share = np.array([1, 2, 5]) / 8
    policy = Categorical(LOGITS, LEGAL)
    assert policy.entropy() == pytest.approx(-(share * np.log(share)).sum())
    assert other.entropy() == pytest.approx(math.log(3))
    assert policy.kl(other) == pytest.approx((share * np.log(3 * share)).sum())
    nobody = Categorical(LOGITS, np.zeros_like(LEGAL))
    assert nobody.entropy() == nobody.kl(nobody) == 0


def test_certain_parameters_are_always_followed():
    actions = np.array([2, 0])
    legal = np.ones((2, 4), bool)
    policy = Categorical(Categorical.certain(actions, legal), legal)
    np.testing.assert_array_equal(policy.mode(), actions)
    np.testing.assert_array_equal(policy.sample(np.array([0.0, 1 - 2**-53])), actions)


def test_even_noise_is_uniform_over_what_is_legal():
    even = Categorical.even(LEGAL)
    np.testing.assert_allclose(np.exp(even.log_probabilities), [[1 / 3, 1 / 3, 1 / 3, 0]])


def test_only_more_than_one_legal_action_is_a_choice():
    legal = np.array([[True, True], [False, True], [False, False]])
    assert Categorical.has_choice(legal).tolist() == [True, False, False]


def test_near_the_mode_is_what_rounding_could_swap():
    logits = np.array([[10.0, 10.0005, 9.9]] * 3, np.float32)
    policy = Categorical(logits, np.ones((3, 3), bool))
    assert policy.near_mode(np.array([0, 1, 2]), 1e-4).tolist() == [True, True, False]
