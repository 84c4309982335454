"""Every loss against values worked out by hand, and against NaN at illegal actions."""

import math

import numpy as np
import pytest
import torch

from kd_offline.distillation import losses

LEGAL = torch.tensor([[True, True, False]])
# Over the two legal actions: expert (0.8, 0.2), student (0.5, 0.5).
EXPERT = torch.tensor([[math.log(0.8), math.log(0.2), 7.0]])
STUDENT = torch.tensor([[0.3, 0.3, -4.0]])


def logp(logits, temperature=1.0):
    return losses.log_policy(logits, LEGAL, temperature)


def test_kl_divergence():
    value = losses.kl_divergence(logp(EXPERT), logp(STUDENT), LEGAL)
    assert value.item() == pytest.approx(0.8 * math.log(1.6) + 0.2 * math.log(0.4), abs=1e-6)


def test_kl_divergence_of_softened_policies():
    # At temperature 2 the expert's odds are 4 ** 0.5 = 2, so its probabilities are 2/3 and 1/3.
    value = losses.kl_divergence(logp(EXPERT, 2.0), logp(STUDENT, 2.0), LEGAL)
    assert value.item() == pytest.approx(
        2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3), abs=1e-6
    )


def test_cross_entropy_and_its_soft_form():
    assert losses.cross_entropy(torch.tensor([0]), logp(STUDENT)).item() == pytest.approx(
        math.log(2)
    )
    soft = losses.soft_cross_entropy(logp(EXPERT), logp(STUDENT), LEGAL)
    assert soft.item() == pytest.approx(math.log(2), abs=1e-6)


def test_soft_cross_entropy_has_the_gradient_of_the_kl():
    gradients = []
    for loss in (losses.kl_divergence, losses.soft_cross_entropy):
        student = torch.tensor([[0.1, -0.7, 2.0]], requires_grad=True)
        loss(logp(EXPERT), logp(student), LEGAL).sum().backward()
        gradients.append(student.grad)
    torch.testing.assert_close(*gradients)
    # d KL / d logits = student - expert over the legal actions, zero at the illegal one
    q = torch.softmax(torch.tensor([0.1, -0.7]), 0)
    torch.testing.assert_close(gradients[0][0, :2], q - torch.tensor([0.8, 0.2]))
    assert gradients[0][0, 2] == 0.0


def test_entropy():
    assert losses.entropy(logp(STUDENT), LEGAL).item() == pytest.approx(math.log(2))
    only = torch.tensor([[False, True, False]])
    assert losses.entropy(losses.log_policy(STUDENT, only), only).item() == pytest.approx(0.0)


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


def test_role_divergence():
    expert = torch.log(torch.tensor([0.5, 0.25, 0.25]))
    student = torch.log(torch.tensor([0.25, 0.25, 0.5]))
    expected = 0.5 * math.log(2) + 0.25 * math.log(0.5)
    assert losses.role_divergence(expert, student).item() == pytest.approx(expected)


def test_masked_mean_counts_only_what_has_weight():
    values, weight = torch.tensor([1.0, 5.0, 9.0]), torch.tensor([1.0, 1.0, 0.0])
    assert losses.masked_mean(values, weight).item() == pytest.approx(3.0)
    assert losses.masked_mean(values, torch.zeros(3)).item() == 0.0


@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_illegal_actions_never_reach_values_or_gradients(scale):
    student = (
        torch.randn(64, 3, generator=torch.Generator().manual_seed(0)) * scale
    ).requires_grad_()
    legal = torch.tensor([True, False, True]).expand(64, 3)
    expert = losses.log_policy(torch.zeros(64, 3), legal)
    own = losses.log_policy(student, legal)
    total = losses.kl_divergence(expert, own, legal) + losses.entropy(own, legal)
    (total + losses.soft_cross_entropy(expert, own, legal)).sum().backward()
    assert torch.isfinite(student.grad).all()
    assert (student.grad[:, 1] == 0).all()
