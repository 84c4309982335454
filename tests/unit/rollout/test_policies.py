import numpy as np
import pytest

from kd_offline.distributions.categorical import Categorical
from kd_offline.errors import MismatchError
from kd_offline.rollout.policies import MixedTeam, RandomPolicy
from kd_offline.seeding import uniforms
from kd_offline.testing.targets import TargetsEnvironment, TargetsPolicy


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
    said = Categorical(output.logits, view.available_actions)
    chosen = said.mode() if drawn else said.sample(uniforms(seeds, 0, (2,), "action"))
    np.testing.assert_allclose(np.bincount(chosen[:, 0]) / 4000, [1 / 3] * 3, atol=0.03)
    np.testing.assert_allclose(np.bincount(chosen[:, 1]) / 4000, [1 / 4] * 4, atol=0.03)


def test_drawn_actions_are_the_same_greedily_and_sampled():
    seeds = np.arange(50, dtype=np.uint64)
    view = TargetsEnvironment().reset(seeds)
    policy = RandomPolicy(drawn=True)
    output, memory = policy.act(view, policy.start(seeds))
    said = Categorical(output.logits, view.available_actions)
    greedy, sampled = said.mode(), said.sample(np.full((50, 2), 0.999))
    np.testing.assert_array_equal(greedy, sampled)
    again = Categorical(policy.act(view, memory)[0].logits, view.available_actions).mode()
    assert (again != greedy).any(), "each step draws anew"
