import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_offline.errors import MismatchError
from kd_offline.policies import (
    MixedTeam,
    RandomPolicy,
    choose_actions,
    epsilon_greedy,
    masked_log_softmax,
    mixture_probability,
)
from kd_offline.seeding import uniforms
from kd_offline.testing.targets import TargetsEnvironment, TargetsPolicy

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


def test_mixed_team_takes_each_agent_from_its_owner_and_keeps_both_memories():
    env = TargetsEnvironment()
    seeds = np.arange(5, dtype=np.uint64)
    view = env.reset(seeds)
    good, bad = TargetsPolicy(3.0), TargetsPolicy(-3.0)
    fresh = np.zeros(5, np.int64)
    team = MixedTeam.swapped(good, bad, [1], 2)
    output, memory = team.act(view, team.start(seeds))
    np.testing.assert_array_equal(output.logits[:, 0], good.act(view, fresh)[0].logits[:, 0])
    np.testing.assert_array_equal(output.logits[:, 1], bad.act(view, fresh)[0].logits[:, 1])
    assert [m.tolist() for m in memory] == [[1] * 5, [1] * 5]


def test_mixed_team_refuses_an_owner_that_is_not_there():
    with pytest.raises(MismatchError, match="indices below 1"):
        MixedTeam((RandomPolicy(),), (0, 1))


@pytest.mark.parametrize("drawn", [False, True])
def test_random_play_is_uniform_over_legal_actions(drawn):
    seeds = np.arange(4000, dtype=np.uint64)
    view = TargetsEnvironment().reset(seeds)
    policy = RandomPolicy(drawn=drawn)
    output, _ = policy.act(view, policy.start(seeds))
    numbers = None if drawn else uniforms(seeds, 0, (2,), "action")
    chosen = choose_actions(output.logits, view.available_actions, numbers)
    np.testing.assert_allclose(np.bincount(chosen[:, 0]) / 4000, [1 / 3] * 3, atol=0.03)
    np.testing.assert_allclose(np.bincount(chosen[:, 1]) / 4000, [1 / 4] * 4, atol=0.03)


def test_drawn_actions_are_the_same_greedily_and_sampled():
    seeds = np.arange(50, dtype=np.uint64)
    view = TargetsEnvironment().reset(seeds)
    policy = RandomPolicy(drawn=True)
    output, memory = policy.act(view, policy.start(seeds))
    greedy = choose_actions(output.logits, view.available_actions)
    sampled = choose_actions(output.logits, view.available_actions, np.full((50, 2), 0.999))
    np.testing.assert_array_equal(greedy, sampled)
    again = choose_actions(policy.act(view, memory)[0].logits, view.available_actions)
    assert (again != greedy).any(), "each step draws anew"


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
