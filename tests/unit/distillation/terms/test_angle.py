"""Angles between mapped embeddings, by hand and against autograd; M is stepped less often."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from kd_offline.distillation.auxiliary_heads import AuxiliaryHeads
from kd_offline.distillation.losses import angle_relations
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.distillation.stacked_teams import StackedHeads
from kd_offline.distillation.train import Training, train_team
from kd_offline.testing.factories import environment_spec, tiny_dataset
from tests.unit.distillation.preparing import prepared
from tests.unit.distillation.terms.by_hand import gradients, students, term


def test_angles_of_pairs_in_radians():
    east, north, west = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]).unsqueeze(1)
    found = angle_relations([east, north, west])
    torch.testing.assert_close(
        found, torch.tensor([[math.pi / 2, math.pi, math.pi / 2]]), atol=2e-3, rtol=0
    )


def test_the_loss_is_the_huber_loss_of_angles_where_both_are_alive():
    same = nn.ModuleList([nn.Identity()] * 4)
    east, north, west = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]).unsqueeze(1)
    expert = torch.stack([east, east, north], 1)  # angles 0, pi/2, pi/2
    given = students(torch.zeros(1, 3, 2), [east, north, west], alive=[[1, 1, 0]])
    found = term("angle").loss(given, {"embedding": expert}, same)
    gap = math.pi / 2  # of each of: pi/2 and 0, pi and pi/2; none of the third
    expected = torch.tensor([[gap - 0.5, gap - 0.5, 0.0]])
    torch.testing.assert_close(found.values, expected, atol=3e-3, rtol=0)
    assert found.weight.tolist() == [[1.0, 0.0, 0.0]]


def test_equal_embeddings_have_finite_gradients():
    embedding = torch.ones(3, 4, requires_grad=True)
    angle_relations([embedding, embedding.detach()]).sum().backward()
    assert torch.isfinite(embedding.grad).all()


def test_gradients_are_those_of_the_plain_formula():
    torch.manual_seed(1)
    made = term("angle", width=3)
    made._expert_width = 5
    heads = made.auxiliary_heads((4, 6), environment_spec((4, 4)), np.random.default_rng(0))
    expert = torch.randn(7, 2, 5)
    own = [torch.randn(7, width, requires_grad=True) for width in (4, 6)]
    loss = made.loss(students(torch.zeros(7, 2, 2), own), {"embedding": expert}, heads).values.sum()
    first, second, of_expert = heads

    def angle(a, b):
        cosine = torch.cosine_similarity(a, b, dim=-1)
        # Nearer to 1 the arc cosine loses digits, and the term's own cosines end before it.
        assert cosine.abs().max() < 0.999
        return torch.acos(cosine)

    plain = nn.functional.huber_loss(
        angle(first(own[0]), second(own[1])),
        angle(of_expert(expert[:, 0]), of_expert(expert[:, 1])),
        reduction="sum",
    )
    torch.testing.assert_close(loss, plain)
    leaves = (*own, *heads.parameters())
    pairs = zip(gradients(loss, *leaves), gradients(plain, *leaves), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("every", [1, 4])
def test_the_mapping_of_the_expert_is_stepped_once_in_four_updates(tmp_path, every):
    recipe = distill_recipe(
        method="tseng",
        settings={
            "terms.angle.expert_every": every,
            "optimisation.epochs": 6,
            "optimisation.batch_episodes": 8,
        },
    )
    found = prepared(tiny_dataset(tmp_path / "d.zarr", 8), recipe, np.arange(8))
    *own, expert = found.heads.by_term()["angle"]
    state = Training.begin(found.team, found.heads, recipe.optimisation)
    before = [expert[0].weight.clone(), own[0][0].weight.clone()]
    moved = []
    for _ in train_team(state, found.targets, None, found.terms, 0):  # one update an epoch
        after = [expert[0].weight.clone(), own[0][0].weight.clone()]
        moved.append([not torch.equal(a, b) for a, b in zip(before, after, strict=True)])
        before = after
    assert [of_expert for of_expert, _ in moved] == [update % every == 0 for update in range(6)]
    assert all(of_student for _, of_student in moved)


def test_of_seeds_computed_at_once_the_same_network_is_frozen(tmp_path):
    found = prepared(tiny_dataset(tmp_path / "d.zarr", 4), distill_recipe(method="tseng"))
    rngs = [np.random.default_rng(seed) for seed in (0, 1)]
    each = [
        AuxiliaryHeads(found.terms.auxiliary_heads((8, 8, 8), found.buffer.spec, rng))
        for rng in rngs
    ]
    stacked = StackedHeads(each, found.terms)
    expert = list(stacked.by_term()["angle"].children())[-1]
    frozen = list(found.terms.frozen(stacked.each_by_term(), 1))
    assert {id(p) for p in frozen} == {id(p) for p in expert.parameters()}
    assert list(found.terms.frozen(stacked.each_by_term(), 4)) == []
    embedding = torch.randn(3, 8)
    for number, own in enumerate(each):  # networks of a seed are those that it began with
        pairs = zip(
            stacked.of_seed(number)["angle"].children(),
            own.by_term()["angle"].children(),
            strict=True,
        )
        for mine, theirs in list(pairs)[:3]:
            torch.testing.assert_close(mine(embedding), theirs(embedding))
