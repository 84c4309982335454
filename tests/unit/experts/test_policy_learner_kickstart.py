"""A teacher is asked along what the learner plays, and lets go of it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from kd_offline import environments
from kd_offline.distributions.categorical import Categorical
from kd_offline.distributions.categorical_tensors import CategoricalTensors
from kd_offline.errors import UnknownNameError
from kd_offline.experts import checkpoint, ppo
from kd_offline.experts.algorithms import ALGORITHMS
from kd_offline.experts.algorithms.clipped_policy import Kickstart, PolicyRecipe
from kd_offline.experts.load import load
from kd_offline.experts.policy_learner import Teacher
from kd_offline.experts.policy_team import NetworkPolicy
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


def test_a_proximal_pull_stays_and_a_plain_one_is_written_as_before():
    world = environments.load(SPREAD)
    played = collect_sampled(world, RandomPolicy(), SEEDS)
    known = teacher(world.spec, weight=2.0, form="proximal")
    assert [known.pull(played, SEEDS, n).weight for n in (0, 10**9)] == [2.0, 2.0]
    assert known.pull(played, SEEDS, 0).proximal
    plain = Kickstart(teacher="bundled").model_dump(mode="json")
    assert plain == {"teacher": "bundled", "weight": 1.0, "frames": 1_000_000}


def test_a_proximal_divergence_counts_by_the_ratio_clipped_from_below():
    """max(ratio, 1 - 0.2): 0.5, 1, 1.5 become 0.8, 1, 1.5, and 0.8 has no gradient."""
    ratio = torch.tensor([0.5, 1.0, 1.5], requires_grad=True)
    share = Pull(1.0, torch.zeros(3), proximal=True).share(ratio, 0.2)
    np.testing.assert_allclose(share.detach(), [0.8, 1.0, 1.5])
    share.sum().backward()
    assert ratio.grad.tolist() == [0.0, 1.0, 1.0]
    assert Pull(1.0, torch.zeros(3)).share(ratio, 0.2).tolist() == [1.0, 1.0, 1.0]


def test_the_loss_gets_the_weighted_mean_of_both():
    world = environments.load(SPREAD)
    algorithm, norm = ALGORITHMS.load("mappo"), ppo.ValueNorm(1)
    model = algorithm.team(world.spec, RECIPE, None, np.random.default_rng(0)).actors
    learner = NetworkPolicy(model, norm)
    played = collect_sampled(world, learner, SEEDS)
    batch, _ = ppo.make_batch(played, RECIPE, norm, model.side_of, torch.ones(3))
    with torch.no_grad():  # so that the played actions are of another probability now
        dict(model.actors.named_parameters())["0.head.bias"].add_(torch.linspace(-1, 1, 5))
    losses = {}
    for form in (None, "plain", "proximal"):
        pull = (
            None
            if form is None
            else teacher(world.spec, weight=2.0, form=form).pull(played, SEEDS, 0)
        )
        losses[form] = ppo._loss(model, replace(batch, pull=pull), RECIPE)[0].item()
    logits = model.act_episodes(
        batch.seen,
        torch.cat([torch.full_like(batch.actions[:1], -1), batch.actions[:-1]]),
        torch.full((len(SEEDS), 3), 25),
    )
    policy = CategoricalTensors(logits, batch.available)
    ratio = (policy.log_prob(batch.actions) - batch.logprob).exp().detach().numpy()
    away = teacher(world.spec).pull(played, SEEDS, 0).divergence(policy).detach().numpy()
    assert (ratio < 0.8).any()
    plain, proximal = (losses[form] - losses[None] for form in ("plain", "proximal"))
    assert plain == pytest.approx(2 * away.mean(), rel=1e-4)
    assert proximal == pytest.approx(2 * (np.maximum(ratio, 0.8) * away).mean(), rel=1e-4)
    assert proximal != pytest.approx(plain, rel=1e-3)


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
