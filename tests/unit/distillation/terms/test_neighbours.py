"""Targets averaged over what looks alike to a student: by hand, bounded and repeatable."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kd_offline.datasets import DatasetWriter, ExpertBuffer
from kd_offline.distillation.episode_targets import StreamedTargets
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.distillation.step_samples import StepSamples
from kd_offline.distillation.terms.active import check_arrays
from kd_offline.distillation.terms.base import RecordedBatch
from kd_offline.errors import MissingArrayError
from kd_offline.testing.factories import environment_spec, episode_block, full_mask, header
from tests.unit.distillation.preparing import prepared

SPEC = environment_spec((2,), (2,))


def recipe(**settings):
    places = {f"terms.neighbours.{name}": value for name, value in settings.items()}
    return distill_recipe(method="neighbours", mask="half", settings=places)


@pytest.fixture
def buffer(tmp_path):
    """The second feature decides what the expert does, and the mask hides it."""
    block = episode_block(SPEC, [2, 2])
    obs = np.array([[0, 0], [0, 9], [5, 0], [9, 9]], np.float32)
    logits = np.log(np.array([[0.8, 0.2], [0.2, 0.8], [0.5, 0.5], [0.9, 0.1]], np.float32))
    steps = {**block.steps, "obs": obs[:, None], "logits": logits[:, None]}
    steps["available_actions"] = np.ones((4, 1, 2), bool)
    half = np.array([[True, False]])
    with DatasetWriter.create(tmp_path / "d.zarr", header(SPEC, masks=("full", "half"))) as writer:
        writer.append(replace(block, steps=steps))
        writer.commit({"full": full_mask(SPEC), "half": half})
    return ExpertBuffer.open(tmp_path / "d.zarr")


def target(buffer, chosen, episodes=(0, 1)):
    found = prepared(buffer, chosen, np.array(episodes))
    return found.targets.targets.terms["neighbours"]["expert"].exp()[:, 0]


def test_a_step_and_its_nearest_are_averaged_with_equal_weights(buffer):
    found = target(buffer, recipe(count=2))
    first, second = (0.8 * 2 + 0.2) / 3, (0.2 * 2 + 0.8) / 3  # both look alike
    third, fourth = (0.5 * 2 + 0.9) / 3, (0.9 * 2 + 0.5) / 3
    torch.testing.assert_close(found[:, 0], torch.tensor([first, second, third, fourth]))


def test_the_temperature_softens_the_mean(buffer):
    mean, soft = target(buffer, recipe(count=2)), target(buffer, recipe(count=2, temperature=3.0))
    torch.testing.assert_close(soft, torch.softmax(mean.log() / 3, -1))


def test_actions_that_are_not_legal_in_the_step_have_no_share(buffer, tmp_path):
    steps = {name: buffer.read(f"steps/{name}") for name in ("obs", "logits")}
    block = episode_block(SPEC, [2, 2])
    legal = np.ones((4, 1, 2), bool)
    legal[0, 0, 1] = False
    whole = {**block.steps, **steps, "available_actions": legal}
    whole["actions"] = np.zeros((4, 1), np.int16)
    chosen = recipe(count=2).model_copy(update={"mask": "half"})
    with DatasetWriter.create(tmp_path / "e.zarr", header(SPEC, masks=("half",))) as writer:
        writer.append(
            replace(block, steps={k: v for k, v in whole.items() if k != "behaviour_logprob"})
        )
        writer.commit({"half": np.array([[True, False]])})
    keep_forced = {"objective": chosen.objective.model_copy(update={"drop_forced": False})}
    found = target(ExpertBuffer.open(tmp_path / "e.zarr"), chosen.model_copy(update=keep_forced))
    assert found[0].tolist() == [1.0, 0.0]
    # Of the first the legal action is certain, so its like averages certainty and 0.2 twice.
    assert found[1, 0].item() == pytest.approx((0.2 * 2 + 1.0) / 3)


def test_a_stream_gives_the_targets_of_memory(buffer):
    found = prepared(buffer, recipe(count=3), np.arange(2))
    (streamed,) = StreamedTargets(buffer, np.arange(2), found.context, found.loader.length).parts(2)
    torch.testing.assert_close(
        streamed.targets.terms["neighbours"]["expert"],
        found.targets.packed().targets.terms["neighbours"]["expert"],
        rtol=0,
        atol=0,
    )


def test_the_sample_is_bounded_even_and_does_not_depend_on_padding():
    spec = environment_spec((1,), (2,))
    rng = np.random.default_rng(0)
    obs = np.arange(6000, dtype=np.float32).reshape(20, 300, 1, 1)
    arrays = {
        "steps/obs": obs,
        "steps/logits": rng.standard_normal((20, 300, 1, 2)).astype(np.float32),
        "steps/available_actions": np.ones((20, 300, 1, 2), bool),
    }
    kept = []
    for padding in (0, 7):
        samples = StepSamples(spec, 200)
        for part in range(0, 20, 5):
            given = {
                name: np.pad(x[part : part + 5], ((0, 0), (0, padding), (0, 0), (0, 0)))
                for name, x in arrays.items()
            }
            alive = np.pad(np.ones((5, 300, 1), bool), ((0, 0), (0, padding), (0, 0)))
            samples.add(RecordedBatch(given, alive, alive))
        (agent,) = samples.finish()[0]
        kept.append(agent.sample)
    assert len(kept[0]) == 200
    np.testing.assert_array_equal(kept[0].obs, kept[1].obs)
    assert len(np.unique(kept[0].obs)) == 200
    assert abs(kept[0].obs.mean() - 3000) < 400
    np.testing.assert_allclose(kept[0].policy.sum(-1), 1.0, rtol=1e-5)


def test_without_logits_the_sentence_says_so():
    with pytest.raises(MissingArrayError, match="'neighbours' needs steps/logits, not in this"):
        check_arrays(
            recipe(), ["steps/obs", "steps/q_values", "steps/available_actions", "steps/alive"]
        )
