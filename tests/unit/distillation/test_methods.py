"""Methods on value-based experts: what they read, what they ask for, and dueling students."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kd_offline.datasets import DatasetWriter, ExpertBuffer
from kd_offline.distillation.lessons import Streamed, first_critic, measured, ordered, taught
from kd_offline.distillation.methods import METHODS, check_arrays, needed_arrays
from kd_offline.distillation.objective import objective
from kd_offline.distillation.projections import Projections
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.distillation.side_by_side import side_by_side
from kd_offline.distillation.targets import Lesson
from kd_offline.errors import MissingArrayError, UsageError
from kd_offline.students.networks import StudentInputs, StudentTeam
from kd_offline.testing.factories import environment_spec, episode_block, full_mask, header

SPEC = environment_spec((4, 4))
VALUES = {f"steps/{n}" for n in ("obs", "available_actions", "alive", "actions", "q_values")}


@pytest.fixture(scope="module")
def buffer(tmp_path_factory):
    """Random episodes of an expert whose Q-values lie around 1000, one agent often dead."""
    path = tmp_path_factory.mktemp("values") / "d.zarr"
    block = episode_block(SPEC, [7, 3, 5, 6])
    rng = np.random.default_rng(1)
    steps = {k: v for k, v in block.steps.items() if k not in ("logits", "behaviour_logprob")}
    steps["q_values"] = rng.normal(1000, 2, (21, 2, 5)).astype(np.float32)
    steps["alive"][::2, 1] = False
    steps["available_actions"][::2, 1] = False
    steps["actions"][:] = steps["available_actions"].argmax(-1)
    with DatasetWriter.create(path, header(SPEC)) as writer:
        writer.append(replace(block, steps=steps))
        writer.commit({"full": full_mask(SPEC)})
    return ExpertBuffer.open(path)


def prepared(buffer, **settings):
    recipe = distill_recipe(method="q", settings=settings)
    loader = ordered(buffer, np.arange(4), recipe)
    rng = np.random.default_rng(0)
    team = StudentTeam(SPEC, recipe.student, (8, 8), rng, StudentInputs())
    measures = measured(loader, recipe)
    lesson = Lesson(SPEC, first_critic(buffer), recipe, measures, team, None)
    dueling = recipe.student.dueling
    projections = Projections((8, 8), 0, recipe.switches, rng, dueling=dueling)
    (everything,) = taught(loader, lesson).parts(4)
    return recipe, team, everything, projections


def said(team, batch):
    with side_by_side(team, 1) as passes:
        return passes.forward(batch)


def test_q_values_stand_for_logits():
    for method in ("kl", "q", "bc-argmax", "kd-marl"):
        read = needed_arrays(distill_recipe(method=method), VALUES)
        assert "steps/q_values" in read
        assert "steps/logits" not in read
    assert "steps/q_values" not in needed_arrays(distill_recipe(method="bc"), VALUES)
    both = VALUES | {"steps/logits"}
    assert "steps/logits" in needed_arrays(distill_recipe(method="kl"), both)
    assert "steps/q_values" in needed_arrays(distill_recipe(method="q"), both)


@pytest.mark.parametrize("method", METHODS)
def test_without_values_of_states_the_message_says_which_method_to_use(method):
    recipe = distill_recipe(method=method)
    if not recipe.weights.policy:
        check_arrays(recipe, VALUES)
        return
    with pytest.raises(MissingArrayError) as found:
        check_arrays(recipe, VALUES | {"steps/embedding"})
    words = str(found.value)
    assert "needs steps/value, final/value" in words
    assert words.endswith("add --policy-term none, or choose --method kl or q or bc or bc-argmax")


def test_a_student_that_says_the_expert_values_has_no_loss(buffer):
    recipe, team, batch, projections = prepared(buffer)
    (_, embeddings), batch = said(team, batch), batch.targets
    logits = batch.expert + torch.randn(*batch.expert.shape[:-1], 1)  # its level is free
    terms = objective(logits, embeddings, batch, projections, recipe, 1.0)
    assert set(terms) == {"regression", "loss"}
    assert terms["loss"].item() == pytest.approx(0.0, abs=1e-6)
    # Saying nothing costs half the variance between legal actions, in its own unit.
    zero = objective(torch.zeros_like(logits), embeddings, batch, projections, recipe, 1.0)
    assert zero["loss"].item() == pytest.approx(0.5, abs=0.05)


def test_dueling_students_learn_the_level_beside_their_head(buffer):
    recipe, team, batch, projections = prepared(buffer, **{"student.dueling": True})
    (logits, embeddings), batch = said(team, batch), batch.targets
    terms = objective(logits, embeddings, batch, projections, recipe, 1.0)
    assert terms["value"].item() == pytest.approx(0.5, abs=0.01)  # of zeros, of deviation 1
    torch.testing.assert_close(terms["loss"], terms["regression"] + terms["value"])
    terms["loss"].backward()
    assert all(v.weight.grad.abs().sum() > 0 for v in projections.value)
    level = np.nanmean(np.where(batch.weight.bool(), batch.baseline, np.nan), 0)
    np.testing.assert_allclose(level, 0.0, atol=1e-3)


def test_dead_agents_change_nothing(buffer):
    recipe, team, batch, projections = prepared(buffer, **{"student.dueling": True})
    (logits, embeddings), batch = said(team, batch), batch.targets
    before = objective(logits, embeddings, batch, projections, recipe, 1.0)["loss"]
    spoiled = torch.where(batch.weight.unsqueeze(-1) > 0, logits, 50.0 * torch.randn_like(logits))
    assert (batch.weight == 0).any()
    after = objective(spoiled, embeddings, batch, projections, recipe, 1.0)["loss"]
    assert after.item() == pytest.approx(before.item(), rel=1e-6)


def test_a_stream_gives_the_targets_of_memory(buffer):
    whole = prepared(buffer, **{"student.dueling": True})[2].targets
    recipe = distill_recipe(method="q", settings={"student.dueling": True, "memory_mb": 50.0})
    loader = ordered(buffer, np.arange(4), recipe)
    team = StudentTeam(SPEC, recipe.student, (8, 8), None, StudentInputs())
    measures = measured(loader, recipe)
    lesson = Lesson(SPEC, first_critic(buffer), recipe, measures, team, None)
    streamed = Streamed(buffer, np.arange(4), lesson, loader.length)
    (part,) = streamed.parts(4)
    for name in ("expert", "baseline", "weight"):
        torch.testing.assert_close(getattr(part.targets, name), getattr(whole, name))


def test_dueling_needs_the_regression():
    with pytest.raises(UsageError, match="dueling students need"):
        distill_recipe(method="kl", settings={"student.dueling": True})
