"""The ONNX export: one step function for each agent, built node by node.

Inputs ``obs`` [B, I], ``hidden`` [B, M], ``available_actions`` bool [B, A]; outputs ``action``
int64 [B], ``logits`` [B, A], ``hidden_next`` [B, M]. Only common operators of opset 20 are used,
so the GRU is written out: what its gates do is then in the file, and not up to a runtime.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kd_offline.errors import MissingExtraError
from kd_offline.exports.network import LARGEST, AgentNetwork, Step
from kd_offline.files import write_file
from kd_offline.networks.deployed import EPSILON, Affine
from kd_offline.networks.onnx_files import read_model, sizes
from kd_offline.networks.onnx_session import BoundedSession
from kd_offline.types import Array, BoolArray, Float32Array, IntArray

OPSET, IR_VERSION = 20, 10
_FLOAT, _BOOL = 1, 9  # of onnx.TensorProto


class _Graph:
    """Nodes and constants in the order in which they were added."""

    def __init__(self, helper: Any, numpy_helper: Any) -> None:
        self.helper, self.numpy_helper = helper, numpy_helper
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def add(self, operator: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Add a node with one output, and return its name."""
        self.nodes.append(self.helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def constant(self, name: str, values: Array) -> str:
        """Keep an array under a name, once."""
        if name not in self.constants:
            stored = np.ascontiguousarray(values)
            self.constants[name] = self.numpy_helper.from_array(stored, name)
        return name

    def affine(self, name: str, affine: Affine, x: str) -> str:
        """Map ``x`` [B, columns] to [B, rows]; int8 weights are restored by row."""
        weight = self.constant(f"{name}.weight", affine.weight)
        if affine.scale is not None:
            scale = self.constant(f"{name}.scale", affine.scale)
            weight = self.add("DequantizeLinear", weight, scale, name=f"{name}.restored", axis=0)
        bias = self.constant(f"{name}.bias", affine.bias)
        return self.add("Gemm", x, weight, bias, name=name, transB=1)

    def part(self, x: str, start: int, stop: int, name: str) -> str:
        """Return columns ``start`` to ``stop`` of ``x``."""
        ends = [self.constant(f"at_{k}", np.array([k], np.int64)) for k in (start, stop, 1)]
        return self.add("Slice", x, *ends[:2], ends[2], name=name)

    def joined(self, parts: list[str], name: str) -> str:
        """Return the columns of all parts."""
        return parts[0] if len(parts) == 1 else self.add("Concat", *parts, name=name, axis=1)


def write(path: Path, network: AgentNetwork, facts: dict[str, str]) -> None:
    """Write the step function of one agent; ``facts`` become its ``metadata_props``.

    Raises
    ------
    MissingExtraError
        onnx is not installed.
    """
    try:
        import onnx
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:
        raise MissingExtraError(library="onnx", extra="onnx", purpose="an ONNX export") from None
    built = _Graph(helper, numpy_helper)
    _step(built, network)

    def port(name: str, kind: int, *width: int) -> Any:
        return helper.make_tensor_value_info(name, kind, ["batch", *width])

    a, m = network.actions, network.memory_width
    graph = helper.make_graph(
        built.nodes,
        "step",
        [
            port("obs", TensorProto.FLOAT, network.inputs),
            port("hidden", TensorProto.FLOAT, m),
            port("available_actions", TensorProto.BOOL, a),
        ],
        [
            port("action", TensorProto.INT64),
            port("logits", TensorProto.FLOAT, a),
            port("hidden_next", TensorProto.FLOAT, m),
        ],
        list(built.constants.values()),
    )
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(
        graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="kd-offline"
    )
    helper.set_model_props(model, facts)
    onnx.checker.check_model(model, full_check=True)
    write_file(path, model.SerializeToString(deterministic=True))


def _step(graph: _Graph, network: AgentNetwork) -> None:
    """Add the whole step; ``network.step`` says the same in NumPy."""
    kept = {
        name: graph.part("hidden", start, stop, f"kept.{name}")
        for name, (start, stop) in network.memory.items()
    }
    x, now = _inputs(graph, network, kept)
    usable = _usable(graph, "visible" if network.drawn else "scaled")
    for k, layer in enumerate(network.trunk):
        ones = graph.constant(f"ones_{len(layer.bias)}", np.ones(len(layer.bias), np.float32))
        y = graph.add("Relu", graph.affine(f"trunk.{k}", layer, x), name=f"trunk.{k}.relu")
        name = f"trunk.{k}.normalised"
        x = graph.add("LayerNormalization", y, ones, name=name, axis=-1, epsilon=EPSILON)
    if network.cell is not None:
        x = now[network.cell.name] = network.cell.onnx(graph, x, kept[network.cell.name])
    _choose(graph, network, graph.affine("answers", network.head, x), now, usable)


def _inputs(
    graph: _Graph, network: AgentNetwork, kept: dict[str, str]
) -> tuple[str, dict[str, str]]:
    """Add the scaling of the observation; return what the first matrix takes, and the memory."""
    count = len(network.seen)
    features = graph.part("obs", 0, count, "features") if network.drawn else "obs"
    centred = graph.add("Sub", features, graph.constant("centre", network.centre), name="centred")
    x = graph.add("Mul", centred, graph.constant("scale", network.scale), name="scaled")
    bits = graph.part("obs", count, 2 * count, "bits") if network.drawn else ""
    x = graph.add("Mul", x, bits, name="visible") if network.drawn else x
    parts, now = ([x, bits] if network.mask_input else [x]), {}
    if network.motion is not None:
        change = graph.add("Sub", x, kept["previous"], name="change")
        factor = graph.constant("motion", network.motion)
        scaled = graph.add("Mul", change, factor, name="change.scaled")
        parts.append(graph.add("Mul", scaled, kept["started"], name="motion.since"))
        zero = graph.add("Mul", kept["started"], graph.constant("zero", _number(0)), name="nought")
        one = graph.add("Add", zero, graph.constant("one", _number(1)), name="begun")
        now = {"previous": x, "started": one}
    if network.last_action:
        parts.append(kept["last_action"])
    return graph.joined(parts, "inputs"), now


def _usable(graph: _Graph, features: str) -> str:
    """Add what tells rows that are taken from rows that are refused: bool [B, 1]."""
    everything = graph.add("Concat", features, "hidden", name="given", axis=1)
    size = graph.add("Abs", everything, name="given.size")
    within = graph.add("LessOrEqual", size, graph.constant("largest", _number(LARGEST)), name="in")
    number = graph.add("Cast", within, name="in.number", to=_FLOAT)
    columns = graph.constant("at_1", np.array([1], np.int64))
    least = graph.add("ReduceMin", number, columns, name="in.least", keepdims=1)
    return graph.add("Cast", least, name="usable", to=_BOOL)


def _choose(
    graph: _Graph, network: AgentNetwork, answers: str, now: dict[str, str], usable: str
) -> None:
    """Add what the step returns; of refused rows: NaN, the first legal action, the old memory."""
    nan, never = graph.constant("nan", _number(np.nan)), graph.constant("never", _number(-np.inf))
    graph.add("Where", usable, answers, nan, name="logits")
    scores = graph.add("Where", usable, answers, graph.constant("zero", _number(0)), name="scores")
    legal = graph.add("Where", "available_actions", scores, never, name="legal")
    action = graph.add("ArgMax", legal, name="action", axis=1, keepdims=0)
    if network.last_action:
        depth = graph.constant("actions", np.array(network.actions, np.int64))
        values = graph.constant("off_on", np.array([0, 1], np.float32))
        now["last_action"] = graph.add("OneHot", action, depth, values, name="chosen", axis=1)
    parts = []
    if lasting := [name for name in network.memory if name != "last_action"]:
        after = graph.joined([now[name] for name in lasting], "memory")
        before = graph.part("hidden", 0, network.memory[lasting[-1]][1], "kept")
        parts.append(graph.add("Where", usable, after, before, name="memory.next"))
    parts += [now["last_action"]] if network.last_action else []
    graph.add("Identity", graph.joined(parts or ["hidden"], "all"), name="hidden_next")


def _number(value: float) -> Float32Array:
    return np.array([value], np.float32)


def step(path: Path) -> Step:
    """Open a step function with ONNX Runtime, on one thread.

    Raises
    ------
    MissingExtraError
        onnxruntime is not installed.
    CheckpointError
        The file cannot be read, needs what no policy needs, or would cost more than its size
        accounts for.
    """
    model = read_model(path)
    declared = {port.name: sizes(port) for port in model.graph.input}
    least = {name: [size or 1 for size in shape] for name, shape in declared.items()}
    session = BoundedSession(path, model, least)

    def run(
        obs: Float32Array, legal: BoolArray, memory: Float32Array
    ) -> tuple[IntArray, Float32Array, Float32Array]:
        fed = {"obs": obs, "hidden": memory, "available_actions": legal}
        action, logits, after = session.run(["action", "logits", "hidden_next"], fed, len(obs))
        return action, logits, after

    return run
