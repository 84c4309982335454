from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch

from kd_offline.experts import value_learner
from kd_offline.experts.algorithms import ALGORITHMS
from kd_offline.experts.algorithms.mixed_values import ValueRecipe
from kd_offline.experts.mixing import best_legal
from kd_offline.experts.replay import Batch, Replay
from kd_offline.experts.value_learner import Networks, greedy_actions, lambda_returns
from kd_offline.experts.value_team import ValueTeam
from kd_offline.networks.mixers import SumMixer
from kd_offline.rollout.collect import collect
from kd_offline.rollout.play import sampled
from kd_offline.rollout.policies import RandomPolicy
from kd_offline.testing.targets import TargetsEnvironment


def returns(reward, value, ends, **settings):
    rows: dict[str, list[list[bool]]] = {"terminated": [], "truncated": []}
    for kind, flags in rows.items():
        flags += [[kind.startswith(e) if e else False for e in row] for row in ends]
    wanted = {"gamma": 0.5, "td_lambda": 0.5, "bootstrap_on_truncation": True}
    return lambda_returns(
        torch.tensor(reward),
        torch.tensor(value),
        torch.tensor(rows["terminated"]),
        torch.tensor(rows["truncated"]),
        **wanted | settings,
    )


def test_td_lambda_worked_by_hand():
    """Two steps, then a termination; gamma = lambda = 1/2.

    G_1 = 4. G_0 = 1 + 1/2 (1/2 * V_1 + 1/2 * G_1) = 1 + 1/2 (1/2 * 6 + 1/2 * 4) = 3.5.
    """
    got = returns([[1.0], [4.0]], [[9.0], [6.0], [100.0]], [[""], ["term"]])
    torch.testing.assert_close(got, torch.tensor([[3.5], [4.0]]))


def test_a_truncation_bootstraps_and_a_termination_does_not():
    """After a truncation G_1 = 4 + 1/2 * 10 = 9 and G_0 = 1 + 1/2 (1/2 * 6 + 1/2 * 9) = 4.75."""
    episode = ([[1.0], [4.0]], [[9.0], [6.0], [10.0]], [[""], ["trunc"]])
    torch.testing.assert_close(returns(*episode), torch.tensor([[4.75], [9.0]]))
    without = returns(*episode, bootstrap_on_truncation=False)
    torch.testing.assert_close(without, torch.tensor([[3.5], [4.0]]))


@pytest.mark.parametrize("td_lambda", [0.0, 1.0])
def test_the_ends_of_lambda_are_one_step_and_the_whole_return(td_lambda):
    got = returns(
        [[1.0], [2.0], [3.0]], [[0.0], [8.0], [16.0], [0.0]], [[""], [""], ["term"]],
        td_lambda=td_lambda,
    )  # fmt: skip
    want = {0.0: [5.0, 10.0, 3.0], 1.0: [2.75, 3.5, 3.0]}[td_lambda]
    torch.testing.assert_close(got[:, 0], torch.tensor(want))


def test_each_episode_ends_at_its_own_row():
    """What follows the first episode's truncation at step 0 stands at row 1, not at the end."""
    got = returns(
        [[1.0, 1.0], [0.0, 1.0]],
        [[0.0, 0.0], [10.0, 6.0], [77.0, 20.0]],
        [["trunc", ""], ["", "trunc"]],
    )
    assert got[0, 0] == 1 + 0.5 * 10
    torch.testing.assert_close(got[:, 1], torch.tensor([1 + 0.5 * (3 + 5.5), 11.0]))


def test_greedy_actions_are_legal():
    q = torch.tensor([[1.0, 5.0, 9.0], [2.0, 1.0, 0.0]])
    legal = torch.tensor([[True, True, False], [True, True, True]])
    assert greedy_actions(q, legal).tolist() == [1, 0]


