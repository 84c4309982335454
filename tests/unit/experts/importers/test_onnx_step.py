from typing import Any

import numpy as np
import pytest

from kd_offline import environments
from kd_offline.errors import CheckpointError, MismatchError, UsageError, UserCodeError
from kd_offline.experts.load import load as load_expert
from kd_offline.types import View

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto as Types  # noqa: E402
from onnx import helper  # noqa: E402


def load(*given: Any, **settings: Any) -> Any:
    return load_expert(*given, **settings)


SPREAD = environments.load("mpe/simple_spread_v3").spec
WEIGHTS = np.random.default_rng(0).standard_normal((21, 5)).astype(np.float32)


def step(path, *, rows="rows", width=21, hidden=True, value=False, head="logits", team=False):
    """Write ``logits = obs W + hidden``, ``hidden' = hidden + 1``, ``value = sum(obs)``."""
    lead = [rows, 3] if team else [rows]

    def port(name, *tail, kind=Types.FLOAT):
        return helper.make_tensor_value_info(name, kind, [*lead, *tail])

    weights = helper.make_tensor("w", Types.FLOAT, [width, 5], WEIGHTS[:width].flatten())
    one = helper.make_tensor("one", Types.FLOAT, [], [1.0])
    nodes = [helper.make_node("MatMul", ["obs", "w"], ["product"])]
    nodes.append(helper.make_node("Add", ["product", "hidden" if hidden else "one"], [head]))
    inputs, outputs = [port("obs", width)], [port(head, 5)]
    if hidden:
        nodes.append(helper.make_node("Add", ["hidden", "one"], ["hidden_next"]))
        inputs.append(port("hidden", 5))
        outputs.append(port("hidden_next", 5))
        inputs.append(port("available_actions", 5, kind=Types.BOOL))
    if value:
        nodes.append(helper.make_node("ReduceSum", ["obs", "last"], ["value"], keepdims=0))
        outputs.append(helper.make_tensor_value_info("value", Types.FLOAT, lead))
    last = helper.make_tensor("last", Types.INT64, [1], [len(lead)])
    graph = helper.make_graph(nodes, "step", inputs, outputs, [weights, one, last])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return f"onnx:{path}"


def ask(expert, steps=3):
    obs = np.random.default_rng(1).standard_normal((4, 3, 18)).astype(np.float32)
    seen = View(obs, obs.reshape(4, -1), np.ones((4, 3, 5), bool), np.ones((4, 3), bool))
    memory = expert.start(np.zeros(4, np.uint64))
    for _ in range(steps):
        output, memory = expert.act(seen, memory)
    ids = np.broadcast_to(np.eye(3, dtype=np.float32), (4, 3, 3))
    return output, np.concatenate([obs, ids], -1)


@pytest.mark.parametrize(
    "shape",
    [{}, {"rows": 1}, {"rows": 6}, {"team": True, "rows": "episodes"}, {"team": True, "rows": 2}],
)
def test_a_step_function_acts_whatever_its_rows(tmp_path, shape):
    expert = load(step(tmp_path / "a.onnx", value=True, **shape), SPREAD)
    output, fed = ask(expert)
    np.testing.assert_allclose(output.logits, fed @ WEIGHTS + 2, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(output.value, fed.sum(-1), rtol=1e-5, atol=1e-5)
    assert expert.recipe.inputs == ("obs", "agent_id")
    assert expert.shapes[0].counted[1] == 21 * 5


def test_one_without_memory_and_one_with_values(tmp_path):
    expert = load(step(tmp_path / "a.onnx", hidden=False, width=18), SPREAD)
    output, fed = ask(expert)
    np.testing.assert_allclose(
        output.logits, fed[..., :18] @ WEIGHTS[:18] + 1, rtol=1e-5, atol=1e-5
    )
    assert output.value is None
    assert expert.missing
    q = ask(load(step(tmp_path / "q.onnx", head="q_values"), SPREAD))[0]
    assert q.q_values is not None
    assert not np.array_equal(q.q_values, q.logits)


def test_what_is_no_step_function_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="export it with these names"):
        load(step(tmp_path / "a.onnx", head="output"), SPREAD)
    with pytest.raises(MismatchError, match="takes 17 inputs"):
        load(step(tmp_path / "b.onnx", width=17), SPREAD)
    (tmp_path / "c.onnx").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="as ONNX"):
        load(f"onnx:{tmp_path / 'c.onnx'}", SPREAD)
    with pytest.raises(CheckpointError, match="holds no ONNX file"):
        load(f"onnx:{tmp_path / 'd.onnx'}", SPREAD)
    with pytest.raises(UserCodeError, match=r"failed in act .*which does not divide"):
        load(step(tmp_path / "e.onnx", rows=4), SPREAD)
    (tmp_path / "expert.toml").write_text("frames = 4\n")
    with pytest.raises(UsageError, match="frames cannot be set for onnx"):
        load(f"onnx:{tmp_path / 'a.onnx'}".replace("a.onnx", "b.onnx"), SPREAD)
