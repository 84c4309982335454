"""Read ONNX files from untrusted sources and refuse models that no policy needs.

A few bytes of such a file can declare a tensor of terabytes, an endless loop or a file elsewhere.
A model may therefore hold only operators of feed-forward and recurrent policies, and its declared
tensors must match the bytes of the file. :mod:`kd_offline.networks.onnx_session` bounds the memory
and work of running it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kd_offline.errors import CheckpointError, MissingExtraError
from kd_offline.files import read_file

MAX_BYTES = 256 << 20
"""Largest size of an ONNX file and of each weight file beside it: 64 million float32."""
MAX_NODES = 4096
_LARGEST_ATTRIBUTE = 1 << 31  # so that a product of two attributes fits 64 bits
ONNX_DOMAINS = ("", "ai.onnx")

_OPERATORS = """
Abs Add And ArgMax ArgMin AveragePool BatchNormalization Cast CastLike Ceil Celu Clip Concat
Constant ConstantOfShape Conv Cos DequantizeLinear Div Dropout DynamicQuantizeLinear Elu Equal
Erf Exp Expand Flatten Floor GRU Gather GatherElements Gelu Gemm GlobalAveragePool GlobalMaxPool
Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization
IsInf IsNaN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax MatMul
MatMulInteger Max MaxPool Mean Min Mish Mod Mul Neg Not OneHot Or PRelu Pow QuantizeLinear
RMSNormalization RNN Reciprocal ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin
ReduceProd ReduceSum ReduceSumSquare Relu Reshape Round Selu Shape Sigmoid Sign Sin Size Slice
Softmax Softplus Softsign Split Sqrt Squeeze Sub Sum Tanh ThresholdedRelu Tile Transpose
Unsqueeze Where Xor
"""
OPERATORS = frozenset(_OPERATORS.split())
"""Operators that a model may hold: no loops, no branches, no large outputs from small inputs."""

# Bytes of a number, by the type in onnx.TensorProto.
TYPE_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
_LISTS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")


def read_model(path: Path) -> Any:
    """Return the model in an ONNX file.

    Raises
    ------
    MissingExtraError
        onnx is not installed.
    CheckpointError, StorageError
        It is no ONNX file, or cannot be read.
    """
    try:
        import onnx
    except ImportError:
        raise MissingExtraError(library="onnx", extra="onnx", purpose="an ONNX file") from None
    data = read_file(path, MAX_BYTES)
    try:
        return onnx.load_model_from_string(data)
    except Exception as error:  # of protocol buffers, which are no dependency of ours
        msg = f"cannot read {str(path)!r} as ONNX: it is no such file; export it again"
        raise CheckpointError(msg) from error


def sizes(port: Any) -> tuple[int | None, ...]:
    """Return the declared dimensions of an input or output; None for a dynamic one."""
    dims = port.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims)


def check_model(path: Path, model: Any) -> None:
    """Raise unless a model is one graph of allowed operators with its weights inside the file.

    Raises
    ------
    CheckpointError
        The message names the first violation.
    """
    if len(model.graph.node) > MAX_NODES:
        raise refused(path, f"has {len(model.graph.node):,} operators, more than {MAX_NODES:,}")
    messages: dict[str, list[Any]] = {}
    for message in _all_messages(model):
        messages.setdefault(message.DESCRIPTOR.name, []).append(message)
    nodes, tensors = messages.get("NodeProto", []), messages.get("TensorProto", [])
    violations = [f"the file {name!r}" for name in sorted(external_file_names(model))]
    violations += [f"the function {function.name!r}" for function in model.functions]
    violations += ["a loop or a branch"] if len(messages.get("GraphProto", [])) > 1 else []
    opsets = [entry.version for entry in model.opset_import if entry.domain in ONNX_DOMAINS]
    violations += [] if len(opsets) == 1 else ["several versions of operators, or none"]
    violations += [
        f"the domain {node.domain!r}" for node in nodes if node.domain not in ONNX_DOMAINS
    ]
    violations += [operator_name(node) for node in nodes if node.op_type not in OPERATORS]
    violations += ["a sparse tensor"] if "SparseTensorProto" in messages else []
    violations += [
        f"such a setting of {operator_name(node)}" for node in nodes if _has_huge_attribute(node)
    ]
    violations += [
        f"numbers of the type {t.data_type}" for t in tensors if t.data_type not in TYPE_BYTES
    ]
    if violations:
        raise refused(path, f"needs {violations[0][:200]}, which no policy in one file does")
    for tensor in tensors:
        if _number_of_values(tensor) != math.prod(tensor.dims):
            mismatch = f"says that {tensor.name[:80]!r} has the shape {list(tensor.dims)[:9]}"
            raise refused(
                path, f"{mismatch}, and holds {_number_of_values(tensor):,} numbers of it"
            )


def external_file_names(model: Any) -> set[str]:
    """Return the paths that a model states for weights outside its own file."""
    names = set()
    for tensor in _tensors(model):
        locations = [entry.value for entry in tensor.external_data if entry.key == "location"]
        names |= {*locations} if locations or not tensor.data_location else {""}
    return names


def external_files(path: Path, model: Any) -> list[Path]:
    """Return the weight files of a model, which must be plain files in its folder.

    Raises
    ------
    CheckpointError
        One is elsewhere or a link.
    """
    files = []
    for name in sorted(external_file_names(model)):
        file = path.parent / name
        if Path(name).name != name or "\\" in name or not file.is_file() or file.is_symlink():
            msg = (
                f"{str(path)!r} says that its weights are in {name[:200]!r}, which is no file "
                "beside it: save it again, with its weights inside"
            )
            raise CheckpointError(msg)
        files.append(file)
    return files


def embed_weights(path: Path, model: Any) -> list[Path]:
    """Move the weights of external files into the model, and return these files.

    Raises
    ------
    CheckpointError, StorageError
        A file is elsewhere, or the model claims more weights than the files hold.
    """
    files = external_files(path, model)
    content = {file.name: read_file(file, MAX_BYTES) for file in files}
    remaining = sum(map(len, content.values()))
    for tensor in _tensors(model):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if not entries:
            continue
        data = content[entries["location"]]
        start, length = (_count(entries.get(key, "0")) for key in ("offset", "length"))
        length = length or len(data) - start
        remaining -= length
        if start + length > len(data) or remaining < 0:
            raise refused(path, f"claims more weights than {entries['location']!r} holds")
        tensor.raw_data = data[start : start + length]
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    return files


def _number_of_values(tensor: Any) -> int:
    """Return the number of values that a tensor's bytes hold."""
    if tensor.raw_data:
        return len(tensor.raw_data) // TYPE_BYTES[tensor.data_type]
    return max(len(getattr(tensor, name)) for name in _LISTS)


def _has_huge_attribute(node: Any) -> bool:
    """Return whether an attribute is above 2 ** 31; ends of slices may be any number."""
    values = (value for attribute in node.attribute for value in (attribute.i, *attribute.ints))
    return node.op_type != "Slice" and any(abs(value) > _LARGEST_ATTRIBUTE for value in values)


def operator_name(node: Any) -> str:
    """Return the name of an operator for messages."""
    return f"operator {node.op_type[:40]} {node.name[:80]!r}"


def _count(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else MAX_BYTES + 1


def refused(path: Path, what: str) -> CheckpointError:
    """Return the error for a model that is not run."""
    return CheckpointError(
        f"{str(path)!r} {what}: export it again, or wrap it in a function and give it as "
        "python:package.module:factory"
    )


def _tensors(model: Any) -> Iterator[Any]:
    return (m for m in _all_messages(model) if m.DESCRIPTOR.name == "TensorProto")


def _all_messages(message: Any) -> Iterator[Any]:
    """Yield a protocol buffer message and all messages inside it."""
    stack = [message]
    while stack:
        current = stack.pop()
        yield current
        for field, value in current.ListFields():
            if field.type == field.TYPE_MESSAGE:
                stack += [value] if hasattr(value, "ListFields") else list(value)
