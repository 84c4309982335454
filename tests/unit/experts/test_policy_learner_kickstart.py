"""A teacher is asked along what the learner plays, and lets go of it."""

import json

import numpy as np
import pytest
import torch

from kd_offline import environments
from kd_offline.distributions.categorical import Categorical
from kd_offline.distributions.categorical_tensors import CategoricalTensors
from kd_offline.errors import UnknownNameError
from kd_offline.experts import checkpoint
from kd_offline.experts.algorithms.clipped_policy import Kickstart, PolicyRecipe
from kd_offline.experts.load import load
from kd_offline.experts.policy_learner import Teacher
from kd_offline.experts.ppo import Pull
from kd_offline.experts.recipe import recipe_from
from kd_offline.experts.train import train
from kd_offline.rollout.collect import collect_sampled
from kd_offline.rollout.policies import RandomPolicy
from kd_offline.schemas.expert import ExpertArchitecture
from kd_offline.seeding import episode_seeds
from kd_offline.tracking.base import FunctionObserver

SPREAD = "mpe/simple_spread_v3"
SEEDS = episode_seeds(3, 0, 24)
RECIPE = PolicyRecipe(
    environment=SPREAD,
    architecture=ExpertArchitecture(trunk=(16,), gru=16, critic_trunk=(8,), critic_gru=8),
    frames=6 * 32 * 25,
    episodes_per_batch=32,
    minibatches=2,
    epochs=3,
    learning_rate=5e-3,
    kickstart=Kickstart(teacher="bundled", weight=5.0, frames=4 * 32 * 25),
)


def teacher(spec, **settings):
    made = Teacher.of(Kickstart(teacher="bundled", **settings), spec)
    assert made is not None
    return made


def test_the_divergence_is_that_of_the_definition():
    """KL((1/2, 1/4, 1/4) || (1/4, 1/4, 1/2)) = 1/2 log 2 - 1/4 log 2."""
    every = torch.ones(1, 1, 1, 3, dtype=torch.bool)
    said, mine = (
        CategoricalTensors(torch.tensor(shares).log().view(1, 1, 1, 3), every)
        for shares in ([0.5, 0.25, 0.25], [0.25, 0.25, 0.5])
    )
    assert Pull(1.0, said.kept()).divergence(mine).item() == pytest.approx(np.log(2) / 4)
    assert Pull(1.0, said.kept()).divergence(said).item() == 0


def test_illegal_actions_add_nothing():
    legal = torch.tensor([True, True, False]).view(1, 1, 1, 3)
    said, mine = (
        CategoricalTensors(torch.tensor(logits).view(1, 1, 1, 3), legal)
        for logits in ([0.0, 0.0, 9.0], [0.0, 1.0, -7.0])
    )
    expected = np.log(0.5) - 0.5 * mine.kept()[..., :2].sum().item()
    assert Pull(1.0, said.kept()).divergence(mine).item() == pytest.approx(expected)


@pytest.mark.parametrize("task", [SPREAD, "smax/3m"])
def test_a_teacher_says_along_its_own_episodes_what_it_said_then(task):
    """Its memory is of these episodes, battles that end at different steps among them."""
    world = environments.load(task)
    expert = load("bundled", world.spec, with_value=False)
    played = collect_sampled(world, expert, SEEDS)
    pull = teacher(world.spec).pull(played, SEEDS, frames=0)
    then = Categorical(played.steps["logits"], played.steps["available_actions"])
    counts = (played.steps["alive"] & played.valid[..., None])[..., None] & then.available
    assert counts.any()
    got, expected = pull.teacher.numpy()[counts], then.log_probabilities[counts]
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_the_pull_falls_linearly_and_ends():
    world = environments.load(SPREAD)
    played = collect_sampled(world, RandomPolicy(), SEEDS)
    known = teacher(world.spec, weight=2.0, frames=1000)
    pulls = [known.pull(played, SEEDS, frames) for frames in (0, 250, 999, 1000, 5000)]
    assert [pull and round(pull.weight, 6) for pull in pulls] == [2.0, 1.5, 0.002, None, None]


def test_what_is_learned_is_near_the_teacher_and_is_resumed(tmp_path):
    def stop(step, values, series):
        if values["train/iteration"] == 3:
            raise KeyboardInterrupt

    train(RECIPE, tmp_path / "a", threads=1, score_episodes=0)
    with pytest.raises(KeyboardInterrupt):
        train(
            RECIPE,
            tmp_path / "b",
            threads=1,
            observers=[FunctionObserver(metrics=stop)],
            score_episodes=0,
        )
    train(RECIPE, tmp_path / "b", threads=1, resume=True, score_episodes=0)
    assert checkpoint.digest(tmp_path / "a") == checkpoint.digest(tmp_path / "b")
    rows = [json.loads(row) for row in (tmp_path / "a" / checkpoint.CURVE).read_text().splitlines()]
    said = [row.get("teacher_kl") for row in rows]
    assert said[3] < said[0] - 0.05
    assert said[4:] == [None, None]


def test_without_a_teacher_of_that_name_nothing_is_begun(tmp_path):
    recipe = RECIPE.model_copy(update={"kickstart": Kickstart(teacher="nobody:there")})
    with pytest.raises(UnknownNameError, match="library of an expert"):
        train(recipe, tmp_path / "a", threads=1)
    assert not (tmp_path / "a").exists()


def test_value_based_experts_have_none():
    with pytest.raises(ValueError, match="kickstart means nothing to qmix"):
        recipe_from({"environment": SPREAD, "algorithm": "qmix", "kickstart": RECIPE.kickstart})
