"""Every loss against values worked out by hand."""

import math

import numpy as np
import pytest
import torch

from kd_offline.distillation import losses


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [(1.1, 2.0, 2.2), (1.5, 2.0, 2.4), (0.5, 2.0, 1.0), (1.5, -2.0, -3.0), (0.5, -2.0, -1.6)],
)
def test_ppo_clip(ratio, advantage, expected):
    value = losses.ppo_clip(
        torch.tensor(math.log(ratio)), torch.tensor(0.0), torch.tensor(advantage), 0.2
    )
    assert value.item() == pytest.approx(expected, abs=1e-6)


def test_ppo_gradient_vanishes_where_the_clip_holds():
    change = torch.tensor([math.log(1.5), math.log(0.5)], requires_grad=True)
    losses.ppo_clip(change, torch.zeros(2), torch.tensor([1.0, 1.0]), 0.2).sum().backward()
    torch.testing.assert_close(change.grad, torch.tensor([0.0, 0.5]))


def test_advantage_weighting_is_capped_and_filtering_is_binary():
    logprob, advantage = torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([0.5, 100.0, -1.0])
    weighted = losses.advantage_weighted(logprob, advantage, temperature=0.5)
    np.testing.assert_allclose(weighted, [-math.e, -20.0, -math.exp(-2)], rtol=1e-6)
    np.testing.assert_array_equal(losses.positive_only(logprob, advantage), [-1.0, -1.0, 0.0])


def test_structure_compares_cosines():
    expert = losses.cosine_relations(torch.tensor([[1.0, 0.0], [1.0, 1.0], [-1.0, 0.0]]))
    student = losses.cosine_relations(torch.tensor([[2.0, 0.0], [0.0, 5.0], [3.0, 0.0]]))
    half = math.sqrt(0.5)  # the pairs are 0-1, 0-2 and 1-2
    np.testing.assert_allclose(expert, [half, -1.0, -half], atol=1e-6)
    np.testing.assert_allclose(student, [0.0, 1.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(losses.structure(expert, student), [0.5, 4.0, 0.5], rtol=1e-5)


def test_relations_of_a_zero_embedding_are_finite():
    embedding = torch.zeros(2, 3, requires_grad=True)
    losses.cosine_relations(embedding).sum().backward()
    assert torch.isfinite(embedding.grad).all()


def test_divergence_of_roles():
    expert = torch.log(torch.tensor([0.5, 0.25, 0.25]))
    student = torch.log(torch.tensor([0.25, 0.25, 0.5]))
    expected = 0.5 * math.log(2) + 0.25 * math.log(0.5)
    assert losses.divergence(expert, student).item() == pytest.approx(expected)


def test_masked_mean_counts_only_what_has_weight():
    values, weight = torch.tensor([1.0, 5.0, 9.0]), torch.tensor([1.0, 1.0, 0.0])
    assert losses.masked_mean(values, weight).item() == pytest.approx(3.0)
    assert losses.masked_mean(values, torch.zeros(3)).item() == 0.0
