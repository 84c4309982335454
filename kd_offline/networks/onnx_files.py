"""ONNX files that may be a stranger's: what they hold, and whether a policy needs it.

A few bytes of such a file can claim a value of terabytes, a loop without an end or a file
elsewhere. A model may hold operators of feed-forward and recurrent policies only, and its weights
take the bytes that the file has. What its values take is :mod:`kd_offline.networks.onnx_session`'s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kd_offline.errors import CheckpointError, MissingExtraError
from kd_offline.files import read_file

MAX_BYTES = 256 << 20
"""Most bytes of an ONNX file and of each file of weights beside it: 64 million float32."""
MAX_NODES = 4096
_LARGEST_SETTING = 1 << 31  # of an operator, so that no product of two leaves 64 bits
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
"""Operators that a model may hold: no loop, no branch, and none that asks for much at a word."""

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
    """Return the declared sizes of an input or output; None where one is free."""
    dims = port.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims)


def check_whole(path: Path, model: Any) -> None:
    """Refuse a model that needs other files, other operators or functions, or loops or branches.

    Raises
    ------
    CheckpointError
        The sentence names the first.
    """
    if len(model.graph.node) > MAX_NODES:
        raise refused(path, f"has {len(model.graph.node):,} operators, more than {MAX_NODES:,}")
    by_kind: dict[str, list[Any]] = {}
    for message in _messages(model):
        by_kind.setdefault(message.DESCRIPTOR.name, []).append(message)
    nodes, tensors = by_kind.get("NodeProto", []), by_kind.get("TensorProto", [])
    odd = [f"the file {name!r}" for name in sorted(other_files(model))]
    odd += [f"the function {function.name!r}" for function in model.functions]
    odd += ["a loop or a branch"] if len(by_kind.get("GraphProto", [])) > 1 else []
    opsets = [entry.version for entry in model.opset_import if entry.domain in ONNX_DOMAINS]
    odd += [] if len(opsets) == 1 else ["several versions of operators, or none"]
    odd += [f"the domain {node.domain!r}" for node in nodes if node.domain not in ONNX_DOMAINS]
    odd += [operator_name(node) for node in nodes if node.op_type not in OPERATORS]
    odd += ["a sparse tensor"] if "SparseTensorProto" in by_kind else []
    odd += [f"such a setting of {operator_name(node)}" for node in nodes if _far(node)]
    odd += [f"numbers of the type {t.data_type}" for t in tensors if t.data_type not in TYPE_BYTES]
    if odd:
        raise refused(path, f"needs {odd[0][:200]}, which no policy in one file does")
    for tensor in tensors:
        if _held(tensor) != math.prod(tensor.dims):
            what = f"says that {tensor.name[:80]!r} has the shape {list(tensor.dims)[:9]}"
            raise refused(path, f"{what}, and holds {_held(tensor):,} numbers of it")


def other_files(model: Any) -> set[str]:
    """Return the paths of the files that tensors of a model lie in."""
    found = set()
    for tensor in _tensors(model):
        places = [entry.value for entry in tensor.external_data if entry.key == "location"]
        found |= {*places} if places or not tensor.data_location else {""}
    return found


def beside(path: Path, model: Any) -> list[Path]:
    """Return the files of a model's tensors, which have to lie beside it and be no links.

    Raises
    ------
    CheckpointError
        One lies elsewhere.
    """
    found = []
    for name in sorted(other_files(model)):
        file = path.parent / name
        if Path(name).name != name or "\\" in name or not file.is_file() or file.is_symlink():
            msg = (
                f"{str(path)!r} says that its weights are in {name[:200]!r}, which is no file "
                "beside it: save it again, with its weights inside"
            )
            raise CheckpointError(msg)
        found.append(file)
    return found


def put_inside(path: Path, model: Any) -> list[Path]:
    """Move the weights of files beside a model into it, and return these files.

    Raises
    ------
    CheckpointError, StorageError
        One lies elsewhere, is too short for what the model says of it, or is used many times over.
    """
    files = beside(path, model)
    content = {file.name: read_file(file, MAX_BYTES) for file in files}
    left = sum(map(len, content.values()))
    for tensor in _tensors(model):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if not entries:
            continue
        data = content[entries["location"]]
        start, length = (_count(entries.get(key, "0")) for key in ("offset", "length"))
        length = length or len(data) - start
        left -= length
        if start + length > len(data) or left < 0:
            raise refused(path, f"claims more weights than {entries['location']!r} holds")
        tensor.raw_data = data[start : start + length]
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    return files


def _held(tensor: Any) -> int:
    """Return how many numbers a tensor's bytes are."""
    if tensor.raw_data:
        return len(tensor.raw_data) // TYPE_BYTES[tensor.data_type]
    return max(len(getattr(tensor, name)) for name in _LISTS)


def _far(node: Any) -> bool:
    """Tell whether a setting is a number that no policy has; ends of slices may be any."""
    given = (n for a in node.attribute for n in (a.i, *a.ints))
    return node.op_type != "Slice" and any(abs(n) > _LARGEST_SETTING for n in given)


def operator_name(node: Any) -> str:
    """Return what a message calls an operator."""
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
    return (m for m in _messages(model) if m.DESCRIPTOR.name == "TensorProto")


def _messages(message: Any) -> Iterator[Any]:
    """Yield a protocol buffer and all that are in it."""
    waiting = [message]
    while waiting:
        one = waiting.pop()
        yield one
        for field, value in one.ListFields():
            if field.type == field.TYPE_MESSAGE:
                waiting += [value] if hasattr(value, "ListFields") else list(value)
