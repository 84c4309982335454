from dataclasses import replace

import numpy as np
import pytest
import torch

from kd_offline import environments
from kd_offline.experts import ppo
from kd_offline.experts.algorithms.clipped_policy import PolicyRecipe
from kd_offline.experts.policy_team import NetworkPolicy
from kd_offline.experts.team import ActorCritic
from kd_offline.rollout.collect import collect
from kd_offline.rollout.play import sampled
from kd_offline.schemas.expert import ExpertArchitecture
from kd_offline.seeding import episode_seeds

RECIPE = PolicyRecipe(environment="mpe/simple_spread_v3", minibatches=2, epochs=1)
SIDES = torch.tensor([0, 1])


def test_value_norm_tracks_each_side():
    norm = ppo.ValueNorm(2, decay=0.5)
    mean, deviation = norm.statistics(SIDES)
    assert mean.tolist() == [0, 0]
    assert deviation.tolist() == [1, 1]
    returns = torch.tensor([[[1.0, 10.0]], [[3.0, 30.0]]])
    norm.update(returns, torch.ones_like(returns), SIDES)
    mean, deviation = norm.statistics(SIDES)
    torch.testing.assert_close(mean, torch.tensor([2.0, 20.0]))
    torch.testing.assert_close(deviation, torch.tensor([1.0, 10.0]))


def test_value_norm_ignores_what_has_no_weight():
    norm = ppo.ValueNorm(2)
    returns = torch.tensor([[[1.0, 5.0]], [[99.0, 5.0]]])
    weight = torch.tensor([[[1.0, 1.0]], [[0.0, 1.0]]])
    norm.update(returns, weight, SIDES)
    mean, deviation = norm.statistics(SIDES)
    torch.testing.assert_close(mean, torch.tensor([1.0, 5.0]))
    assert deviation.min().item() == pytest.approx(0.1)  # the floor of the variance


def played(episodes=8):
    world = environments.load("mpe/simple_spread_v3")
    shape = ExpertArchitecture(trunk=(8,), gru=8, critic_trunk=(8,), critic_gru=8)
    model = ActorCritic(world.spec, shape, None, np.random.default_rng(0))
    norm = ppo.ValueNorm(1)
    seeds = episode_seeds(0, 0, episodes)
    return model, norm, collect(world, NetworkPolicy(model, norm), seeds, sampled(seeds))


def test_advantages_are_standardised_over_learning_agents():
    model, norm, episodes = played()
    batch, explained = ppo.make_batch(
        episodes, RECIPE, norm, model.side_of, torch.tensor([1.0, 0.0, 1.0])
    )
    mine = batch.advantage[..., [0, 2]]
    assert mine.mean().item() == pytest.approx(0, abs=1e-5)
    assert mine.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert batch.weight[..., 1].sum() == 0
    assert explained < 1


def two_sides(reward):
    """Return a game of one step for two sides: two episodes, with these rewards [2, 2]."""
    world = environments.load(
        "pettingzoo/pettingzoo.classic.tictactoe_v3:env", episode_limit=9, sides="each"
    )
    shape = ExpertArchitecture(trunk=(8,), gru=8, critic_trunk=(8,), critic_gru=8)
    model = ActorCritic(world.spec, shape, None, np.random.default_rng(0))
    seeds = episode_seeds(0, 0, 2)
    found = collect(world, NetworkPolicy(model, ppo.ValueNorm(2)), seeds, sampled(seeds))
    first = {name: values[:1] for name, values in found.steps.items()}
    first |= {
        "reward": np.array([reward], np.float32),
        "value": np.zeros((1, 2, 2), np.float32),
        "alive": np.ones((1, 2, 2), bool),
        "terminated": np.ones((1, 2), bool),
    }
    return replace(found, steps=first, length=np.ones(2, int))


def test_opposing_sides_are_normalised_apart():
    """Side 0 earns 1 and 3, side 1 earns 300 and 100: both are 1 away from their mean."""
    episodes = two_sides([[1.0, 300.0], [3.0, 100.0]])
    batch, explained = ppo.make_batch(episodes, RECIPE, ppo.ValueNorm(2), SIDES, torch.ones(2))
    torch.testing.assert_close(batch.advantage, torch.tensor([[[-1.0, 1.0], [1.0, -1.0]]]))
    # A critic that always says 0 explains nothing of either: what it leaves is the mean as well.
    assert explained == pytest.approx(1 - (10 + 100_000) / (2 + 20_000), rel=1e-5)


def test_a_side_that_does_not_learn_changes_nothing():
    learning = torch.tensor([1.0, 0.0])
    batches = [
        ppo.make_batch(two_sides(reward), RECIPE, ppo.ValueNorm(2), SIDES, learning)
        for reward in ([[1.0, 300.0], [3.0, 100.0]], [[1.0, -7.0], [3.0, 0.0]])
    ]
    (first, explained), (second, other) = batches
    assert explained == other
    for name in ("advantage", "target", "old_value", "weight"):
        ours, theirs = (getattr(batch, name)[..., 0] for batch in (first, second))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert first.advantage[0, :, 0].tolist() == pytest.approx([-1.0, 1.0])
    assert not first.weight[..., 1].any()


