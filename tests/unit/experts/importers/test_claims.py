"""Small checkpoints of other libraries that claim large networks: refused before memory is used."""

import json
import resource
import zipfile

import pytest
import torch
from torch import nn

from kd_offline import environments
from kd_offline.errors import CheckpointError, StorageError
from kd_offline.experts.importers.files import read_torch, tensors_of
from kd_offline.experts.importers.networks import gru, linear, mixer, norm
from kd_offline.experts.load import load
from tests.unit.experts.importers.layouts import spread_mappo

SPREAD = environments.load("mpe/simple_spread_v3").spec
WIDE = 1_000_000


def agent(**changed):
    """Return the tensors of an agent of EPyMARL's, some of them others."""
    plain = {"fc1.weight": (8, 21), "fc1.bias": (8,), "fc2.weight": (5, 8), "fc2.bias": (5,)}
    plain |= {"rnn.weight_ih": (24, 8), "rnn.weight_hh": (24, 8)}
    plain |= {"rnn.bias_ih": (24,), "rnn.bias_hh": (24,)}
    return {name: torch.zeros(shape) for name, shape in plain.items()} | changed


@pytest.mark.parametrize(
    "repeated",
    [
        torch.zeros(1).expand(WIDE, WIDE),
        torch.zeros(WIDE, WIDE, device="meta"),
        torch.zeros(2, 2).to_sparse().sparse_resize_((WIDE, WIDE), 2, 0),
    ],
    ids=["repeated", "meta", "sparse"],
)
def test_tensors_that_store_less_than_they_claim_are_refused(repeated, tmp_path):
    torch.save(agent(**{"fc1.weight": repeated}), tmp_path / "agent.th")
    with pytest.raises(CheckpointError, match="its tensors claim many more"):
        load(f"epymarl:{tmp_path}", SPREAD)


def test_weights_that_two_layers_share_are_read(tmp_path):
    shared = torch.ones(8, 8)
    torch.save({"a": shared, "b": shared, "c": shared.T}, tmp_path / "x.th")
    read = tensors_of(read_torch(tmp_path / "x.th"), tmp_path / "x.th")
    assert [len(value) for value in read.values()] == [8, 8, 8]


def test_a_compressed_checkpoint_is_not_unpacked(tmp_path):
    torch.save({"w": torch.zeros(100_000)}, tmp_path / "plain.th")
    with (
        zipfile.ZipFile(tmp_path / "plain.th") as plain,
        zipfile.ZipFile(tmp_path / "agent.th", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(CheckpointError, match=r"is compressed, which torch\.save never does"):
        load(f"epymarl:{tmp_path}", SPREAD)


@pytest.mark.parametrize(
    "tensors",
    [
        {"fc1.weight": torch.zeros(0, WIDE)},
        {"fc1.weight": torch.zeros(WIDE, 0)},
        {"fc1.weight": torch.zeros(8)},
        {"rnn.weight_hh": torch.zeros(0, WIDE)},
        {"rnn.weight_hh": torch.zeros(1, 100_000)},
        {"rnn.weight_hh": torch.zeros(24, 0)},
        {"rnn.weight_ih": torch.zeros(24)},
        {"rnn.bias_ih": torch.zeros(23)},
        {"fc2.weight": torch.zeros(5, 7)},
    ],
    ids=lambda tensors: " ".join(f"{name}-{tuple(t.shape)}" for name, t in tensors.items()),
)
def test_layers_whose_tensors_do_not_fit_each_other_are_refused(tensors, tmp_path):
    torch.save(agent(**tensors), tmp_path / "agent.th")
    with pytest.raises(CheckpointError, match="shapes that do not belong to one network"):
        load(f"epymarl:{tmp_path}", SPREAD)


def one(rows, columns):
    return linear(torch.zeros(rows, columns), torch.zeros(rows))


@pytest.mark.parametrize(
    "make",
    [
        lambda z: gru([(z(3, 1), z(1, 8000), z(3), z(3))]),
        lambda z: gru([(z(0, 8000), z(0, 8000), z(0), z(0))]),
        lambda z: linear(z(10**8, 0), z(1)),
        lambda _: mixer([one(8000, 1), one(8000, 1)], [one(1, 1)], [one(1, 1)], [one(1, 1)]),
        lambda _: mixer([one(3, 8000)], [one(1, 1)], [one(1, 1)], [one(8000, 1), one(1, 1)]),
    ],
    ids=["gru", "gru of no rows", "linear", "mixer of agents", "mixer of states"],
)
def test_what_one_tensor_claims_of_another_allocates_nothing(make):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match="do not belong to one network"):
        make(torch.zeros)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


def test_layers_hold_the_values_that_they_were_given():
    weight, bias = torch.randn(6, 4).T, torch.randn(4)
    layer = linear(weight, bias)
    assert layer.weight.is_contiguous()
    assert torch.equal(layer.weight, weight)
    assert torch.equal(norm(bias, bias).bias, bias)
    cell, wanted = nn.GRU(3, 2), [torch.randn(6, 3), torch.randn(6, 2), *torch.randn(2, 6)]
    cell.load_state_dict(dict(zip(cell.state_dict(), wanted, strict=True)))
    seen = torch.randn(1, 5, 3)
    assert torch.equal(gru([tuple(wanted)])(seen)[0], cell(seen)[0])


@pytest.mark.parametrize("text", ["[" * 100_000, "{", '{"gamma": 1' + "0" * 5000 + "}"])
def test_settings_that_are_no_json_are_refused_in_a_sentence(text, tmp_path):
    spread_mappo(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match="is not valid JSON"):
        load(f"epymarl:{tmp_path}", SPREAD)


def test_settings_of_megabytes_are_not_read(tmp_path):
    spread_mappo(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"x": "y" * (1 << 20)}))
    with pytest.raises(StorageError, match="has more than 1,048,576 bytes"):
        load(f"epymarl:{tmp_path}", SPREAD)
