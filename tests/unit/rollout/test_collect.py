from unittest.mock import patch

import numpy as np

from kd_offline import environments
from kd_offline.rollout.collect import collect, collect_sampled, concatenate
from kd_offline.rollout.play import sampled
from kd_offline.rollout.policies import RandomPolicy
from kd_offline.seeding import episode_seeds
from kd_offline.testing.targets import TargetsEnvironment


def test_an_episode_does_not_depend_on_its_batch():
    world = environments.load("mpe/simple_spread_v3")
    seeds = episode_seeds(3, 0, 6)
    together = collect(world, RandomPolicy(), seeds, sampled(seeds))
    alone = collect(world, RandomPolicy(), seeds[4:5], sampled(seeds[4:5]))
    for name, values in together.steps.items():
        np.testing.assert_array_equal(values[:, 4], alone.steps[name][:, 0], err_msg=name)


def test_rows_are_views_before_and_results_after_the_action():
    world = environments.load("mpe/simple_spread_v3")
    seeds = episode_seeds(0, 0, 2)
    played = collect(world, RandomPolicy(), seeds, sampled(seeds))
    view = world.reset(seeds)
    for t in range(25):
        np.testing.assert_array_equal(played.steps["obs"][t], view.obs)
        outcome = world.step(played.steps["actions"][t])
        np.testing.assert_array_equal(played.steps["reward"][t], outcome.reward)
        view = outcome.view
    np.testing.assert_array_equal(played.final["obs"], view.obs)
    assert played.steps["truncated"][-1].all()
    assert not played.steps["truncated"][:-1].any()
    np.testing.assert_allclose(played.steps["behaviour_logprob"], -np.log(5), rtol=1e-6)


def test_episodes_of_different_lengths():
    world = TargetsEnvironment()
    seeds = episode_seeds(0, 0, 40)
    played = collect(world, RandomPolicy(), seeds, sampled(seeds))
    assert len(set(played.length.tolist())) > 1
    ends = played.steps["terminated"] | played.steps["truncated"]
    last = played.length - 1
    assert ends[last, np.arange(40)].all()
    assert not (ends & played.valid)[: last.min()].any()
    assert (played.steps["reward"][~played.valid] == 0).all()
    assert set(played.won.tolist()) <= {0, 1}


def test_parts_are_joined_to_what_was_played_at_once():
    world, seeds = TargetsEnvironment(), episode_seeds(0, 0, 12)
    parts = [seeds[:1], seeds[1:5], seeds[5:]]
    played = [collect(world, RandomPolicy(), part, sampled(part)) for part in parts]
    assert len({len(part.steps["obs"]) for part in played}) > 1
    together, whole = concatenate(played), collect(world, RandomPolicy(), seeds, sampled(seeds))
    np.testing.assert_array_equal(together.length, whole.length)
    np.testing.assert_array_equal(together.won, whole.won)
    for name, values in whole.steps.items():
        np.testing.assert_array_equal(together.steps[name][whole.valid], values[whole.valid])
    for name, values in whole.final.items():
        np.testing.assert_array_equal(together.final[name], values)


def test_no_more_are_played_at_once_than_can_be():
    world, seeds = TargetsEnvironment(), episode_seeds(0, 0, 12)
    whole = collect(world, RandomPolicy(), seeds, sampled(seeds))
    setattr(world, "largest_batch", 5)  # noqa: B010 - most environments have none
    with patch.object(world, "reset", wraps=world.reset) as reset:
        played = collect_sampled(world, RandomPolicy(), seeds, without=("logits",))
    assert [len(call.args[0]) for call in reset.call_args_list] == [5, 5, 2]
    assert played.steps.keys() == whole.steps.keys() - {"logits"}
    np.testing.assert_array_equal(played.length, whole.length)
    actions = whole.steps["actions"][whole.valid]
    np.testing.assert_array_equal(played.steps["actions"][whole.valid], actions)
