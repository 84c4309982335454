"""Tensors on disk: safetensors only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from kd_offline.files import write_file


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Replace the file at ``path`` by one with these tensors; raises as :func:`write_file`."""
    write_file(path, save({name: v.contiguous() for name, v in tensors.items()}, metadata))
