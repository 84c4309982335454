"""Several experts in one dataset: own teacher, weights by value and by return, by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kd_offline.datasets import DatasetWriter, ExpertBuffer
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.distillation.terms.active import check_arrays
from kd_offline.distillation.validation_metrics import validate
from kd_offline.errors import MissingArrayError
from kd_offline.testing.factories import environment_spec, episode_block, full_mask, header
from tests.unit.distillation.preparing import prepared

SPEC = environment_spec((1,), (2,))
FIRST = [0.9, 0.9, 0.6]  # of the first expert, probability of the first action
SECOND = 0.2


@pytest.fixture
def buffer(tmp_path):
    """Two experts that both were at 0, and the first of them also at 8."""
    top = header(SPEC).model_copy(update={"heldout": 0.0})
    (expert,) = top.experts
    other = expert.model_copy(update={"id": 4, "digest": "sha256:" + "1" * 64})
    block = episode_block(SPEC, [3, 1, 1])
    chances = np.array([*FIRST, SECOND, 0.5])
    logits = np.log(np.stack([chances, 1 - chances], -1)).astype(np.float32)
    steps = {
        **block.steps,
        "obs": np.array([0, 0, 8, 0, 0], np.float32).reshape(5, 1, 1),
        "logits": logits[:, None],
        "value": np.array([1, 1, 1, 2, 2], np.float32)[:, None],
        "reward": np.array([1, 0, 0, 3, 99], np.float32)[:, None],
        "available_actions": np.ones((5, 1, 2), bool),
    }
    steps = {name: x for name, x in steps.items() if name != "behaviour_logprob"}
    episodes = {
        **block.episodes,
        "expert_id": np.array([0, 4, 4], np.int16),
        "noise_level": np.array([0, 0, 0.5], np.float32),
    }
    with DatasetWriter.create(
        tmp_path / "d.zarr", top.model_copy(update={"experts": (expert, other)})
    ) as writer:
        writer.append(replace(block, steps=steps, episodes=episodes))
        writer.commit({"full": full_mask(SPEC)})
    return ExpertBuffer.open(tmp_path / "d.zarr")


def recipe(rule, **settings):
    places = {f"terms.teachers.{name}": value for name, value in settings.items()}
    return distill_recipe(method="multi-teacher", settings={"terms.teachers.rule": rule, **places})


def first_chances(buffer, rule, **settings):
    found = prepared(buffer, recipe(rule, **settings), np.arange(2))  # those without noise
    return found.targets.targets.terms["teachers"]["expert"].exp()[:, 0, 0].numpy()


def test_by_default_the_expert_that_played_is_the_target(buffer):
    np.testing.assert_allclose(first_chances(buffer, "own"), [*FIRST, SECOND], rtol=1e-5)


def test_weights_by_return_without_noise(buffer):
    # Returns 1 and 3 have a deviation of 1, so the weights are exp(1 / 2) and exp(3 / 2).
    low, high = np.exp(0.5), np.exp(1.5)
    both = (low * 0.9 + high * SECOND) / (low + high)
    found = first_chances(buffer, "validation", spread=2.0)
    np.testing.assert_allclose(found, [both, both, 0.6, both], rtol=1e-4)


def test_weights_by_value(buffer):
    # Values 1, 1, 1 and 2 of the sample have a deviation of sqrt(3) / 4.
    low, high = (np.exp(value / (3**0.5 / 4) / 2.0) for value in (1, 2))
    both = (low * 0.9 + high * SECOND) / (low + high)
    found = first_chances(buffer, "value", spread=2.0)
    np.testing.assert_allclose(found, [both, both, 0.6, both], rtol=1e-4)


def test_an_expert_that_was_never_near_has_no_say(buffer):
    far = first_chances(buffer, "validation", spread=1e9, radius=1e9)
    np.testing.assert_allclose(far[2], (0.6 + SECOND) / 2, rtol=1e-4)
    near = first_chances(buffer, "validation", spread=1e9)
    np.testing.assert_allclose(near[2], 0.6, rtol=1e-5)


def test_the_loss_is_the_divergence_from_the_mean(buffer):
    found = prepared(buffer, recipe("validation", spread=2.0), np.arange(2))
    batch = found.targets.packed()
    logits, embeddings = found.outputs(batch)
    value = found.losses(logits, embeddings, batch)["teachers"]
    expert = batch.targets.terms["teachers"]["expert"]
    plain = (expert.exp() * (expert - torch.log_softmax(logits, -1))).sum(-1).mean()
    torch.testing.assert_close(value, plain)


def test_a_mean_needs_to_know_who_played():
    present = ["steps/obs", "steps/available_actions", "steps/alive", "steps/logits"]
    check_arrays(recipe("own"), present)
    with pytest.raises(MissingArrayError, match="needs episodes/expert_id, not in this dataset"):
        check_arrays(recipe("validation"), present)
    with pytest.raises(MissingArrayError, match="needs episodes/expert_id, steps/value"):
        check_arrays(recipe("value"), present)


@pytest.mark.parametrize(("rule", "criterion"), [("own", "kl"), ("validation", "teachers")])
def test_the_best_epoch_is_chosen_by_the_target(buffer, rule, criterion):
    found = prepared(buffer, recipe(rule), np.arange(2))
    judged = validate(found.team, found.targets, 2, found.terms)
    assert judged.criterion == criterion
    batch = found.targets.packed()
    trained = found.losses(*found.outputs(batch), batch)["teachers"].item()
    assert judged.figures[criterion] == pytest.approx(trained, rel=1e-4)
