"""Terms on inner layers of an expert that sees more: by hand, by autograd, and what they refuse."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from kd_offline.datasets import DatasetWriter, ExpertBuffer
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.distillation.terms.active import check_arrays
from kd_offline.distillation.terms.base import StudentBatch
from kd_offline.distillation.terms.feature import Feature, FeatureSettings
from kd_offline.distillation.terms.privileged_embedding import (
    PrivilegedEmbedding,
    PrivilegedEmbeddingSettings,
)
from kd_offline.distillation.terms.tap import TapStatistics
from kd_offline.distributions.categorical_tensors import CategoricalTensors
from kd_offline.errors import MissingArrayError, UsageError
from kd_offline.testing.factories import environment_spec, episode_block, full_mask, header
from tests.unit.distillation.preparing import prepared

SPEC = environment_spec((4, 4))
LENGTHS = [7, 3, 5, 6]
NAMES = {f"steps/{n}" for n in ("obs", "available_actions", "alive", "actions", "logits")}


def recorded(folder, **taps):
    """Write random episodes with taps, [R, N, W]; the second agent is dead in every third step."""
    block, rows = episode_block(SPEC, LENGTHS), sum(LENGTHS)
    steps = dict(block.steps)
    steps["alive"][::3, 1] = False
    for name, values in taps.items():
        steps[f"embedding_{name}"] = np.broadcast_to(values, (rows, *values.shape[-2:]))
    with DatasetWriter.create(folder / "d.zarr", header(SPEC)) as writer:
        writer.append(replace(block, steps=steps))
        writer.commit({"full": full_mask(SPEC)})
    return ExpertBuffer.open(folder / "d.zarr")


def drawn(width, seed=0):
    values = np.random.default_rng(seed).normal(1, 3, (sum(LENGTHS), 2, width))
    return values.astype(np.float32)


def batch_of(taps, alive=(1.0, 1.0)):
    """One step of two students that have inner layers of their own."""
    count = len(alive)
    policy = CategoricalTensors(torch.zeros(1, count, 2), torch.ones(1, count, 2).bool())
    there = torch.tensor([alive])
    return StudentBatch(policy, [], there, there, None, (0,) * count, taps)


def identity_heads(term, width, count=2):
    term.statistics = TapStatistics(np.zeros((count, width)), np.ones(count))
    term.tap_widths = [{term.settings.tap: width}] * count
    heads = term.auxiliary_heads([5] * count, SPEC, np.random.default_rng(0))
    assert not list(heads.parameters())
    return heads


def test_the_block_loss_is_the_mean_square_over_the_numbers_of_the_tap():
    term = PrivilegedEmbedding(PrivilegedEmbeddingSettings(scale="none"), distill_recipe())
    own = [torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0]])]
    expert = torch.tensor([[[0.0, 4.0], [3.0, 1.0]]])
    found = term.loss(
        batch_of({"s_hat": own}, (1.0, 0.0)), {"tap": expert}, identity_heads(term, 2)
    )
    assert found.values.tolist() == [[2.5, 5.0]]  # (1 + 4) / 2 and (9 + 1) / 2
    assert found.weight.tolist() == [[1.0, 0.0]]


def test_the_feature_loss_is_the_divergence_of_softmaxes_over_the_layer():
    term = Feature(FeatureSettings(), distill_recipe())
    own = [torch.log(torch.tensor([[1.0, 3.0]])), torch.zeros(1, 2)]
    expert = torch.log(torch.tensor([[[1.0, 1.0], [1.0, 1.0]]]) / 2)
    found = term.loss(batch_of({"feature": own}), {"tap": expert}, identity_heads(term, 2))
    # Half and half against a quarter and three quarters; a layer that is even costs nothing.
    wanted = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    torch.testing.assert_close(found.values, torch.tensor([[wanted, 0.0]]))


def test_features_can_be_compared_by_squares():
    term = Feature(FeatureSettings(loss="mse"), distill_recipe())
    own = [torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0]])]
    expert = torch.tensor([[[0.0, 4.0], [3.0, 1.0]]])
    found = term.loss(batch_of({"feature": own}), {"tap": expert}, identity_heads(term, 2))
    assert found.values.tolist() == [[2.5, 5.0]]


def settled(buffer, recipe):
    found = prepared(buffer, recipe, np.arange(len(LENGTHS)))
    (everything,) = found.targets.parts(len(LENGTHS))
    return found, everything


def only(**settings):
    """A recipe of the tap's regression alone, for GRU students, which have no tap."""
    chosen = {"weights.kl": 0.0, "weights.privileged_embedding": 1.0, **settings}
    return distill_recipe(method="kl", settings=chosen)


