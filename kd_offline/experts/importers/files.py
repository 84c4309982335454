"""Read tensors without running code of the file, and recognise libraries by names and keys."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from kd_offline.errors import CheckpointError, NoCheckpointError
from kd_offline.files import read_file

Tensors = dict[str, Tensor]
_MAX_SETTINGS = 1 << 20
_SHARED = 4  # times that a stored number may be somebody's weight


def read_torch(path: Path) -> Any:
    """Return the content of a file of ``torch.save``, with tensors and plain containers only.

    Raises
    ------
    CheckpointError
        It is damaged, is compressed, or holds objects that only running their code could bring
        back.
    """
    _check_stored(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # of old pickle protocols, refused or read
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        msg = (
            f"{str(path)!r} holds more than tensors, and reading that would run code in it: save "
            "the network's state_dict() alone and give that file, as "
            "docs/guide/bring-your-own-expert.md shows"
        )
        raise CheckpointError(msg) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        msg = f"cannot read {str(path)!r}: {reason}; copy the file again"
        raise CheckpointError(msg) from error


def _check_stored(path: Path) -> None:
    """Raise for an archive with compressed members: PyTorch writes none, and they may be bombs."""
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            packed = any(m.compress_type != zipfile.ZIP_STORED for m in archive.infolist())
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return  # reading it says what is wrong
    if packed:
        msg = f"{str(path)!r} is compressed, which torch.save never does: save it again"
        raise CheckpointError(msg)


def read_settings(path: Path) -> Any:
    """Return the content of a JSON file beside a checkpoint.

    Raises
    ------
    CheckpointError
        It is no JSON.
    StorageError
        It cannot be read, or has more than 1 MiB.
    """
    try:
        return json.loads(read_file(path, _MAX_SETTINGS).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        msg = f"{str(path)!r} is not valid JSON: {error}; copy it again or remove it"
        raise CheckpointError(msg) from None


def read_safetensors(path: Path) -> Tensors:
    """Read a safetensors file; a missing or damaged one is a ``CheckpointError``."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        msg = f"cannot read {str(path)!r}: {error}; copy the file again"
        raise CheckpointError(msg) from error


def tensors_of(content: Any, path: Path) -> Tensors:
    """Return the floating-point tensors of a state dict; other entries are dropped.

    Raises
    ------
    CheckpointError
        It is no mapping of names.
    """
    if not isinstance(content, Mapping):
        msg = (
            f"{str(path)!r} holds a {type(content).__name__}, not a dict of tensors: "
            "give a file that the library's own save function wrote"
        )
        raise CheckpointError(msg)
    tensors = {
        str(name): value
        for name, value in content.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    _check_size(tensors.values(), path)
    return {name: value.float() for name, value in tensors.items()}


def _check_size(tensors: Collection[Tensor], path: Path) -> None:
    """Raise for tensors larger than their file, which repeat stored numbers and fill the memory.

    Raises
    ------
    CheckpointError
        They claim several times the bytes that the file has, or are of a kind that stores none.
    """
    file_size = path.stat().st_size
    plain = all(t.layout is torch.strided and t.device.type == "cpu" for t in tensors)
    if not plain or sum(t.nbytes for t in tensors) > _SHARED * file_size:
        msg = (
            f"{str(path)!r} has {file_size:,} bytes, and its tensors claim many more: save the "
            "network again with its library"
        )
        raise CheckpointError(msg)


def below(tensors: Mapping[str, Tensor], prefix: str) -> Tensors:
    """Return the tensors whose name starts with ``prefix``, by the rest of their names."""
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}


def take(tensors: Mapping[str, Tensor], name: str, file: str) -> Tensor:
    """Return one tensor; raises ``CheckpointError`` where it is missing."""
    if name not in tensors:
        listed = ", ".join(sorted(tensors)[:8]) or "none"
        msg = f"{file} holds no tensor {name!r} (found: {listed}): it is of another kind or damaged"
        raise CheckpointError(msg)
    return tensors[name]


def digest(paths: Iterable[Path], recipe: str) -> str:
    """Return ``sha256:...`` of files and of the recipe that describes their inputs."""
    total = hashlib.sha256(recipe.encode())
    for path in sorted(paths):
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return "sha256:" + total.hexdigest()


def looks_like(path: Path) -> str | None:
    """Return the prefix of the library of ``path``, recognised by names and keys alone."""
    folder = path if path.is_dir() else path.parent
    if path.suffix == ".onnx" and path.is_file():
        return "onnx"
    if path.suffix == ".safetensors" and path.is_file():
        return "jaxmarl" if any("," in name for name in _names(path)) else None
    if path.is_file() and re.search(r"checkpoint.*\.pt$", path.name):
        return "benchmarl"
    if (folder / "agent.th").is_file():
        pymarl2 = "hyper_w1.0.weight" in _names(folder / "mixer.th")
        return "pymarl2" if pymarl2 else "epymarl"
    if any(folder.glob("actor*.pt")):
        return "on-policy"
    return None


def wrong_place(reference: str, path: Path, expected: str, names: str) -> CheckpointError:
    """Return the error for a path that is no checkpoint of the named library."""
    library = looks_like(path)
    if not path.exists():
        return NoCheckpointError(f"{reference!r} holds no {names}: check the path")
    if library is not None and library != expected:
        advice = f"it looks like one of {library}, so write {library}:{path}"
    else:
        deeper = sorted({p.parent for p in path.glob("**/*") if p.name in names.split(", ")})
        advice = f"did you mean {expected}:{deeper[-1]}?" if deeper else "check the path"
    return CheckpointError(f"{reference!r} holds no {names}: {advice}")


def _names(path: Path) -> tuple[str, ...]:
    """Return the names of the tensors in a file; empty if it cannot be read."""
    if not path.is_file():
        return ()
    try:
        read = read_safetensors if path.suffix == ".safetensors" else read_torch
        content = read(path)
    except CheckpointError:
        return ()
    return tuple(map(str, content)) if isinstance(content, Mapping) else ()
