"""Reading tensors without ever running what a file holds, and telling libraries apart."""

from __future__ import annotations

import hashlib
import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from kd_offline.errors import CheckpointError, NoCheckpointError

Tensors = dict[str, Tensor]


def read_torch(path: Path) -> Any:
    """Read a file of ``torch.save``, tensors and plain containers only.

    Raises
    ------
    CheckpointError
        It is damaged, or holds objects that only running their code could bring back.
    """
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


def read_safetensors(path: Path) -> Tensors:
    """Read a safetensors file; a missing or damaged one is a ``CheckpointError``."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        msg = f"cannot read {str(path)!r}: {error}; copy the file again"
        raise CheckpointError(msg) from error


def tensors_of(content: Any, path: Path) -> Tensors:
    """Return the floating tensors of a state dict, and nothing else that is in it.

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
    return {
        str(name): value.float()
        for name, value in content.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }


def below(tensors: Mapping[str, Tensor], prefix: str) -> Tensors:
    """Return the tensors whose name begins with ``prefix``, without it."""
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}


def take(tensors: Mapping[str, Tensor], name: str, where: str) -> Tensor:
    """Return one tensor; ``CheckpointError`` where it is missing."""
    if name not in tensors:
        listed = ", ".join(sorted(tensors)[:8]) or "none"
        msg = (
            f"{where} holds no tensor {name!r} (found: {listed}): it is of another kind or damaged"
        )
        raise CheckpointError(msg)
    return tensors[name]


def digest(paths: Iterable[Path], recipe: str) -> str:
    """Return ``sha256:...`` of files and of the recipe by which they are used."""
    total = hashlib.sha256(recipe.encode())
    for path in sorted(paths):
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return "sha256:" + total.hexdigest()


def looks_like(path: Path) -> str | None:
    """Return the prefix that fits what is at ``path``, judged by names and keys alone."""
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


def wrong_place(reference: str, path: Path, wanted: str, names: str) -> CheckpointError:
    """Return the error for a path that is not a checkpoint of the library that was named."""
    found = looks_like(path)
    if not path.exists():
        return NoCheckpointError(f"{reference!r} holds no {names}: check the path")
    if found is not None and found != wanted:
        advice = f"it looks like one of {found}, so write {found}:{path}"
    else:
        deeper = sorted({p.parent for p in path.glob("**/*") if p.name in names.split(", ")})
        advice = f"did you mean {wanted}:{deeper[-1]}?" if deeper else "check the path"
    return CheckpointError(f"{reference!r} holds no {names}: {advice}")


def _names(path: Path) -> tuple[str, ...]:
    """Return the names of the tensors in a file, none where it cannot be read."""
    if not path.is_file():
        return ()
    try:
        read = read_safetensors if path.suffix == ".safetensors" else read_torch
        content = read(path)
    except CheckpointError:
        return ()
    return tuple(map(str, content)) if isinstance(content, Mapping) else ()