def test_a_teacher_adds_its_weighted_divergence_to_the_loss():
    model, norm, episodes = played()
    batch, _ = ppo.make_batch(episodes, RECIPE, norm, model.side_of, torch.ones(3))
    uniform = torch.full_like(batch.available, -np.log(5.0), dtype=torch.float32)
    pulled = replace(batch, pull=ppo.Pull(2.0, uniform))
    rows = torch.arange(4)
    (alone, figures), (loss, taught) = (
        ppo._loss(model, each.take(rows), RECIPE) for each in (batch, pulled)
    )
    assert figures[-1] == 0
    assert taught[-1] > 0
    torch.testing.assert_close(loss, alone + 2 * taught[-1])


def test_the_first_step_sees_a_ratio_of_one():
    model, norm, episodes = played()
    batch, _ = ppo.make_batch(episodes, RECIPE, norm, model.side_of, torch.ones(3))
    optimiser = torch.optim.SGD(model.parameters(), 0.0)
    statistics = ppo.update(model, optimiser, batch, RECIPE, np.random.default_rng(0))
    assert statistics.approximate_kl == pytest.approx(0, abs=1e-6)
    assert statistics.clip_fraction == 0
    assert statistics.entropy == pytest.approx(np.log(5), abs=0.01)


def test_an_update_raises_the_probability_of_good_actions():
    model, norm, episodes = played(32)
    batch, _ = ppo.make_batch(episodes, RECIPE, norm, model.side_of, torch.ones(3))
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    ppo.update(model, optimiser, batch, RECIPE, np.random.default_rng(0))
    before = torch.full_like(batch.actions, -1)
    logits = model.act_episodes(batch.seen, before, torch.full((32, 3), len(batch.obs)))
    after = torch.log_softmax(logits, -1).gather(-1, batch.actions.unsqueeze(-1)).squeeze(-1)
    assert ((after - batch.logprob) * batch.advantage).mean() > 0


def test_nobody_learns_from_dead_agents_and_after_the_end():
    """Entries without weight may hold anything; steps in which nobody acts are left out."""
    model, norm, episodes = played()
    batch, _ = ppo.make_batch(episodes, RECIPE, norm, model.side_of, torch.ones(3))
    batch.weight[10:] = 0
    batch.weight[4:, :, 1] = 0
    everyone = torch.arange(batch.obs.shape[1])
    short = batch.take(everyone)
    assert len(short.obs) == 10
    expected, statistics = ppo._loss(model, batch, RECIPE)
    torch.testing.assert_close(ppo._loss(model, short, RECIPE), (expected, statistics))
    batch.available[4:, :, 1] = False
    for values in (batch.advantage, batch.target, batch.old_value, batch.logprob):
        values[4:, :, 1] = 7.0
    batch.actions[4:, :, 1] = 0
    got, _ = ppo._loss(model, batch, RECIPE)
    torch.testing.assert_close(got, expected)


def test_what_is_illegal_gets_no_probability_and_no_entropy():
    model, norm, episodes = played()
    batch, _ = ppo.make_batch(episodes, RECIPE, norm, model.side_of, torch.ones(3))
    batch.available[..., 1:] = False
    batch.actions[:], batch.logprob[:] = 0, 0.0
    _, statistics = ppo._loss(model, batch, RECIPE)
    assert statistics[:3].abs().max() < 1e-6  # entropy, divergence, share of clipped ratios


def test_what_a_critic_says_of_a_player_that_waits_counts_nothing():
    game = "pettingzoo/pettingzoo.classic.tictactoe_v3:env"
    world = environments.load(game, episode_limit=9, sides="each")
    shape = ExpertArchitecture(trunk=(8,), gru=8, critic_trunk=(8,), critic_gru=8)
    model, norm = ActorCritic(world.spec, shape, None, np.random.default_rng(0)), ppo.ValueNorm(2)
    seeds = episode_seeds(0, 0, 12)
    game_played = collect(world, NetworkPolicy(model, norm), seeds, sampled(seeds))
    alive = game_played.steps["alive"]
    spoiled = np.where(alive, game_played.steps["value"], 1e6).astype(np.float32)
    batches = []
    for value in (game_played.steps["value"], spoiled):
        seen = replace(game_played, steps={**game_played.steps, "value": value})
        batch, _ = ppo.make_batch(seen, RECIPE, ppo.ValueNorm(2), SIDES, torch.ones(2))
        batches.append(batch)
    acts = batches[0].weight > 0
    assert int(acts.sum()) == int(game_played.length.sum())  # one move a step
    for name in ("advantage", "target", "old_value"):
        clean, noisy = (getattr(batch, name)[acts] for batch in batches)
        torch.testing.assert_close(clean, noisy, rtol=0, atol=0)
    loser = game_played.steps["reward"].sum(0).min(1) < 0
    assert loser.any()  # whose loss comes while it waits, and reaches its last move
