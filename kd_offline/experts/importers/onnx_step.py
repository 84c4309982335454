"""An ONNX step function: ``obs, hidden, available_actions -> logits, hidden [, value]``.

Inputs are known by name: ``obs`` (what the recipe's ``inputs`` concatenate), and where they are
declared ``hidden``, ``available_actions`` and ``state``. Outputs are ``logits`` or ``q_values``,
one whose name contains ``hidden``, and ``value`` and ``embedding``.

``obs`` of two axes [rows, I] is one agent a row; of three axes [episodes, N, I] it is the team. A
first axis of a fixed size is served in pieces of that size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from kd_offline.errors import CheckpointError, MismatchError
from kd_offline.experts.importers.expert import ForeignExpert, entry, layer_widths, probe
from kd_offline.experts.importers.files import digest, wrong_place
from kd_offline.experts.importers.found import Given, only, settle
from kd_offline.experts.importers.inputs import assemble, fit, misfit, widths
from kd_offline.networks.arithmetic import CountedShape
from kd_offline.networks.onnx_files import embed_weights, read_model, sizes
from kd_offline.networks.onnx_session import BoundedSession
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.types import Array, Float32Array, PolicyOutput, SeedArray, View

_INPUTS = ("obs", "hidden", "available_actions", "state")
_TYPES = {1: np.float32, 9: np.bool_, 7: np.int64}  # by their number in onnx.TensorProto
_ORDERS = (
    ("obs",),
    ("obs", "agent_id"),
    ("obs", "last_action", "agent_id"),
    ("obs", "last_action"),
)


class _Port(NamedTuple):
    """A declared input: its name, sizes (None: free) and type."""

    name: str
    sizes: tuple[int | None, ...]
    kind: Any


@dataclass(frozen=True, slots=True)
class OnnxPolicy:
    """A step function in ONNX Runtime as a team policy."""

    session: BoundedSession
    spec: EnvironmentSpec
    ports: dict[str, _Port]
    outputs: dict[str, str]  # what it is -> its name in the file
    parts: tuple[str, ...]

    def start(self, seeds: SeedArray) -> Float32Array:
        """Return zeros, with the rows of ``hidden`` on their axis."""
        if "hidden" not in self.ports:
            return np.zeros((0,), np.float32)
        shape = [size or 1 for size in self.ports["hidden"].sizes]
        shape[self._axis] = self._rows(len(seeds))
        return self.session.zeros("hidden", shape, len(seeds) * self.spec.n_agents)

    def act(self, view: View, hidden: Float32Array) -> tuple[PolicyOutput, Float32Array]:
        """Run one step for every episode and agent."""
        b, n = view.alive.shape
        fed = self._fed(view, hidden)
        rows = self._rows(b)
        piece = self.ports["obs"].sizes[0] or rows
        if rows % piece:
            msg = f"its obs has {piece} rows, which does not divide the {rows} at hand"
            raise MismatchError(msg)
        pieces = [self._run(fed, k, k + piece) for k in range(0, rows, piece)]
        out = {
            name: np.concatenate([d[name] for d in pieces], self._axis if name == "hidden" else 0)
            for name in self.outputs
        }

        def shaped(name: str, *tail: int) -> Float32Array | None:
            values = out.get(name)
            return None if values is None else values.reshape(b, n, *tail).astype(np.float32)

        logits, q = shaped("logits", -1), shaped("q_values", -1)
        chosen = q if logits is None else logits
        assert chosen is not None  # noqa: S101 - checked when it was loaded
        output = PolicyOutput(chosen, shaped("embedding", -1), shaped("value"), q)
        return output, out.get("hidden", hidden)

    @property
    def _team(self) -> bool:
        return len(self.ports["obs"].sizes) == 3

    @property
    def _axis(self) -> int:
        """Axis of ``hidden`` that holds the rows."""
        return 0 if self._team or len(self.ports["hidden"].sizes) == 2 else 1

    def _rows(self, episodes: int) -> int:
        return episodes if self._team else episodes * self.spec.n_agents

    def _fed(self, view: View, hidden: Float32Array) -> dict[str, Array]:
        n = self.spec.n_agents
        obs = assemble(self.parts, view, range(n), torch.from_numpy(view.obs), self.spec).numpy()
        legal = view.available_actions.astype(self._kind("available_actions"))
        state = view.state if self._team else np.repeat(view.state, n, axis=0)
        if not self._team:
            obs, legal = obs.reshape(-1, obs.shape[-1]), legal.reshape(-1, legal.shape[-1])
        available = {"obs": obs, "available_actions": legal, "state": state, "hidden": hidden}
        return {name: available[name] for name in self.ports}

    def _kind(self, name: str) -> Any:
        return self.ports[name].kind if name in self.ports else np.bool_

    def _run(self, fed: dict[str, Array], first: int, last: int) -> dict[str, Array]:
        piece = {}
        for name, values in fed.items():
            axis = self._axis if name == "hidden" else 0
            piece[name] = np.ascontiguousarray(values.take(range(first, last), axis))
        rows = (last - first) * (self.spec.n_agents if self._team else 1)
        got = self.session.run(list(self.outputs.values()), piece, rows)
        return dict(zip(self.outputs, got, strict=True))


def load(file_path: str, reference: str, spec: EnvironmentSpec, given: Given) -> ForeignExpert:
    """Open a step function and check that it fits the environment.

    Raises
    ------
    MissingExtraError
        onnxruntime is not installed.
    CheckpointError
        It is no ONNX file, or not a step function.
    MismatchError
        It does not fit the environment.
    """
    path = Path(file_path)
    if not path.is_file() or path.suffix != ".onnx":
        raise wrong_place(reference, path, "onnx", "ONNX file")
    model = read_model(path)
    external = embed_weights(path, model)
    initializers = {tensor.name for tensor in model.graph.initializer}
    ports = {
        p.name: _Port(p.name, sizes(p), _TYPES.get(p.type.tensor_type.elem_type))
        for p in model.graph.input
        if p.name not in initializers  # files of before version 4 list their weights here as well
    }
    outputs = _outputs([o.name for o in model.graph.output])
    _check_names(path, ports, outputs)
    detected = {
        "library": "onnx",
        "output": "logits" if "logits" in outputs else "q_values",
        "critic_inputs": ("state" if "state" in ports else "obs",) if "value" in outputs else None,
    }
    recipe = settle(detected, only(given, ("inputs",), "onnx"))
    total = ports["obs"].sizes[-1] or spec.obs_width
    parts = fit(total, spec, [recipe.inputs] if "inputs" in given else _ORDERS)
    if parts is None:
        raise misfit(reference, total, spec, widths(spec, spec.obs_width))
    recipe = recipe.model_copy(update={"inputs": parts.names})
    session = BoundedSession(path, model, _least(ports, spec, total))
    policy = OnnxPolicy(session, spec, ports, outputs, parts.names)
    output = probe(policy, spec, reference)
    missing = [] if "value" in outputs else ["an output named value, so no values are recorded"]
    parameters = _parameters(model)
    shape = CountedShape(total, spec.action_count, (sum(parameters), parameters[0], 0))
    return ForeignExpert(
        policy=policy,
        recipe=recipe,
        record=entry(
            recipe,
            digest([path, *external], recipe.model_dump_json()),
            sum(parameters),
            "output embedding of the file" if "embedding" in outputs else "",
            {"library": "onnx", "inputs": list(ports), "outputs": list(outputs.values())},
            missing,
        ),
        reference=reference,
        shapes=(shape,) * spec.n_agents,
        layer_widths=layer_widths(output),
    )


def _least(ports: dict[str, _Port], spec: EnvironmentSpec, inputs: int) -> dict[str, list[int]]:
    """Return the shapes of the inputs for one row, or for the smallest batch of the file."""
    widths = {"obs": inputs, "available_actions": spec.action_count, "state": spec.state_width}
    shapes = {name: [size or 1 for size in port.sizes] for name, port in ports.items()}
    for name, width in widths.items():
        if shapes.get(name):
            shapes[name][-1] = ports[name].sizes[-1] or width
    if len(shapes["obs"]) == len("BNI"):
        shapes["obs"][1] = ports["obs"].sizes[1] or spec.n_agents
    return shapes


def _outputs(names: list[str]) -> dict[str, str]:
    named = {n: n for n in names if n in ("logits", "q_values", "value", "embedding")}
    hidden = [n for n in names if "hidden" in n]
    return named | ({"hidden": hidden[0]} if hidden else {})


def _check_names(path: Path, ports: dict[str, _Port], outputs: dict[str, str]) -> None:
    unknown = sorted(set(ports) - set(_INPUTS))
    acting = {"logits", "q_values"} & outputs.keys()
    consistent = ("hidden" in ports) == ("hidden" in outputs)
    if unknown or "obs" not in ports or len(acting) != 1 or not consistent:
        msg = (
            f"{str(path)!r} is no step function: it has the inputs {', '.join(ports)} and the "
            f"outputs {', '.join(outputs) or 'none that are known'}, and needs obs [, hidden, "
            "available_actions, state] -> logits or q_values [, hidden_next, value, embedding]; "
            "export it with these names"
        )
        raise CheckpointError(msg)


def _parameters(model: Any) -> tuple[int, int]:
    """Return the number of matrix weights, and of other weights.

    In a step function every matrix is used once, so the former are its multiply-accumulates.
    """
    sizes = [tuple(t.dims) for t in model.graph.initializer]
    matrices = sum(int(np.prod(s)) for s in sizes if len(s) > 1)
    return matrices, sum(int(np.prod(s)) for s in sizes) - matrices
