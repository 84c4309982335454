"""ONNX files that may be a stranger's: what they hold, and what they would make a runtime open.

A tensor of such a file may lie in another file, whose path it states, and an operator may come from
another domain. Both are looked for before a runtime sees the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kd_offline.errors import CheckpointError, MissingExtraError
from kd_offline.files import read_file

MAX_BYTES = 1 << 31
"""Most bytes of an ONNX file; protocol buffers cannot be larger."""


def read_model(path: Path) -> tuple[bytes, Any]:
    """Return the bytes of an ONNX file and the model in them.

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
        return data, onnx.load_model_from_string(data)
    except Exception as error:  # of protocol buffers, which are no dependency of ours
        msg = f"cannot read {str(path)!r} as ONNX: it is no such file; export it again"
        raise CheckpointError(msg) from error


def other_files(model: Any) -> set[str]:
    """Return the paths of the files that tensors of a model lie in."""
    found = set()
    for message in _messages(model):
        if message.DESCRIPTOR.name == "TensorProto":
            places = [entry.value for entry in message.external_data if entry.key == "location"]
            found |= {*places} if places or not message.data_location else {""}
    return found


def check_whole(path: Path, model: Any) -> None:
    """Refuse a model that needs other files, operators or functions, or holds loops and branches.

    Raises
    ------
    CheckpointError
        The sentence names the first.
    """
    domains = {node.domain for node in _messages(model) if node.DESCRIPTOR.name == "NodeProto"}
    odd = sorted(domains - {"", "ai.onnx"})
    odd += [f"the file {name!r}" for name in sorted(other_files(model))]
    odd += [f"the function {function.name!r}" for function in model.functions]
    graphs = sum(message.DESCRIPTOR.name == "GraphProto" for message in _messages(model))
    odd += ["a loop or a branch"] if graphs > 1 else []
    if odd:
        msg = (
            f"{str(path)!r} needs {odd[0][:200]} beside ONNX's own operators, which no export of "
            "ours does: export it again"
        )
        raise CheckpointError(msg)


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


def _messages(message: Any) -> Iterator[Any]:
    """Yield a protocol buffer and all that are in it."""
    waiting = [message]
    while waiting:
        one = waiting.pop()
        yield one
        for field, value in one.ListFields():
            if field.type == field.TYPE_MESSAGE:
                waiting += [value] if hasattr(value, "ListFields") else list(value)
