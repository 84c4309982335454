import json

import numpy as np
import pytest

from kd_offline.errors import CheckpointError, MissingExtraError
from kd_offline.exports import onnx_graph, parity_check
from kd_offline.exports.engines import team
from kd_offline.networks.deployed import Affine, GRUCell
from tests.unit.exports.conftest import KINDS, RICH, SPEC, exported, same

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def written(tmp_path, networks):
    for k, network in enumerate(networks):
        onnx_graph.write(tmp_path / f"{k}.onnx", network, {"number": str(k)})
    return [onnx_graph.step(tmp_path / f"{k}.onnx") for k in range(len(networks))]


@pytest.mark.parametrize("int8", [False, True], ids=["fp32", "int8"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_it_says_what_numpy_says(kind, int8, episodes, tmp_path):
    policy, networks, agents, numpy_team = exported(kind, int8=int8)
    steps = written(tmp_path, networks)
    said = parity_check.replay(team(agents, steps, policy.card.random_k), episodes)
    same(said, parity_check.replay(numpy_team, episodes), episodes)


def test_the_step_returns_the_action_and_the_whole_memory(tmp_path):
    _, networks, agents, _ = exported(RICH)
    rng = np.random.default_rng(0)
    for network, agent, step in zip(networks, agents, written(tmp_path, networks), strict=True):
        obs = rng.normal(size=(5, agent.inputs)).astype(np.float32)
        memory = rng.normal(size=(5, agent.memory_width)).astype(np.float32)
        legal = rng.random((5, len(agent.actions))) < 0.5
        for ours, theirs in zip(
            step(obs, legal, memory), network.step(obs, legal, memory), strict=True
        ):
            assert ours.shape == theirs.shape
            assert np.allclose(ours, theirs, atol=1e-5)


def test_the_file_is_standard_and_says_what_it_is(tmp_path):
    networks = exported(RICH)[1]
    written(tmp_path, networks)
    model = onnx.load(tmp_path / "1.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 20)]
    assert model.ir_version == 10
    assert {p.key: p.value for p in model.metadata_props} == {"number": "1"}
    assert [i.name for i in model.graph.input] == ["obs", "hidden", "available_actions"]
    assert [o.name for o in model.graph.output] == ["action", "logits", "hidden_next"]
    assert not {"GRU", "If", "Loop"} & {node.op_type for node in model.graph.node}


def test_the_same_network_gives_the_same_bytes(tmp_path):
    networks = exported(RICH)[1]
    for name in ("a.onnx", "b.onnx"):
        onnx_graph.write(tmp_path / name, networks[0], {"x": "1", "y": json.dumps([1])})
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_int8_is_stored_as_int8(tmp_path):
    networks = exported(RICH, int8=True)[1]
    written(tmp_path, networks)
    kinds = {t.name: t.data_type for t in onnx.load(tmp_path / "0.onnx").graph.initializer}
    weights = {name for name in kinds if name.endswith(".weight")}
    assert {kinds[name] for name in weights} == {onnx.TensorProto.INT8}
    assert len(weights) == 5


def test_swapped_gates_are_found(episodes, tmp_path):
    """The gate catches what an exporter once did: gates in another order."""
    policy, networks, agents, numpy_team = exported(RICH)

    def swapped(chain):
        (affine,) = chain
        reset, update, new = np.split(np.arange(len(affine.bias)), 3)
        order = np.concatenate([update, reset, new])
        return (Affine(affine.weight[order], affine.bias[order]),)

    from dataclasses import replace

    wrong = [replace(n, cell=GRUCell(*map(swapped, n.cell.sides.values()))) for n in networks]
    said = parity_check.replay(team(agents, written(tmp_path, wrong), None), episodes)
    found = parity_check.compare(said, parity_check.replay(policy, episodes), episodes)
    with pytest.raises(parity_check.ParityError, match="onnx export is refused"):
        parity_check.require_parity("onnx", found)
    assert SPEC.n_agents == len(agents)
    same(parity_check.replay(numpy_team, episodes), parity_check.replay(policy, episodes), episodes)


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"not a model")
    with pytest.raises(CheckpointError, match="cannot read"):
        onnx_graph.step(tmp_path / "x.onnx")


def test_missing_libraries_name_their_extra(tmp_path, monkeypatch):
    onnx_graph.write(tmp_path / "x.onnx", exported(RICH)[1][0], {})
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"kd-offline\[onnx\]"):
        onnx_graph.step(tmp_path / "x.onnx")
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"kd-offline\[onnx\]"):
        onnx_graph.write(tmp_path / "x.onnx", exported(RICH)[1][0], {})
