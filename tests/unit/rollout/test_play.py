import itertools

import numpy as np
import pytest

from kd_offline.environments import load
from kd_offline.errors import MismatchError
from kd_offline.evaluation.rollout import rollout
from kd_offline.rollout.collect import collect
from kd_offline.rollout.play import Play, drawn, greedy, sampled
from kd_offline.rollout.policies import MixedTeam, RandomPolicy
from kd_offline.seeding import episode_seeds
from kd_offline.testing.targets import TargetsEnvironment, TargetsPolicy
from kd_offline.types import PolicyOutput

SEEDS = episode_seeds(0, 0, 40)
GOOD = TargetsPolicy(3.0)


def test_steps_are_handed_out_until_the_last_episode_is_over():
    play = Play(TargetsEnvironment(), GOOD, SEEDS)
    steps = list(play.steps(greedy))
    assert [step.number for step in steps] == list(range(len(steps)))
    length = np.sum([step.running for step in steps], axis=0)
    assert len(set(length)) > 1
    assert max(length) == len(steps)
    for step in steps:
        np.testing.assert_array_equal(step.running, length > step.number)
        np.testing.assert_array_equal(step.seen, length >= step.number)
    np.testing.assert_array_equal(play.view.last_actions, steps[-1].choice.actions)


def test_the_first_view_has_no_last_actions_and_later_ones_have_what_was_done():
    steps = list(Play(TargetsEnvironment(), GOOD, SEEDS).steps(drawn(SEEDS)))
    assert steps[0].view.last_actions is None
    for before, after in itertools.pairwise(steps):
        np.testing.assert_array_equal(after.view.last_actions, before.choice.actions)


def test_both_ways_to_sample_take_the_same_actions():
    step = next(Play(TargetsEnvironment(), GOOD, SEEDS).steps(drawn(SEEDS)))
    again = sampled(SEEDS)(0, step.view, step.policy)
    np.testing.assert_array_equal(again.actions, step.choice.actions)
    assert again.logprob is not None
    assert (again.logprob <= 0).all()


def test_what_is_kept_and_what_is_summed_are_the_same_episodes():
    kept = collect(TargetsEnvironment(), GOOD, SEEDS, sampled(SEEDS))
    sums = rollout(TargetsEnvironment(), GOOD, SEEDS, greedy=False)
    reward = np.where(kept.valid[..., None], kept.steps["reward"], 0).sum(0, dtype=np.float64)
    np.testing.assert_allclose(sums.returns, reward)
    np.testing.assert_array_equal(sums.lengths, kept.length)
    np.testing.assert_array_equal(sums.won, kept.won)


class Sighted:
    """A policy that acts by full observations; it keeps what it was shown."""

    needs_full = True

    def start(self, seeds):
        return []

    def act(self, view, memory):
        logits = np.where(view.available_actions, 0.0, -1.0).astype(np.float32)
        return PolicyOutput(logits), [*memory, view.obs_full]


def board(**settings):
    return load("grid/predator_prey", size=4, n_predators=2, n_prey=1, view=3, **settings)


def last_view(policy, **asked):
    play = Play(board(), policy, SEEDS[:3], **asked)
    step = next(play.steps(greedy))
    return step.view, play


def test_full_observations_are_there_where_the_policy_acts_by_them_and_only_there():
    view, _ = last_view(Sighted())
    np.testing.assert_array_equal(view.obs_full, fresh_full())
    assert last_view(RandomPolicy())[0].obs_full is None


def fresh_full():
    environment = board()
    environment.reset(SEEDS[:3])
    return environment.full_observations()


def test_full_observations_are_there_where_a_member_of_the_team_acts_by_them():
    team = MixedTeam((RandomPolicy(), Sighted()), (0, 1))
    assert last_view(team)[0].obs_full is not None
    rollout(board(), RandomPolicy(), SEEDS[:3], greedy=True, reference=Sighted())


def test_full_observations_are_there_where_they_are_asked_for():
    view, _ = last_view(RandomPolicy(), full=True)
    np.testing.assert_array_equal(view.obs_full, fresh_full())
    kept = collect(board(), RandomPolicy(), SEEDS[:3], sampled(SEEDS[:3]), full=True)
    assert kept.steps["obs_full"].shape == (len(kept.valid), 3, 2, 3 * 49 + 2)
    assert kept.final["obs_full"].shape == (3, 2, 3 * 49 + 2)
    np.testing.assert_array_equal(kept.view(0).obs_full, fresh_full())


def test_asking_for_full_observations_changes_no_episode():
    plain, full = (
        collect(board(), RandomPolicy(), SEEDS[:5], sampled(SEEDS[:5]), full=asked)
        for asked in (False, True)
    )
    assert full.steps.keys() - plain.steps.keys() == {"obs_full"}
    for name, values in plain.steps.items():
        np.testing.assert_array_equal(full.steps[name], values)


class Narrow:
    """A policy of two agents with three actions, whatever the environment has."""

    def start(self, seeds):
        return None

    def act(self, view, memory):
        return PolicyOutput(np.zeros((len(view.obs), 2, 3), np.float32)), None


def test_logits_of_another_environment_are_refused():
    with pytest.raises(MismatchError, match=r"logits of shape \(40, 2, 3\) where test/targets"):
        next(Play(TargetsEnvironment(), Narrow(), SEEDS).steps(greedy))


def test_an_episode_without_an_end_is_refused():
    world = TargetsEnvironment()
    world.spec = world.spec.model_copy(update={"episode_limit": 1})
    with pytest.raises(MismatchError, match="had not ended after its limit of 1 steps"):
        list(Play(world, RandomPolicy(), SEEDS).steps(sampled(SEEDS)))
