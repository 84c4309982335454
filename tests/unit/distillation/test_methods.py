"""Methods on value-based experts: what they read, what they ask for, and dueling students."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kd_offline.datasets import DatasetWriter, ExpertBuffer
from kd_offline.distillation.episode_targets import StreamedTargets
from kd_offline.distillation.methods import METHODS
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.distillation.terms.active import ActiveTerms, check_arrays
from kd_offline.errors import MissingArrayError, UsageError
from kd_offline.testing.factories import environment_spec, episode_block, full_mask, header
from tests.unit.distillation.preparing import prepared

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


@pytest.mark.parametrize("name", ["q", "mixer", "ctds", "logits"])
def test_regressions_have_targets_of_the_size_of_a_new_students_outputs(name):
    assert METHODS[name].recipe().objective.q_temperature == 1.0
    assert METHODS["kl"].recipe().objective.q_temperature < 1.0


def setting(buffer, **settings):
    recipe = distill_recipe(method="q", settings=settings)
    found = prepared(buffer, recipe, np.arange(4))
    (everything,) = found.targets.parts(4)
    return found, everything


def needed(method, present):
    return ActiveTerms.of(distill_recipe(method=method)).arrays(present)


def test_q_values_stand_for_logits():
    for method in ("kl", "q", "bc-argmax", "kd-marl"):
        read = needed(method, VALUES)
        assert "steps/q_values" in read
        assert "steps/logits" not in read
    assert "steps/q_values" not in needed("bc", VALUES)
    both = VALUES | {"steps/logits"}
    assert "steps/logits" in needed("kl", both)
    assert "steps/q_values" in needed("q", both)


OF_VALUES = ("kl", "q", "bc", "bc-argmax", "ctds", "igm-bc", "logits", "hidden-features")


@pytest.mark.parametrize("method", [*OF_VALUES, "multi-teacher"])
def test_q_values_are_enough_for_most_methods(method):
    check_arrays(distill_recipe(method=method), VALUES)


@pytest.mark.parametrize("method", ["kd-marl", "kd-marl-eq6"])
def test_without_values_of_states_the_message_says_which_method_to_use(method):
    recipe = distill_recipe(method=method)
    with pytest.raises(MissingArrayError) as found:
        check_arrays(recipe, VALUES | {"steps/embedding"})
    words = str(found.value)
    assert "needs steps/value, final/value" in words
    assert words.endswith(
        "set weights.policy to 0, or choose the method kl or q or bc or bc-argmax or ctds or igm-bc"
    )


def test_the_message_says_which_expert_has_what_is_missing():
    with pytest.raises(MissingArrayError) as found:
        check_arrays(distill_recipe(method="mixer"), VALUES)
    assert str(found.value) == (
        "method 'mixer' needs steps/q_tot, steps/mixer_credit, not in this dataset: set "
        "weights.mixer to 0, or choose the method kl or q or bc or bc-argmax or ctds or igm-bc; "
        "record episodes of an expert that has a mixer, such as one of "
        "train_recipe(algorithm='qmix')"
    )
    with pytest.raises(MissingArrayError, match="an expert that states logits, such as one of"):
        check_arrays(distill_recipe(method="neighbours"), VALUES)


def test_a_student_that_says_the_expert_values_has_no_loss(buffer):
    found, batch = setting(buffer)
    _, embeddings = found.outputs(batch)
    expert = batch.targets.expert_policy
    logits = expert + torch.randn(*expert.shape[:-1], 1)  # its level is free
    terms = found.losses(logits, embeddings, batch)
    assert set(terms) == {"regression", "loss"}
    assert terms["loss"].item() == pytest.approx(0.0, abs=1e-6)
    # Saying nothing costs half the variance between legal actions, in its own unit.
    zero = found.losses(torch.zeros_like(logits), embeddings, batch)
    assert zero["loss"].item() == pytest.approx(0.5, abs=0.05)


def test_dueling_students_learn_the_level_beside_their_head(buffer):
    found, batch = setting(buffer, **{"student.dueling": True})
    logits, embeddings = found.outputs(batch)
    terms = found.losses(logits, embeddings, batch)
    assert terms["value"].item() == pytest.approx(0.5, abs=0.01)  # of zeros, of deviation 1
    torch.testing.assert_close(terms["loss"], terms["regression"] + terms["value"])
    terms["loss"].backward()
    assert all(v.weight.grad.abs().sum() > 0 for v in found.heads.by_term()["regression"])
    level = np.nanmean(
        np.where(batch.targets.weight.bool(), batch.targets.terms["regression"]["value"], np.nan), 0
    )
    np.testing.assert_allclose(level, 0.0, atol=1e-3)


def test_dead_agents_change_nothing(buffer):
    found, batch = setting(buffer, **{"student.dueling": True})
    logits, embeddings = found.outputs(batch)
    before = found.losses(logits, embeddings, batch)["loss"]
    spoiled = torch.where(
        batch.targets.weight.unsqueeze(-1) > 0, logits, 50.0 * torch.randn_like(logits)
    )
    assert (batch.targets.weight == 0).any()
    after = found.losses(spoiled, embeddings, batch)["loss"]
    assert after.item() == pytest.approx(before.item(), rel=1e-6)


def test_a_stream_gives_the_targets_of_memory(buffer):
    found, everything = setting(buffer, **{"student.dueling": True})
    streamed = StreamedTargets(buffer, np.arange(4), found.context, found.loader.length)
    (part,) = streamed.parts(4)
    whole = everything.targets.tensors()
    assert whole.keys() == part.targets.tensors().keys() >= {"regression/value", "expert_policy"}
    for name, values in part.targets.tensors().items():
        torch.testing.assert_close(values, whole[name])


def test_dueling_needs_the_regression():
    with pytest.raises(UsageError, match="dueling students need"):
        distill_recipe(method="kl", settings={"student.dueling": True})
