"""Run an untrusted ONNX model within bounds on memory and work that follow from its size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kd_offline.errors import CheckpointError, MissingExtraError
from kd_offline.networks.onnx_files import (
    ONNX_DOMAINS,
    TYPE_BYTES,
    check_model,
    operator_name,
    refused,
)
from kd_offline.types import Array, Float32Array

# A step of r rows of a model of n bytes may produce values of this many bytes in total,
_VALUE_BYTES, _VALUE_BYTES_PER_ROW, _VALUE_MULTIPLE = 64 << 20, 256 << 10, 16
# and multiply, read and write this many numbers.
_WORK, _WORK_PER_ROW, _WORK_MULTIPLE = 64 << 20, 4 << 20, 4
# Values of at most this many numbers are computed, because they may determine a shape.
_SMALL = 256


class BoundedSession:
    """An ONNX Runtime session on one thread that refuses steps of excessive cost.

    The cost of a step is computed before it runs: the shapes of its inputs are propagated through
    the graph, and shapes that the graph computes are computed. All values of a step of r rows of a
    model of n bytes may take 64 MiB, 256 KiB for each row and 16 n; multiplications and memory
    accesses are bounded in the same way.

    Parameters
    ----------
    path : path
        Of the file, for messages.
    model
        As :func:`read_model` returns it.
    shapes : mapping of name to shape
        Shapes of the inputs of the smallest step.

    Raises
    ------
    CheckpointError
        It costs too much, needs what no policy needs, or is no valid model.
    MissingExtraError
        onnxruntime is not installed.
    """

    def __init__(self, path: Path, model: Any, shapes: Mapping[str, Sequence[int]]) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtraError(
                library="onnxruntime", extra="onnx", purpose="running an ONNX file"
            ) from None
        check_model(path, model)
        data = model.SerializeToString(deterministic=True)
        self._path, self._bytes = path, len(data)
        self._shapes = _ShapeInference(model)
        self._checked: set[tuple[Any, ...]] = set()
        self._check_cost(shapes, 1)
        options = onnxruntime.SessionOptions()
        # Bits do not depend on the machine's cores, and the bytes are what was checked: the
        # runtime would take them for a format of its own where they look like it.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.load_model_format", "ONNX")
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its errors share no public base class
            reason = str(error).splitlines()[0]
            msg = f"cannot read {str(path)!r} as ONNX: {reason}; export it again"
            raise CheckpointError(msg) from error

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Array], rows: int) -> list[Array]:
        """Return ``outputs`` for the inputs of one step, which decides for ``rows`` agents.

        Raises
        ------
        CheckpointError
            A step of this many rows would cost too much, or fails.
        """
        shapes = tuple(array.shape for array in inputs.values())
        if (rows, *shapes) not in self._checked:
            self._check_cost(dict(zip(inputs, shapes, strict=True)), rows)
            self._checked.add((rows, *shapes))
        try:
            results: list[Array] = self._session.run(list(outputs), dict(inputs))
        except Exception as error:  # its errors share no public base class
            reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
            raise refused(self._path, f"cannot be run ({reason})") from error
        return results

    def zeros(self, name: str, shape: Sequence[int], rows: int) -> Float32Array:
        """Return zeros for an input of a step of ``rows`` agents.

        Raises
        ------
        CheckpointError
            The input takes more than 256 KiB for each row.
        """
        if 4 * math.prod(shape) > rows * _VALUE_BYTES_PER_ROW:
            raise refused(self._path, f"asks for an input {name[:80]!r} of the shape {shape}")
        return np.zeros(shape, np.float32)

    def _check_cost(self, shapes: Mapping[str, Sequence[int]], rows: int) -> None:
        bytes_left = _VALUE_BYTES + rows * _VALUE_BYTES_PER_ROW + _VALUE_MULTIPLE * self._bytes
        work_left = _WORK + rows * (_WORK_PER_ROW + _WORK_MULTIPLE * self._bytes)
        try:
            for where, size, steps in self._shapes.costs(shapes):
                bytes_left, work_left = bytes_left - size, work_left - steps
                if bytes_left < 0 or work_left < 0:
                    reason = f"would take far more than its {self._bytes:,} bytes account for"
                    raise refused(self._path, f"{reason}, at {where}")
        except _UnknownSizeError as error:
            what = f"has a size that cannot be told before it runs, at {error}"
            raise refused(self._path, what) from None


class _UnknownSizeError(Exception):
    """A size is not known before the model runs; the message names the operator."""


class _ShapeInference:
    """Operators of a graph, and what is known of its values before it runs."""

    def __init__(self, model: Any) -> None:
        self._nodes = list(model.graph.node)
        self._opsets = [entry for entry in model.opset_import if entry.domain in ONNX_DOMAINS]
        self._inputs = {port.name: port.type.tensor_type.elem_type for port in model.graph.input}
        self._types: dict[str, Any] = {}
        self._small: dict[str, Any] = {}
        for tensor in model.graph.initializer:
            self._types[tensor.name] = _type(tensor.data_type, tensor.dims)
            if math.prod(tensor.dims) <= _SMALL:
                self._small[tensor.name] = tensor

    def costs(self, shapes: Mapping[str, Sequence[int]]) -> Iterator[tuple[str, int, int]]:
        """Yield each operator with the bytes of its outputs and the number of values it works on.

        The cost of an operator is yielded before anything of it is computed.
        """
        types, small = dict(self._types), dict(self._small)
        for name, shape in shapes.items():
            types[name] = _type(self._inputs[name], shape)
            small.pop(name, None)  # a weight of this name is only what it would be otherwise
            yield f"input {name[:80]!r}", _count_and_bytes(types[name], name)[1], 0
        for node in self._nodes:
            outputs = self._output_types(node, types, small)
            sizes = [
                _count_and_bytes(value_type, operator_name(node)) for value_type in outputs.values()
            ]
            read = sum(
                _count_and_bytes(types[name], operator_name(node))[0] for name in node.input if name
            )
            written = sum(count for count, _ in sizes)
            products, scratch_values = _arithmetic(node, types, read, written)
            size = sum(size for _, size in sizes) + 4 * scratch_values
            yield operator_name(node), size, read + written + products
            types |= outputs
            if written <= _SMALL:
                small |= self._small_values(node, types, small)

    def _output_types(
        self, node: Any, types: dict[str, Any], small: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the types of an operator's outputs, shapes included."""
        from onnx import defs, shape_inference

        if absent := [name for name in node.input if name and name not in types]:
            msg = f"{operator_name(node)}, which reads {absent[0][:80]!r} before anything makes it"
            raise _UnknownSizeError(msg)
        try:
            schema = defs.get_schema(node.op_type, self._opsets[0].version, "")
            inferred = shape_inference.infer_node_outputs(
                schema,
                node,
                {name: types[name] for name in node.input if name},
                small,
                opset_imports=self._opsets,
            )
        except Exception as error:  # of a library in C++, about what the model says
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            msg = f"{operator_name(node)} ({reason})"
            raise _UnknownSizeError(msg) from error
        if absent := [name for name in node.output if name and name not in inferred]:
            msg = f"{operator_name(node)}, whose output {absent[0][:80]!r} has no known type"
            raise _UnknownSizeError(msg)
        return {name: value_type for name, value_type in inferred.items() if name}

    def _small_values(
        self, node: Any, types: dict[str, Any], small: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the operator's outputs if all its inputs are known; else an empty dict."""
        from onnx import numpy_helper
        from onnx.reference import ReferenceEvaluator

        read = [name for name in node.input if name]
        if node.op_type in ("Shape", "Size"):
            dims = [dim.dim_value for dim in types[read[0]].tensor_type.shape.dim]
            inputs = {read[0]: np.broadcast_to(np.int8(0), dims)}
        elif all(name in small for name in read):
            inputs = {name: numpy_helper.to_array(small[name]) for name in read}
        else:
            return {}
        opsets = {"": self._opsets[0].version}
        try:
            with np.errstate(all="ignore"):
                values = ReferenceEvaluator(node, opsets=opsets).run(None, inputs)
            return {
                name: numpy_helper.from_array(np.asarray(value), name)
                for name, value in zip(node.output, values, strict=False)
            }
        except Exception:  # the runtime says what is wrong, if anybody needs the number
            return {}


def _arithmetic(node: Any, types: dict[str, Any], read: int, written: int) -> tuple[int, int]:
    """Return the number of multiplications, and of scratch values beside the outputs."""
    shapes = [
        [dim.dim_value for dim in types[name].tensor_type.shape.dim] if name else []
        for name in node.input
    ]
    match node.op_type:
        case "Gemm" | "MatMul" | "MatMulInteger":
            transposed = any(a.name == "transA" and a.i for a in node.attribute)
            return written * (shapes[0] or [1])[0 if transposed else -1], 0
        case "Conv":
            per_value = math.prod(shapes[1][1:])  # multiplications of a number
            return written * per_value, written * per_value // max(1, shapes[1][0])
        case "GRU" | "LSTM" | "RNN":
            steps = math.prod(shapes[0][:-1])
            return steps * sum(map(math.prod, shapes[1:3])), 4 * steps * math.prod(shapes[1][:2])
        case "MaxPool" | "AveragePool":
            kernels = [a.ints for a in node.attribute if a.name == "kernel_shape"]
            return written * max(map(math.prod, kernels), default=1), 0
    return read, 0


def _type(kind: int, shape: Sequence[int]) -> Any:
    from onnx import helper

    return helper.make_tensor_type_proto(kind, list(shape))


def _count_and_bytes(value_type: Any, where: str) -> tuple[int, int]:
    """Return the number of values of a type, and their bytes."""
    tensor = value_type.tensor_type
    dims = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim]
    if (
        not tensor.HasField("shape")
        or min(dims, default=0) < 0
        or tensor.elem_type not in TYPE_BYTES
    ):
        raise _UnknownSizeError(where)
    return math.prod(dims), math.prod(dims) * TYPE_BYTES[tensor.elem_type]
