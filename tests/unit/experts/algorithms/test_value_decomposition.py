"""Losses of value decomposition by hand, and a game that tells its members apart."""

import numpy as np
import pytest
import torch

from kd_offline.experts import value_learner
from kd_offline.experts.algorithms import ALGORITHMS, qtran, wqmix
from kd_offline.experts.mixing import TeamValue
from kd_offline.experts.recipe import recipe_from
from kd_offline.experts.replay import Batch
from kd_offline.experts.value_learner import JointValues, Unrestricted, ValueLearner
from kd_offline.testing.factories import environment_spec

# Three steps: the best joint action, a worse one that the mixer overestimates, and one that it
# underestimates.
VALUES = JointValues(
    mixed=torch.tensor([3.0, 6.0, 1.0]),
    target=torch.tensor([8.0, 2.0, 3.0]),
    joint=Unrestricted(
        taken=torch.tensor([7.0, 4.0, 3.0]),
        best=torch.tensor([7.0, 7.0, 7.0]),
        mixed_best=torch.tensor([3.0, 6.5, 6.0]),
        greedy=torch.tensor([True, False, False]),
    ),
)


def recipe(algorithm, **settings):
    given = {"environment": "test/matrix", "algorithm": algorithm, "q_learning": settings}
    return recipe_from(given)


def test_central_weights_count_the_greedy_and_what_is_better_than_the_best():
    settings = recipe("wqmix", weighting="central", alpha=0.25).q_learning
    assert wqmix.weights(VALUES, settings).tolist() == [1.0, 0.25, 0.25]


def test_optimistic_weights_count_what_is_underestimated():
    settings = recipe("wqmix", weighting="optimistic", alpha=0.25).q_learning
    assert wqmix.weights(VALUES, settings).tolist() == [1.0, 0.25, 1.0]


def test_the_loss_of_weighted_qmix():
    """Central, alpha = 1/4: mixer 25, 1/4 * 16, 1/4 * 4; critic 1, 4, 0."""
    got = wqmix.loss(VALUES, recipe("wqmix", alpha=0.25))
    assert got.tolist() == [25 + 1, 4 + 4, 1 + 0]


def test_the_losses_of_qtran():
    """Critic 1, 4, 0; greedy (3 - 7)^2, (6.5 - 7)^2, (6 - 7)^2; below 4^2, none, 2^2."""
    got = qtran.loss(VALUES, recipe("qtran", optimal_weight=2.0, other_weight=0.5))
    assert got.tolist() == [1 + 32 + 8, 4 + 0.5 + 0, 0 + 2 + 2]


def test_the_conditions_of_qtran_do_not_move_the_critic():
    taken = torch.tensor([7.0], requires_grad=True)
    joint = Unrestricted(taken, taken, torch.tensor([3.0]), torch.tensor([True]))
    values = JointValues(torch.tensor([3.0]), torch.tensor([8.0]), joint)
    qtran.loss(values, recipe("qtran")).sum().backward()
    assert taken.grad.item() == 2 * (7 - 8)


def test_a_loss_of_joint_values_needs_a_joint_critic():
    alone = JointValues(VALUES.mixed, VALUES.target)
    with pytest.raises(RuntimeError, match="makes no joint critic"):
        wqmix.loss(alone, recipe("wqmix"))


# The matrix game of QTRAN (Son et al., 2019, Table 1a): alone, no agent can tell that its first
# action is best, since it is worth -12 whenever the other one does anything else.
TRAP = torch.tensor([[8.0, -12.0, -12.0], [-12.0, 0.0, 0.0], [-12.0, 0.0, 0.0]])
# Agents that have to do the same: each can tell its best action, but no sum and no monotone mixing
# of two values has four such payoffs.
SAME = torch.tensor([[8.0, -12.0], [-12.0, 6.0]])


def every_joint_action(payoff):
    """Return all joint actions, int64 [B, 2]."""
    own = torch.arange(len(payoff))
    return torch.cartesian_prod(own, own)


