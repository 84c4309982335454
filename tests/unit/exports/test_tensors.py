"""The PyTorch format of students with other recurrences than a GRU."""

import numpy as np
import pytest
from safetensors.numpy import load, save

from kd_offline.errors import CheckpointError, UsageError
from kd_offline.exports import parity_check, tensors
from kd_offline.exports.engines import ENGINES, team
from kd_offline.networks.deployed import CELLS
from kd_offline.networks.files import with_metadata
from tests.unit.exports.conftest import Kind, exported, same

FUSION = Kind("fusion", 2, motion=True, last_action=True)
PTDE = Kind("ptde", 1, "linear", motion=True, last_action=True)
KINDS = [
    (FUSION, False),
    (Kind("fusion", 0, "linear", mask_as_input=True, mask="drawn"), True),
    (PTDE, False),
    (Kind("ptde", 0, mask="drawn"), True),
]


def written(folder, kind, *, int8=False):
    """Write the networks of a kind, and return their contracts and the reference."""
    _, networks, agents, reference = exported(kind, int8=int8)
    (folder / "torch").mkdir()
    tensors.write(folder / "torch", networks, agents, {"kind": "test"})
    return networks, agents, reference


@pytest.mark.parametrize(("kind", "int8"), KINDS, ids=str)
def test_what_is_read_again_says_what_was_written(kind, int8, episodes, tmp_path):
    networks, agents, reference = written(tmp_path, kind, int8=int8)
    expected = parity_check.replay(reference, episodes)
    for engine in ("numpy", "torch"):
        steps = ENGINES[engine][1](tmp_path, agents)
        parity_check.require_refusals(engine, agents, steps)
        same(parity_check.replay(team(agents, steps, 3), episodes), expected, episodes)
    read = tensors.networks(tensors.read(tmp_path / "torch" / tensors.WEIGHTS, agents), agents)
    for before, after in zip(networks, read, strict=True):
        assert (after.macs, after.parameter_bytes) == (before.macs, before.parameter_bytes)


ALTERED = {
    "missing": ("fusion.maps.weight", None),
    "narrow": ("fusion.hyper.bias", np.zeros(1, np.float32)),
    "scalar": ("fusion.maps.bias", np.float32(0)),
    "flat": ("fusion.maps.weight", np.zeros(7, np.float32)),
    "trunk": ("fusion.trunk.1.weight", np.zeros((2, 3), np.float32)),
    "memory": ("gru.memory.weight", np.zeros((9, 3), np.float32)),
}


@pytest.mark.parametrize("what", ALTERED)
def test_a_block_of_other_sizes_than_its_contract_is_refused(what, tmp_path):
    _, agents, _ = written(tmp_path, FUSION)
    path, (name, values) = tmp_path / "torch" / tensors.WEIGHTS, ALTERED[what]
    metadata = tensors.read(path, agents).metadata
    content = load(path.read_bytes())
    del content[f"0.{name}"]
    if values is not None:
        content[f"0.{name}"] = np.asarray(values)
    path.write_bytes(with_metadata(save(content), {tensors.FACTS: metadata[tensors.FACTS]}))
    with pytest.raises(CheckpointError, match="export them again"):
        tensors.networks(tensors.read(path, agents), agents)


def test_a_memory_of_an_unknown_recurrence_is_refused(tmp_path):
    networks, agents, _ = written(tmp_path, FUSION)
    unknown = {"strange" if name == "fusion" else name: at for name, at in agents[0].memory.items()}
    agents = (agents[0].model_copy(update={"memory": unknown}), *agents[1:])
    tensors.write(tmp_path / "torch", networks, agents, {})
    file = tensors.read(tmp_path / "torch" / tensors.WEIGHTS, agents)
    with pytest.raises(CheckpointError, match="'strange'; export them again"):
        tensors.networks(file, agents)


def test_a_recurrence_that_the_reader_does_not_know_is_not_written(tmp_path, monkeypatch):
    known = {name: cell for name, cell in CELLS.items() if name != "fusion"}
    monkeypatch.setattr(tensors, "CELLS", known)
    with pytest.raises(UsageError, match=r"knows the recurrences gru, ptde, and not 'fusion'"):
        written(tmp_path, FUSION)
    assert not list((tmp_path / "torch").iterdir())
