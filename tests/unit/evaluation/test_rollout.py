from dataclasses import replace

import numpy as np
import pytest

from kd_offline.errors import UsageError
from kd_offline.evaluation import scores
from kd_offline.evaluation.play import SidePlay
from kd_offline.evaluation.rollout import rollout
from kd_offline.rollout.policies import MixedTeam, RandomPolicy
from kd_offline.seeding import episode_seeds
from kd_offline.testing.targets import TargetsEnvironment, TargetsPolicy

SEEDS = episode_seeds(3, 0, 200, "evaluation")
GOOD = TargetsPolicy()


def test_the_perfect_policy_earns_one_for_each_step_it_lives():
    got = rollout(TargetsEnvironment(), GOOD, SEEDS, greedy=True)
    np.testing.assert_array_equal(got.returns, got.alive_steps)
    np.testing.assert_array_equal(got.alive_steps[:, 0], got.lengths)
    assert got.won.tolist() == [1] * 200
    assert set(got.lengths.tolist()) == {2, 3, 4, 5, 6}
    assert (got.alive_steps[:, 1] == 1).any()


def test_the_worst_policy_pays_half_for_each_step_and_never_wins():
    got = rollout(TargetsEnvironment(), TargetsPolicy(-8.0), SEEDS, greedy=True)
    np.testing.assert_array_equal(got.returns, -0.5 * got.alive_steps)
    assert not got.won.any()


def test_a_task_without_wins_says_so():
    got = rollout(TargetsEnvironment(wins=False), GOOD, SEEDS, greedy=True)
    assert set(got.won.tolist()) == {-1}


@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_results_depend_on_the_seeds_alone(greedy, batch):
    policy, reference = TargetsPolicy(1.0, forgets_after=2), GOOD
    env = TargetsEnvironment()
    whole = rollout(env, policy, SEEDS, greedy=greedy, reference=reference)
    parts = rollout(env, policy, SEEDS[::-1], greedy=greedy, batch=batch, reference=reference)
    for name in ("returns", "lengths", "won", "alive_steps"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name)[::-1])
    np.testing.assert_array_equal(whole.action_counts, parts.action_counts)
    assert whole.agreement is not None
    assert parts.agreement is not None
    np.testing.assert_array_equal(whole.agreement.equal, parts.agreement.equal[::-1])


def test_a_broken_policy_earns_less():
    env = TargetsEnvironment()
    means = [
        rollout(env, p, SEEDS, greedy=False).returns.sum(axis=1).mean()
        for p in (GOOD, TargetsPolicy(8.0, forgets_after=2), RandomPolicy())
    ]
    assert means[0] > means[1] + 1 > means[2] + 1


def test_action_counts_cover_every_acting_step_and_no_other():
    got = rollout(TargetsEnvironment(), RandomPolicy(), SEEDS, greedy=False)
    assert got.action_counts.shape == (2, 6, 4)
    np.testing.assert_array_equal(got.action_counts.sum(axis=(1, 2)), got.alive_steps.sum(axis=0))
    assert got.action_counts[0, :, 3].sum() == 0, "the left agent has three actions"
    np.testing.assert_allclose(got.action_frequency[0].sum(axis=1), 1.0)


def test_agreement_with_itself_is_total_and_with_its_opposite_none():
    env = TargetsEnvironment()
    same = rollout(env, GOOD, SEEDS, greedy=False, reference=GOOD)
    assert same.agreement is not None
    np.testing.assert_array_equal(same.agreement.equal, same.alive_steps)
    np.testing.assert_array_equal(same.agreement.joint[:, 0], same.lengths)
    assert np.abs(same.agreement.kl).max() == 0
    other = rollout(env, TargetsPolicy(-8.0), SEEDS, greedy=True, reference=GOOD)
    assert other.agreement is not None
    assert not other.agreement.equal.any()
    assert other.agreement.kl.min() > 0


def test_joint_agreement_needs_all_agents():
    team = MixedTeam.swapped(GOOD, TargetsPolicy(-8.0), [1], 2)
    got = rollout(TargetsEnvironment(), team, SEEDS, greedy=True, reference=GOOD)
    assert got.agreement is not None
    np.testing.assert_array_equal(got.agreement.equal[:, 0], got.lengths)
    assert not got.agreement.equal[:, 1].any()
    # where the right agent has left, the left one agrees alone
    np.testing.assert_array_equal(got.agreement.joint[:, 0], got.lengths - got.alive_steps[:, 1])


def test_no_more_is_played_at_once_than_the_environment_can():
    class Narrow(TargetsEnvironment):
        largest_batch, widest = 3, 0

        def reset(self, seeds):
            self.widest = max(self.widest, len(seeds))
            return super().reset(seeds)

    narrow = Narrow()
    got = rollout(narrow, GOOD, SEEDS[:10], greedy=False)
    assert narrow.widest == 3
    whole = rollout(TargetsEnvironment(), GOOD, SEEDS[:10], greedy=False)
    np.testing.assert_array_equal(got.returns, whole.returns)


@pytest.mark.parametrize(("seeds", "batch"), [(SEEDS[:0], 4), (SEEDS, 0)])
def test_nothing_to_play_is_refused(seeds, batch):
    with pytest.raises(UsageError, match="at least 1"):
        rollout(TargetsEnvironment(), GOOD, seeds, greedy=True, batch=batch)


class Forced(TargetsEnvironment):
    """The game where the left agent never has a choice, and the right one neither if told so."""

    def __init__(self, agents):
        super().__init__()
        self.agents = agents

    def _view(self):
        view = super()._view()
        legal = view.available_actions.copy()
        legal[:, : self.agents, 1:] = False
        legal[:, : self.agents, 0] = view.alive[:, : self.agents]
        return replace(view, available_actions=legal)


def test_only_those_who_have_a_choice_can_agree():
    got = rollout(Forced(1), TargetsPolicy(-8.0), SEEDS, greedy=True, reference=GOOD).agreement
    assert not got.decisions[:, 0].any()
    assert not got.equal.any()
    assert not got.joint.any(), "the right agent decides alone, and otherwise"
    np.testing.assert_array_equal(got.moments[:, 0], got.decisions[:, 1])


def test_where_nobody_has_a_choice_agreement_is_undefined():
    environment = Forced(2)
    played = rollout(environment, GOOD, SEEDS, greedy=True, reference=GOOD)
    assert not played.agreement.decisions.any()
    side = SidePlay((0, 1), played, (played,), played, None)
    assert scores.agreement(environment.spec, [side]) is None
    usual = rollout(TargetsEnvironment(), GOOD, SEEDS, greedy=True, reference=GOOD)
    found = scores.agreement(environment.spec, [replace(side, students=(usual,))])
    assert (found.action, found.joint) == (1.0, 1.0)