def matrix_game(payoff, actions):
    """Return joint actions int64 [B, 2] as episodes of one step."""
    b, n = len(actions), len(payoff)
    return Batch(
        obs=torch.ones(2, b, 2, 1),
        state=torch.ones(2, b, 2),
        available=torch.ones(2, b, 2, n, dtype=torch.bool),
        alive=torch.ones(2, b, 2, dtype=torch.bool),
        actions=actions.unsqueeze(0),
        reward=payoff[actions[:, 0], actions[:, 1]].view(1, b, 1).expand(1, b, 2),
        terminated=torch.ones(1, b, dtype=torch.bool),
        truncated=torch.zeros(1, b, dtype=torch.bool),
        valid=torch.ones(1, b, dtype=torch.bool),
    )


def learned(name, payoff, updates, rate=0.02, *, draws=0, seed=0, **settings):
    """Return what the greedy actions earn, and the values of all joint actions.

    Each update is on every joint action once, or on as many as ``draws`` says, drawn uniformly.
    """
    given = {
        "environment": "test/matrix",
        "algorithm": name,
        "architecture": {"trunk": (16,), "gru": None, "last_action": False},
        "q_learning": settings,
        "max_grad_norm": 100.0,
    }
    n, unit = len(payoff), 4.0
    made, spec = recipe_from(given), environment_spec((1, 1), (n, n), state_width=2)
    algorithm = ALGORITHMS.load(name)
    team = algorithm.team(spec, made, None, np.random.default_rng(seed))
    learner = algorithm.learner(team, spec, made)
    assert isinstance(learner, ValueLearner)
    optimiser = torch.optim.Adam(learner.networks.parameters(), rate)
    nets, rng = (learner.networks, learner.targets), np.random.default_rng(seed)
    actions = every_joint_action(payoff)
    batch = matrix_game(payoff, actions)
    for _ in range(updates):
        drawn = matrix_game(payoff, actions[rng.integers(n * n, size=draws)]) if draws else batch
        value_learner.update(*nets, optimiser, drawn, made, unit, learner.loss_of)
    first = torch.full((2, n * n, 2), -1)
    q = learner.networks.model.values(batch.seen, first, batch.alive)[0].detach()
    alone = TeamValue(
        learner.networks.model.mixer, q, batch.state[0], batch.alive[0], batch.available[0], unit
    )
    total, _ = alone.of(batch.actions[0].numpy())
    return payoff[tuple(q[0].argmax(-1))].item(), torch.from_numpy(total).view(n, n)


@pytest.mark.parametrize(
    ("name", "settings", "earned"),
    [
        ("vdn", {}, 0),
        ("qmix", {}, 0),
        ("qatten", {}, 0),
        ("wqmix", {"weighting": "central"}, 8),
        ("wqmix", {"weighting": "optimistic"}, 8),
        ("qtran", {}, 8),
    ],
)
def test_a_game_whose_best_actions_no_agent_can_tell_alone(name, settings, earned):
    """Weighted QMIX and QTRAN earn 8, the mixers alone settle for 0."""
    assert learned(name, TRAP, 150, **settings)[0] == earned


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_qplex_without_the_transformation_finds_them(seed):
    """With ten heads, as the authors have for such games, and joint actions drawn uniformly."""
    own = {"heads": 10, "transformed": False}
    assert learned("qplex", TRAP, 150, 0.005, draws=32, seed=seed, **own)[0] == 8


@pytest.mark.parametrize(
    ("name", "updates", "rate", "exact"),
    [
        ("vdn", 350, 0.02, False),
        ("qmix", 350, 0.02, False),
        ("qatten", 350, 0.02, False),
        ("qplex", 700, 0.01, True),
    ],
)
def test_a_game_whose_values_no_monotone_mixer_has(name, updates, rate, exact):
    """QPLEX learns the value of every joint action."""
    earned, values = learned(name, SAME, updates, rate)
    assert earned == 8
    assert ((values - SAME).abs().max() < 0.5) == exact
