import itertools

import numpy as np
import pytest

from kd_offline.errors import MismatchError
from kd_offline.evaluation.rollout import rollout
from kd_offline.rollout.collect import collect
from kd_offline.rollout.play import Play, drawn, greedy, sampled
from kd_offline.rollout.policies import RandomPolicy
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