def test_a_tap_is_taken_in_the_deviation_of_each_agent_over_living_steps(tmp_path):
    values = drawn(3)
    buffer = recorded(tmp_path, s_hat=values)
    found, everything = settled(buffer, only())
    alive = buffer.load(["steps/alive"])["steps/alive"]
    unit = found.terms.terms["privileged_embedding"].statistics
    for agent in range(2):
        own = values[alive[:, agent], agent].astype(np.float64)
        np.testing.assert_allclose(unit.mean[agent], own.mean(0), rtol=1e-6)
        np.testing.assert_allclose(unit.unit[agent], np.sqrt(own.var(0).mean()), rtol=1e-6)
    target = everything.targets.terms["privileged_embedding"]["tap"]
    there = everything.targets.alive > 0
    for agent in range(2):
        counted = target[there[:, agent], agent].double()
        # A student that says nothing has a loss of one: all the variance is left.
        assert counted.square().mean().item() == pytest.approx(1.0, rel=1e-4)
    assert not target[~there].any()


@pytest.mark.parametrize("scale", ["dataset", "none"])
@pytest.mark.parametrize("term", ["privileged_embedding", "feature"])
def test_gradients_are_those_of_a_plain_implementation(tmp_path, term, scale):
    buffer = recorded(tmp_path, s_hat=drawn(3), feature=drawn(3, 1))
    weights = {"weights.privileged_embedding": 0.0, f"weights.{term}": 1.0}
    found, batch = settled(buffer, only(**weights, **{f"terms.{term}.scale": scale}))
    logits, embeddings = found.outputs(batch)
    loss = found.losses(logits, embeddings, batch)["loss"]
    heads = found.heads.by_term()[term]
    leaves = [*embeddings, *heads.parameters()]
    ours = torch.autograd.grad(loss, leaves)

    target, total, count = batch.targets.terms[term]["tap"], torch.zeros(()), 0
    for step in range(len(target)):
        for agent in range(2):
            if not batch.targets.alive[step, agent]:
                continue
            layer = heads[agent]
            own = layer.weight @ embeddings[agent][step] + layer.bias
            wanted = target[step, agent]
            if term == "feature":
                wanted = wanted.exp() / wanted.exp().sum()
                mine = own.exp() / own.exp().sum()
                total = total + (wanted * (wanted / mine).log()).sum()
            else:
                total = total + sum((a - b) ** 2 for a, b in zip(own, wanted, strict=True)) / 3
            count += 1
    torch.testing.assert_close(loss, total / count)
    for mine, plain in zip(ours, torch.autograd.grad(total / count, leaves), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-6)


def test_the_widest_numbers_of_dead_agents_change_nothing(tmp_path):
    values = drawn(3)
    losses = []
    for spoiled in (0.0, 3e38):
        values[::3, 1] = spoiled
        folder = tmp_path / str(spoiled)
        folder.mkdir()
        found, batch = settled(recorded(folder, s_hat=values), only())
        losses.append(found.losses(*found.outputs(batch), batch)["loss"].item())
    assert losses[0] == losses[1]


def test_a_tap_that_never_changes_is_no_division_by_zero(tmp_path):
    buffer = recorded(tmp_path, s_hat=np.full((1, 2, 3), 7.0, np.float32))
    found, batch = settled(buffer, only())
    assert math.isfinite(found.losses(*found.outputs(batch), batch)["loss"].item())


def test_a_dataset_without_the_tap_is_refused_with_what_records_it():
    with pytest.raises(MissingArrayError) as refused:
        check_arrays(only(), NAMES)
    words = str(refused.value)
    assert words.startswith("method 'kl' needs steps/embedding_s_hat, not in this dataset: ")
    assert "choose the method kl or bc or bc-argmax" in words
    assert words.endswith(
        "; record episodes of an expert that sees more than its students, such as one of "
        "train_recipe(settings={'architecture.view': 'personalised'})"
    )
    with pytest.raises(
        MissingArrayError, match=r"personalised', 'architecture\.block': 'hypernetwork'"
    ):
        check_arrays(distill_recipe(method="ptde"), NAMES)


def test_a_tap_needs_a_name_that_an_array_can_have():
    with pytest.raises(UsageError, match=r"terms\.privileged_embedding.*tap"):
        only(**{"terms.privileged_embedding.tap": "../../x"})
