"""Mixer distillation: units, hand-worked values, gradients, and the file of the mixer."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from kd_offline.datasets import DatasetWriter, ExpertBuffer
from kd_offline.distillation.distill import distill
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.distillation.terms.mixer import TeamMixer, recorded_state, saved_mixers
from kd_offline.errors import CheckpointError, MissingArrayError, StorageError
from kd_offline.networks.files import read_tensors, write_tensors
from kd_offline.runs.folder import open_run
from kd_offline.testing.factories import environment_spec, episode_block, full_mask, header
from tests.unit.distillation.preparing import prepared
from tests.unit.distillation.terms.by_hand import gradients, students, term

TARGETS = {
    "state": torch.tensor([[1.0]]),
    "q_tot": torch.tensor([7.0]),
    "credit": torch.tensor([[0.5, 0.5]]),
    "action": torch.tensor([[0, 1]]),
}


def mixer(first: Any, second: Any, level: Any) -> Any:
    """A mixer of one hidden unit and one number of state, whose weights are given."""
    made: Any = TeamMixer(2, 1, 1)
    q = made.mixer
    with torch.no_grad():
        for network, values in ((q.w1, first), (q.b1, [0.0]), (q.w2, second), (q.v, level)):
            network[0].weight.zero_()
            network[0].bias.copy_(torch.tensor(values))
        made.q_tot_mean.fill_(5.0)
        made.q_tot_std.fill_(2.0)
    return made


def test_team_value_and_credits_by_hand():
    made = term("mixer", credit=3.0)
    # At q_temperature 0.1 the centred values of the executed actions are 0.1 and 0.2.
    logits = [[[1.0, -1.0], [-2.0, 2.0]]]
    found = made.loss(students(logits), TARGETS, mixer([1.0, -3.0], [2.0], [0.4]))
    # q_tot = (0.1 * 1 + 0.2 * 3) * 2 + 0.4 = 1.8; the expert's is (7 - 5) / 2 = 1.
    assert found["mixer"].values.item() == pytest.approx(0.8**2 / 2)
    # Credits 2 and 6 are shares of 1/4 and 3/4.
    assert found["mixer_credit"].values.item() == pytest.approx(2 * 0.25**2)
    assert found["mixer_credit"].scale == 3.0


def test_who_is_not_alive_adds_nothing_and_has_no_share():
    targets = TARGETS | {"credit": torch.tensor([[1.0, 0.0]])}
    logits = [[[1.0, -1.0], [-2.0, 2.0]]]
    given = students(logits, alive=[[1, 0]])
    found = term("mixer").loss(given, targets, mixer([1.0, -3.0], [2.0], [0.4]))
    assert found["mixer"].values.item() == pytest.approx((0.1 * 2 + 0.4 - 1) ** 2 / 2)
    assert found["mixer_credit"].values.item() == pytest.approx(0.0)


def test_gradients_are_those_of_the_plain_formula():
    torch.manual_seed(0)
    made, heads = term("mixer"), TeamMixer(3, 4, 8)
    logits, state = torch.randn(6, 3, 5, requires_grad=True), torch.randn(6, 4)
    targets = {
        "state": state,
        "q_tot": torch.randn(6),
        "credit": torch.rand(6, 3).softmax(-1),
        "action": torch.randint(0, 5, (6, 3)),
    }
    found = made.loss(students(logits), targets, heads)
    q = heads.mixer
    values = (logits - logits.mean(-1, keepdim=True)) * 0.1
    chosen = torch.stack(
        [torch.stack([values[s, i, targets["action"][s, i]] for i in range(3)]) for s in range(6)]
    )
    first = q.w1(state).abs().view(6, 3, 8)
    hidden = functional.elu((chosen.unsqueeze(1) @ first).squeeze(1) + q.b1(state))
    total = (hidden * q.w2(state).abs()).sum(-1) + q.v(state).squeeze(-1)
    (credit,) = torch.autograd.grad(total.sum(), chosen, create_graph=True)
    shares = credit / credit.sum(-1, keepdim=True)
    plain = functional.huber_loss(total, targets["q_tot"], reduction="sum")
    plain = plain + (shares - targets["credit"]).square().sum()
    loss = found["mixer"].values.sum() + found["mixer_credit"].values.sum()
    torch.testing.assert_close(loss, plain)
    leaves = (logits, *heads.parameters())
    pairs = zip(gradients(loss, *leaves), gradients(plain, *leaves), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_without_a_recorded_state_it_is_all_observations_without_their_padding():
    spec = environment_spec((2, 1))
    obs = np.array([[[1.0, 2.0], [3.0, 0.0]]], np.float32)
    assert recorded_state({"steps/obs": obs}, spec).tolist() == [[1.0, 2.0, 3.0]]


def dataset(path, state_width=0, without=()):
    spec = environment_spec((4, 3), state_width=state_width)
    lengths = [5, 3, 6, 4]
    block = episode_block(
        spec, lengths, without=("steps/logits", "steps/behaviour_logprob", *without)
    )
    rng, rows = np.random.default_rng(1), sum(lengths)
    steps = {
        **block.steps,
        "q_values": rng.normal(0, 1, (rows, 2, 5)).astype(np.float32),
        "q_tot": rng.normal(9, 2, rows).astype(np.float32),
        "mixer_credit": rng.random((rows, 2)).astype(np.float32),
    }
    with DatasetWriter.create(path, header(spec)) as writer:
        writer.append(replace(block, steps=steps))
        writer.commit({"full": full_mask(spec)})
    return ExpertBuffer.open(path)


def recipe(**settings):
    places = {name.replace("__", "."): value for name, value in settings.items()}
    small = {"optimisation.epochs": 2, "optimisation.batch_episodes": 2, "student.hidden": 8}
    return distill_recipe(method="mixer", settings=small | places)


@pytest.mark.parametrize("width", [0, 3])
def test_the_mixer_has_the_units_of_the_dataset(tmp_path, width):
    buffer = dataset(tmp_path / "d.zarr", width)
    found = prepared(buffer, recipe(), np.arange(4))
    heads = found.heads.by_term()["mixer"]
    values = buffer.read("steps/q_tot").astype(np.float64)
    assert float(heads.q_tot_mean) == pytest.approx(values.mean(), rel=1e-5)
    assert float(heads.q_tot_std) == pytest.approx(values.std(), rel=1e-5)
    assert len(heads.state_mean) == (width or 7)


def test_a_state_that_is_nowhere_recorded_is_refused_by_name(tmp_path):
    buffer = dataset(tmp_path / "d.zarr", 3, without=("steps/state", "final/state"))
    with pytest.raises(MissingArrayError, match="'mixer' needs steps/state, not in this dataset"):
        prepared(buffer, recipe(), np.arange(4))


@pytest.mark.parametrize(("batched", "on"), [(False, None), (True, None), (False, "serial")])
def test_the_mixers_of_all_seeds_are_kept_on_request(tmp_path, batched, on):
    path = tmp_path / "run"
    chosen = recipe(terms__mixer__save=True, seeds=[3, 1], batched_seeds=batched)
    distill(dataset(tmp_path / "d.zarr"), path, chosen, on=on)
    mixers = saved_mixers(path)
    assert list(mixers) == [3, 1]
    total, credit = mixers[3](torch.zeros(2, 2), torch.zeros(2, 7))
    assert (total.shape, credit.shape) == ((2,), (2, 2))
    assert not torch.equal(mixers[3].mixer.v[0].bias, mixers[1].mixer.v[0].bias)
    assert (credit >= 0).all()


def test_nothing_is_kept_without_a_request_and_another_run_is_refused(tmp_path):
    buffer = dataset(tmp_path / "d.zarr")
    distill(buffer, tmp_path / "plain", recipe())
    with pytest.raises(StorageError):
        saved_mixers(tmp_path / "plain")
    distill(buffer, tmp_path / "kept", recipe(terms__mixer__save=True, seeds=[5]))
    kept = (tmp_path / "kept" / "auxiliary.safetensors").read_bytes()
    (tmp_path / "plain" / "auxiliary.safetensors").write_bytes(kept)
    with pytest.raises(CheckpointError, match="of other students than those of its run"):
        saved_mixers(tmp_path / "plain")
    for tensors in (
        {},
        {"5.mixer.mixer.w1.0.weight": torch.zeros(2)},
        {"5.mixer.mixer.w1.0.weight": torch.zeros(2, 3), "x": torch.zeros(1)},
        {
            "5.mixer.mixer.w1.0.weight": torch.zeros(2, 3),
            "5.mixer.mixer.b1.0.bias": torch.zeros(0),
        },
    ):
        stated = read_tensors(tmp_path / "kept" / "auxiliary.safetensors", "").metadata
        write_tensors(tmp_path / "kept" / "auxiliary.safetensors", tensors, metadata=stated)
        with pytest.raises(CheckpointError, match="are no mixers: distil again"):
            saved_mixers(tmp_path / "kept")
    (open_run(tmp_path / "kept").path / "auxiliary.safetensors").write_bytes(kept[:-1] + b"\0")
    with pytest.raises(CheckpointError, match="damaged"):
        saved_mixers(tmp_path / "kept")
