"""Q-values as an expert's distribution: hand-worked, with everything that can stand in a row."""

import math

import numpy as np
import pytest
import torch

from kd_offline.distillation.values import centred, error, regression, state_value, value_logits
from kd_offline.distributions.categorical_tensors import CategoricalTensors
from kd_offline.schemas.recipes import Objective

INF = math.inf
# Legal 1 and 3; two equal; one legal; none better than the illegal ones; nothing legal (absent).
Q = torch.tensor(
    [[1.0, 3.0, 9.0], [2.0, 2.0, 2.0], [5.0, 0.0, 0.0], [-INF, -4.0, INF], [1.0, 2, 3]]
)
LEGAL = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 0]]).bool()


def test_values_are_centred_over_the_legal_actions():
    wanted = [[-1.0, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert centred(Q, LEGAL).tolist() == wanted
    assert state_value(Q, LEGAL).tolist() == [2.0, 2.0, 5.0, -4.0, 0.0]


@pytest.mark.parametrize(
    ("scale", "wanted"),
    [("none", [-10.0, 10.0, 0.0]), ("dataset", [-20.0, 20.0, 0.0]), ("state", [-10.0, 10.0, 0.0])],
)
def test_a_temperature_of_a_tenth(scale, wanted):
    objective = Objective(q_scale=scale, q_temperature=0.1)
    found = value_logits(Q[:1, None], LEGAL[:1, None], torch.tensor([0.5]), objective)
    torch.testing.assert_close(found[0, 0], torch.tensor(wanted))


def test_each_state_has_its_own_unit_or_all_have_one():
    q = torch.tensor([[[-1.0, 1.0]], [[-8.0, 8.0]]])  # [T, N, A]
    legal, scale = torch.ones_like(q).bool(), torch.tensor([2.0])
    each = value_logits(q, legal, scale, Objective(q_scale="state", q_temperature=1.0))
    assert each.tolist() == [[[-1.0, 1.0]], [[-1.0, 1.0]]]
    one = value_logits(q, legal, scale, Objective(q_scale="dataset", q_temperature=1.0))
    assert one.tolist() == [[[-0.5, 0.5]], [[-4.0, 4.0]]]


def test_noise_where_all_actions_are_worth_the_same_is_not_blown_up():
    q = torch.tensor([[[7.0, 7.0 + 1e-6]]])
    objective = Objective(q_scale="state", q_temperature=0.1)
    found = value_logits(q, torch.ones_like(q).bool(), torch.tensor([1.0]), objective)
    assert found.abs().max() < 0.01


@pytest.mark.parametrize("scale", ["none", "dataset", "state"])
def test_ties_are_even_one_legal_action_is_certain_and_nothing_is_not_a_number(scale):
    objective = Objective(q_scale=scale, q_temperature=0.01)
    available = LEGAL | ~LEGAL.any(-1, keepdim=True)  # as for absent agents
    logits = value_logits(Q.unsqueeze(1), available.unsqueeze(1), torch.tensor([1.0]), objective)
    policy = CategoricalTensors(logits[:, 0], available).kept().exp()
    assert torch.isfinite(policy).all()
    third = torch.full((3,), 1 / 3)
    torch.testing.assert_close(policy[1], third)
    assert policy[2].tolist() == [1.0, 0.0, 0.0]
    assert policy[3].tolist() == [0.0, 1.0, 0.0]
    assert policy[0, 2] == 0


def test_the_regression_compares_differences_between_legal_actions():
    own = torch.tensor([[10.0, 14.0, -50.0]], requires_grad=True)  # centred: -2, 2
    found = regression(own, Q[:1], LEGAL[:1], "mse")  # against -1, 1
    assert found.item() == pytest.approx(0.5)  # (1/2 + 1/2) / 2
    found.sum().backward()
    assert own.grad is not None
    assert own.grad.tolist() == [[-0.5, 0.5, 0.0]]
    other = own.detach() + torch.tensor([100.0, 100.0, INF])
    assert regression(other, Q[:1], LEGAL[:1], "mse").item() == pytest.approx(0.5)
    nobody = torch.zeros(1, 3)
    assert regression(nobody, nobody, torch.zeros(1, 3).bool(), "mse").item() == 0.0


def test_huber_is_linear_beyond_one():
    gaps = torch.tensor([0.5, -3.0])
    np.testing.assert_allclose(error(gaps, "huber"), [0.125, 2.5])
    np.testing.assert_allclose(error(gaps, "mse"), [0.125, 4.5])
