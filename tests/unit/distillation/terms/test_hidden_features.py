"""Prediction of hidden features: which, in which units, by hand and against autograd."""

import numpy as np
import pytest
import torch
from torch import nn

from kd_offline.distillation.recipe import distill_recipe
from kd_offline.errors import UsageError
from kd_offline.testing.factories import environment_spec, full_mask, tiny_dataset
from tests.unit.distillation.preparing import prepared
from tests.unit.distillation.terms.by_hand import gradients, students, term

SPEC = environment_spec((4, 3))


def recipe(mask="half"):
    return distill_recipe(method="hidden-features", mask=mask)


@pytest.fixture
def buffer(tmp_path):
    half = full_mask(SPEC)
    half[0, 2:] = half[1, :1] = False
    drawn = np.random.default_rng(0).random((6, 2, 4)) < 0.5
    masks = {"full": full_mask(SPEC), "half": half, "drawn": drawn & full_mask(SPEC)}
    return tiny_dataset(tmp_path / "d.zarr", 6, spec=SPEC, masks=masks)


def test_what_the_mask_hides_is_predicted_in_deviations(buffer):
    found = prepared(buffer, recipe(), np.arange(6))
    targets = found.targets.targets.terms["hidden_features"]
    assert targets["predicted"][0].tolist() == [[False, False, True, True], [True] + [False] * 3]
    hidden = targets["features"][targets["predicted"]].double().view(-1, 3)
    torch.testing.assert_close(hidden.mean(0), torch.zeros(3).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        hidden.std(0, correction=0), torch.ones(3).double(), atol=1e-5, rtol=0
    )


def test_masks_that_are_drawn_for_each_episode_decide_for_each_episode(buffer):
    found = prepared(buffer, recipe("drawn"), np.arange(6))
    predicted = found.targets.targets.terms["hidden_features"]["predicted"].numpy()
    first = np.cumsum(found.targets.lengths) - found.targets.lengths
    np.testing.assert_array_equal(predicted[first], full_mask(SPEC) & ~buffer.read("masks/drawn"))


def test_a_mask_that_hides_nothing_is_refused(buffer):
    with pytest.raises(UsageError, match="'full' hides nothing, so there is nothing to predict"):
        prepared(buffer, recipe("full"), np.arange(6))


def test_the_loss_is_half_the_mean_square_over_hidden_features():
    heads = nn.ModuleList([nn.Identity(), nn.Identity()])
    own = [torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.0, 0.0, 0.0]])]
    targets = {
        "features": torch.tensor([[[0.0, 4.0, 0.0], [0.0, 0.0, 0.0]]]),
        "predicted": torch.tensor([[[True, True, False], [False, False, False]]]),
    }
    found = term("hidden_features").loss(students(torch.zeros(1, 2, 2), own), targets, heads)
    assert found.values.tolist() == [[(1 + 4) / 4, 0.0]]
    assert found.weight.tolist() == [[1.0, 0.0]]


def test_gradients_are_those_of_the_plain_formula():
    made = term("hidden_features")
    heads = made.auxiliary_heads((5, 6), SPEC, np.random.default_rng(0))
    own = [torch.randn(7, width, requires_grad=True) for width in (5, 6)]
    features, predicted = torch.randn(7, 2, 4), torch.rand(7, 2, 4) < 0.6
    targets = {"features": features, "predicted": predicted}
    loss = made.loss(students(torch.zeros(7, 2, 2), own), targets, heads).values.sum()
    plain = torch.zeros(())
    for i, (head, embedding) in enumerate(zip(heads, own, strict=True)):
        for s in range(7):
            if predicted[s, i].any():
                gaps = (head(embedding[s]) - features[s, i])[predicted[s, i]]
                plain = plain + gaps.square().mean() / 2
    torch.testing.assert_close(loss, plain)
    leaves = (*own, *heads.parameters())
    pairs = zip(gradients(loss, *leaves), gradients(plain, *leaves), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-4)
