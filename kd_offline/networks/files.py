"""Tensors on disk: safetensors only, written aside and then renamed into place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from kd_offline.errors import StorageError


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Replace the file at ``path`` by one with these tensors, see :func:`write_file`."""
    write_file(path, save({name: v.contiguous() for name, v in tensors.items()}, metadata))


def write_file(path: Path, content: bytes) -> None:
    """Replace the file at ``path``; a reader sees the old one or the new one, whole.

    Raises
    ------
    StorageError
        The disk is full or the folder cannot be written; the old file stays as it was.
    """
    aside = path.with_name(path.name + ".partial")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise _refusal(path, error) from error
    finally:
        _discard(aside)


def make_folder(path: Path) -> None:
    """Make a folder and those above it; a ``StorageError`` where that is refused."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refusal(path, error) from error


def _discard(aside: Path) -> None:
    try:
        aside.unlink(missing_ok=True)
    except OSError:
        return  # the error that matters was raised before this one


def _refusal(path: Path, error: OSError) -> StorageError:
    reason = error.strerror or str(error)
    return StorageError(f"cannot write {str(path)!r}: {reason}; free space or give another path")
