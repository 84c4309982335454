"""Regression of Q-values with their levels (CTDS), by hand and on recorded episodes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kd_offline.datasets import DatasetWriter, ExpertBuffer
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.distillation.terms.q_values import QScale
from kd_offline.testing.factories import environment_spec, episode_block, full_mask, header
from tests.unit.distillation.preparing import prepared

SPEC = environment_spec((4, 4), (5, 3))


@pytest.fixture(scope="module")
def buffer(tmp_path_factory):
    path = tmp_path_factory.mktemp("levels") / "d.zarr"
    block = episode_block(SPEC, [7, 3, 5, 6])
    q = np.random.default_rng(1).normal(100, 20, (21, 2, 5)).astype(np.float32)
    steps = {k: v for k, v in block.steps.items() if k not in ("logits", "behaviour_logprob")}
    steps["q_values"] = q
    steps["alive"][::4, 1] = False
    steps["available_actions"][::4, 1] = False
    steps["actions"][:] = steps["available_actions"].argmax(-1)
    with DatasetWriter.create(path, header(SPEC)) as writer:
        writer.append(replace(block, steps=steps))
        writer.commit({"full": full_mask(SPEC)})
    return ExpertBuffer.open(path)


def settled(buffer, **settings):
    recipe = distill_recipe(method="ctds", settings=settings)
    found = prepared(buffer, recipe, np.arange(4))
    (everything,) = found.targets.parts(4)
    return found, everything


def test_values_are_taken_from_their_level_in_their_unit():
    scale = QScale(np.array([10.0, 0.0]), np.array([2.0, 1.0]))
    q = torch.tensor([[10.0, 14.0], [3.0, -1.0]])
    assert scale.scaled(q).tolist() == [[0.0, 2.0], [3.0, -1.0]]


@pytest.mark.parametrize("actions", ["legal", "all"])
def test_the_loss_and_its_gradients_are_those_of_a_plain_implementation(buffer, actions):
    found, batch = settled(buffer, **{"terms.q_values.actions": actions})
    logits, embeddings = found.outputs(batch)
    loss = found.losses(logits, embeddings, batch)["loss"]
    (ours,) = torch.autograd.grad(loss, logits)
    scale = found.terms.terms["q_values"].statistics
    (whole,) = found.targets.parts(4)
    q = batch.targets.terms["q_values"]["q"]
    total, count = torch.zeros(()), 0
    for step in range(len(logits)):
        for agent, own in enumerate(SPEC.action_counts):
            if not batch.targets.weight[step, agent]:
                continue
            legal = whole.targets.available[step, agent]
            counted = [a for a in range(own) if actions == "all" or legal[a]]
            squares = [(logits[step, agent, a] - q[step, agent, a]) ** 2 / 2 for a in counted]
            total, count = total + sum(squares) / len(squares), count + 1
    torch.testing.assert_close(loss, total / count)
    torch.testing.assert_close(ours, torch.autograd.grad(total / count, logits)[0])
    data = buffer.load(["steps/q_values", "steps/available_actions", "steps/alive"])
    legal = data["steps/available_actions"] & data["steps/alive"][..., None]
    decides = legal.sum(-1) > 1
    for agent in range(2):
        rows = [data["steps/q_values"][k, agent][legal[k, agent]] for k in range(21)]
        rows = [row for row, counts in zip(rows, decides[:, agent], strict=True) if counts]
        level, unit = np.mean([r.mean() for r in rows]), np.sqrt(np.mean([r.var() for r in rows]))
        np.testing.assert_allclose([scale.level[agent], scale.unit[agent]], [level, unit], 1e-5)


def test_the_level_is_learned_unlike_by_the_centred_regression(buffer):
    found, batch = settled(buffer)
    q = batch.targets.terms["q_values"]["q"]
    _, embeddings = found.outputs(batch)
    assert found.losses(q, embeddings, batch)["loss"].item() == pytest.approx(0.0, abs=1e-9)
    moved = found.losses(q + 2.0, embeddings, batch)
    assert moved["loss"].item() == pytest.approx(2.0, rel=1e-5)


def test_actions_that_are_not_legal_count_only_where_asked_for(buffer):
    for actions, differs in (("legal", False), ("all", True)):
        found, batch = settled(buffer, **{"terms.q_values.actions": actions})
        logits, embeddings = found.outputs(batch)
        spoiled = torch.where(batch.targets.available, logits, logits + 3.0)
        before, after = (found.losses(x, embeddings, batch)["loss"] for x in (logits, spoiled))
        assert (before.item() != after.item()) is differs