def test_double_q_lets_one_network_choose_and_the_other_say_what_it_is_worth():
    """Rewards are zero and gamma is 1/2: the target is half of what the next view is worth."""
    learning = torch.tensor([[1.0, 5.0, 9.0], [2.0, 1.0, 0.0]])
    target = torch.tensor([[10.0, 20.0, 30.0], [40.0, 50.0, 60.0]])
    legal = torch.tensor([[True, True, False], [True, True, True]])

    side = torch.zeros(2, dtype=torch.int64)

    def half_of_next(alive, *, double):
        fixed = [
            SimpleNamespace(
                model=SimpleNamespace(
                    values=lambda *_, each=each: each,
                    mixer=SumMixer(),
                    side_of=side,
                ),
                joint=None,
            )
            for each in (learning.expand(2, 1, 2, 3), target.expand(2, 1, 2, 3))
        ]
        nothing = torch.zeros(1, 1)
        batch = Batch(
            obs=torch.zeros(2, 1, 2, 1),
            state=torch.zeros(2, 1, 1),
            available=legal.expand(2, 1, 2, 3),
            alive=torch.tensor(alive).expand(2, 1, 2),
            actions=torch.zeros(1, 1, 2).long(),
            reward=torch.zeros(1, 1, 2),
            terminated=nothing.bool(),
            truncated=~nothing.bool(),
            valid=~nothing.bool(),
        )
        settings = {"q_learning": {"double": double}, "gamma": 0.5}
        recipe = ValueRecipe(environment="test/targets", algorithm="vdn", **settings)
        before = torch.full((2, 1, 2), -1)
        q, nets = learning.expand(2, 1, 2, 3), [cast(Networks, each) for each in fixed]
        got = value_learner._target(nets[0], nets[1], q, batch, before, recipe, 1.0)
        return 2 * got.item()

    assert half_of_next([True, True], double=True) == 20 + 40
    assert half_of_next([True, True], double=False) == 20 + 60
    assert half_of_next([True, False], double=True) == 20


def test_an_agent_without_a_legal_action_is_worth_nothing():
    q = torch.tensor([[3.0, 4.0], [3.0, 4.0]])
    legal = torch.tensor([[False, False], [True, False]])
    assert best_legal(q, legal).tolist() == [0.0, 3.0]


def networks(recipe, seed):
    algorithm, rng = ALGORITHMS.load(recipe.algorithm), np.random.default_rng(seed)
    team = algorithm.team(TargetsEnvironment().spec, recipe, None, rng)
    assert isinstance(team, ValueTeam)
    return Networks(team.model)


def learner(algorithm):
    game = TargetsEnvironment()
    recipe = ValueRecipe(
        environment="test/targets", algorithm=algorithm, architecture={"trunk": (8,), "gru": 8}
    )
    seeds = np.arange(12, dtype=np.uint64)
    replay = Replay(100).added(collect(game, RandomPolicy(), seeds, sampled(seeds)))
    return recipe, networks(recipe, 0), replay.sample(12, np.random.default_rng(0))


@pytest.mark.parametrize("algorithm", ["vdn", "qmix"])
def test_an_update_fits_the_targets(algorithm):
    recipe, model, batch = learner(algorithm)
    targets = networks(recipe, 1)
    optimiser = torch.optim.Adam(model.parameters(), 0.02)
    losses = [
        value_learner.update(model, targets, optimiser, batch, recipe, unit=1.0).td_loss
        for _ in range(25)
    ]
    assert losses[-1] < losses[0] / 2
    assert batch.valid.sum() < batch.valid.numel()  # some episodes are shorter than others


def test_what_lies_behind_the_end_of_an_episode_does_not_matter():
    recipe, model, batch = learner("qmix")
    targets = networks(recipe, 1)
    behind = ~batch.valid
    assert behind.any()

    def loss():
        optimiser = torch.optim.SGD(model.parameters(), 0.0)
        return value_learner.update(model, targets, optimiser, batch, recipe, unit=1.0)

    before = loss()
    batch.reward[behind] = 1e6
    batch.actions[behind] = 1
    batch.obs[1:][:, :, 0][torch.cat([behind[1:], behind[-1:]])] = 0.0
    assert loss() == before
