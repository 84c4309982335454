"""Regression of centred logits, by hand and against autograd."""

import pytest
import torch

from tests.unit.distillation.terms.by_hand import gradients, students, term


def test_centred_logits_are_compared_over_the_legal_actions():
    available = torch.tensor([[[True, True, False]]])
    given = students(
        [[[1.0, 5.0, 99.0]]], expert=torch.tensor([[[3.0, 1.0, -99.0]]]), available=available
    )
    # Centred: (-2, 2) and (1, -1), so halves of 9 and 9, over two legal actions.
    assert term("logits").loss(given, {}, None).values.item() == pytest.approx(4.5)
    # Huber: distances of 3 less a half.
    assert term("logits", loss="huber").loss(given, {}, None).values.item() == pytest.approx(2.5)


def test_a_constant_added_to_all_logits_changes_nothing():
    expert = torch.randn(4, 2, 5)
    found = term("logits").loss(students(expert + 7.0, expert=expert), {}, None)
    torch.testing.assert_close(found.values, torch.zeros(4, 2), atol=1e-5, rtol=0)


def test_gradients_are_those_of_the_plain_formula():
    logits, expert = torch.randn(6, 2, 4, requires_grad=True), torch.randn(6, 2, 4)
    found = term("logits").loss(students(logits, expert=expert), {}, None)
    gaps = (logits - logits.mean(-1, keepdim=True)) - (expert - expert.mean(-1, keepdim=True))
    plain = gaps.square().mean(-1) / 2
    torch.testing.assert_close(found.values, plain)
    (own,), (theirs,) = gradients(found.values.sum(), logits), gradients(plain.sum(), logits)
    torch.testing.assert_close(own, theirs)
