"""Categorical policies in PyTorch: worked out by hand, without NaN, and as those in NumPy."""

import math

import numpy as np
import pytest
import torch

from kd_offline.distributions.categorical import Categorical
from kd_offline.distributions.categorical_tensors import (
    CategoricalTensors,
    last_axis_outermost,
    log_softmax,
)

LEGAL = torch.tensor([[True, True, False]])
# Over the two legal actions: expert (0.8, 0.2), student (0.5, 0.5).
EXPERT = CategoricalTensors(torch.tensor([[math.log(0.8), math.log(0.2), 7.0]]), LEGAL)
STUDENT = CategoricalTensors(torch.tensor([[0.3, 0.3, -4.0]]), LEGAL)


def test_kl_divergence():
    value = EXPERT.kl(STUDENT)
    assert value.item() == pytest.approx(0.8 * math.log(1.6) + 0.2 * math.log(0.4), abs=1e-6)


def test_kl_divergence_of_softened_policies():
    # At temperature 2 the expert's odds are 4 ** 0.5 = 2, so its probabilities are 2/3 and 1/3.
    expected = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)
    assert EXPERT.at(2.0).kl(STUDENT.at(2.0)).item() == pytest.approx(expected, abs=1e-6)


def test_what_is_kept_gives_the_same_distribution():
    again = CategoricalTensors.restored(EXPERT.at(2.0).kept(), LEGAL)
    assert again.kl(EXPERT.at(2.0)).item() == 0
    assert torch.equal(again.kept(), EXPERT.at(2.0).kept())


def test_cross_entropy_and_its_soft_form():
    assert -STUDENT.log_prob(torch.tensor([0])).item() == pytest.approx(math.log(2))
    assert EXPERT.cross_entropy(STUDENT).item() == pytest.approx(math.log(2), abs=1e-6)


def test_soft_cross_entropy_has_the_gradient_of_the_kl():
    gradients = []
    for loss in (EXPERT.kl, EXPERT.cross_entropy):
        student = torch.tensor([[0.1, -0.7, 2.0]], requires_grad=True)
        loss(CategoricalTensors(student, LEGAL)).sum().backward()
        gradients.append(student.grad)
    torch.testing.assert_close(*gradients)
    # d KL / d logits = student - expert over the legal actions, zero at the illegal one
    q = torch.softmax(torch.tensor([0.1, -0.7]), 0)
    torch.testing.assert_close(gradients[0][0, :2], q - torch.tensor([0.8, 0.2]))
    assert gradients[0][0, 2] == 0.0


def test_entropy():
    assert STUDENT.entropy().item() == pytest.approx(math.log(2))
    only = torch.tensor([[False, True, False]])
    assert CategoricalTensors(STUDENT.parameters, only).entropy().item() == pytest.approx(0.0)


@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_illegal_actions_never_reach_values_or_gradients(scale):
    student = (
        torch.randn(64, 3, generator=torch.Generator().manual_seed(0)) * scale
    ).requires_grad_()
    legal = torch.tensor([True, False, True]).expand(64, 3)
    expert = CategoricalTensors(torch.zeros(64, 3), legal)
    own = CategoricalTensors(student, legal)
    (expert.kl(own) + own.entropy() + expert.cross_entropy(own)).sum().backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    assert (student.grad[:, 1] == 0).all()


@pytest.mark.parametrize("outermost", [False, True])
def test_they_are_the_distributions_of_play(outermost):
    rng = np.random.default_rng(0)
    logits, others = rng.normal(0, 3, (2, 50, 3, 6)).astype(np.float32)
    legal = rng.random((50, 3, 6)) < 0.6
    legal[..., 2] = True
    play, other = Categorical(logits, legal), Categorical(others, legal)
    made, against = (
        CategoricalTensors(
            last_axis_outermost(values) if outermost else values, torch.from_numpy(legal)
        )
        for values in (torch.from_numpy(logits), torch.from_numpy(others))
    )
    numbers = rng.random((50, 3))
    actions = play.sample(numbers)
    assert np.array_equal(made.sample(torch.from_numpy(numbers)), actions)
    assert np.array_equal(made.mode(), play.mode())
    assert np.array_equal(made.agrees(against), play.agrees(other))
    assert np.array_equal(made.has_choice(made.available), play.has_choice(legal))
    for ours, theirs in (
        (made.log_prob(made.recorded_actions(actions.astype(np.int16))), play.log_prob(actions)),
        (made.entropy(), play.entropy()),
        (made.kl(against), play.kl(other)),
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_softmax_is_the_same_in_both_memory_orders():
    scores = torch.randn(40, 3, 5, generator=torch.Generator().manual_seed(0))
    turned = last_axis_outermost(scores)
    assert turned.stride(-1) == scores[..., 0].numel()
    torch.testing.assert_close(log_softmax(turned), torch.log_softmax(scores, -1))


def test_the_memory_order_of_parameters_stays_where_actions_are_illegal():
    scores = last_axis_outermost(torch.randn(40, 3, 5, generator=torch.Generator().manual_seed(0)))
    available = torch.ones(40, 3, 5, dtype=torch.bool)
    available[::2, :, 1] = False
    for parameters in (scores, scores.contiguous()):
        found = CategoricalTensors(parameters, available).log_probabilities
        assert found.stride() == parameters.stride()


@pytest.mark.parametrize("outermost", [False, True])
def test_sums_over_many_actions_are_taken_in_the_memory_order_of_the_parameters(outermost):
    scores = torch.randn(400, 3, 20, generator=torch.Generator().manual_seed(0))
    last, first = torch.log_softmax(scores, -1), log_softmax(scores, outermost=True)
    assert not torch.equal(last, first), "the two orders differ in the last bit"
    parameters = last_axis_outermost(scores) if outermost else scores
    policy = CategoricalTensors(parameters, torch.ones(scores.shape, dtype=torch.bool))
    assert torch.equal(policy.log_probabilities, first if outermost else last)
