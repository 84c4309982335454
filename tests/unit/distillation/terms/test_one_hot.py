"""Outputs to the one-hot of the expert's action (IGM-DA), by hand."""

import torch

from kd_offline.distillation.recipe import distill_recipe
from kd_offline.distillation.terms.base import StudentBatch
from kd_offline.distillation.terms.one_hot import OneHot
from kd_offline.distributions.categorical_tensors import CategoricalTensors


def test_the_loss_is_the_mean_square_over_legal_actions():
    outputs = torch.tensor([[[0.5, 0.2, 9.0], [1.0, 2.0, 0.0]]], requires_grad=True)
    legal = torch.tensor([[[1, 1, 0], [1, 1, 1]]]).bool()
    weight = torch.tensor([[1.0, 0.0]])
    policy = CategoricalTensors(outputs, legal)
    students = StudentBatch(policy, [], weight, weight, None, (0, 0))
    term = OneHot(OneHot.settings_type(), distill_recipe())
    found = term.loss(students, {"action": torch.tensor([[0, 1]])}, None)
    # (0.25 + 0.04) / 2 and (1 + 1 + 0) / 3; what is not legal counts nothing.
    torch.testing.assert_close(found.values, torch.tensor([[0.145, 2 / 3]]))
    assert found.weight is weight
    found.values.sum().backward()
    wanted = torch.tensor([[[-0.5, 0.2, 0.0], [2 / 3, 2 / 3, 0.0]]])
    torch.testing.assert_close(outputs.grad, wanted)
