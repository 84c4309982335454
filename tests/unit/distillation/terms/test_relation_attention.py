"""Attention between students against the expert's relations, by hand and against autograd."""

import math

import numpy as np
import pytest
import torch

from kd_offline.testing.factories import environment_spec
from tests.unit.distillation.terms.by_hand import gradients, students, target_batch, term

SPEC = environment_spec((4, 4, 4), (2, 2, 2))


def rows(made, **given):
    return made.targets(target_batch(SPEC, **given))["rows"].exp()[0, 0]


def test_rows_of_cosines_are_a_softmax_with_the_agent_itself():
    embedding = np.array([[[[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]]]], np.float32)
    found = rows(term("relation_attention", temperature=0.5), embedding=embedding)
    weights = torch.tensor([1.0, 0.0, -1.0]).div(0.5).exp()  # cosines of the first with all
    torch.testing.assert_close(found[0], weights / weights.sum())
    torch.testing.assert_close(found.sum(-1), torch.ones(3))


def test_rows_of_policies_are_of_one_less_the_root_of_their_divergence():
    logits = torch.tensor([[[[0.0, -40.0], [0.0, -40.0], [-40.0, 0.0]]]])
    found = rows(term("relation_attention", relation="policy", temperature=1.0), logits=logits)
    weights = torch.tensor([1.0, 1.0, 0.0]).exp()  # equal policies 1, opposite ones 0
    torch.testing.assert_close(found[0], weights / weights.sum(), atol=1e-3, rtol=0)


def test_who_is_not_alive_is_in_no_row():
    alive = torch.tensor([[[True, True, False]]])
    embedding = np.ones((1, 1, 3, 2), np.float32)
    found = rows(term("relation_attention"), embedding=embedding, alive=alive)
    torch.testing.assert_close(found[:2], torch.tensor([[0.5, 0.5, 0.0]] * 2))


def attention(heads, embeddings, width):
    both = torch.stack([h(e) for h, e in zip(heads, embeddings, strict=True)], 1)
    query, key = both[..., :width], both[..., width:]
    return torch.softmax(query @ key.mT / math.sqrt(width), -1)


def test_value_and_gradients_are_those_of_the_plain_formula():
    made = term("relation_attention", width=3)
    own = [torch.randn(5, width, requires_grad=True) for width in (4, 6, 4)]
    heads = made.auxiliary_heads((4, 6, 4), SPEC, np.random.default_rng(0))
    expert = torch.randn(5, 3, 3).softmax(-1)
    found = made.loss(students(torch.zeros(5, 3, 2), own), {"rows": expert.log()}, heads)
    plain = (expert * (expert / attention(heads, own, 3)).log()).sum(-1)
    torch.testing.assert_close(found.values, plain, atol=1e-5, rtol=1e-4)
    leaves = (*own, *heads.parameters())
    pairs = zip(
        gradients(found.values.sum(), *leaves), gradients(plain.sum(), *leaves), strict=True
    )
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("sides", [(0, 0, 1)])
def test_opponents_are_in_no_row(sides):
    made = term("relation_attention", width=2)
    own = [torch.randn(2, 4, requires_grad=True) for _ in range(3)]
    heads = made.auxiliary_heads((4, 4, 4), SPEC, np.random.default_rng(0))
    expert = torch.full((2, 3, 3), -1e9)
    expert[:, :2, :2], expert[:, 2, 2] = math.log(0.5), 0.0
    found = made.loss(students(torch.zeros(2, 3, 2), own, sides=sides), {"rows": expert}, heads)
    (of_third,) = gradients(found.values[:, :2].sum(), own[2])
    assert not of_third.any()
