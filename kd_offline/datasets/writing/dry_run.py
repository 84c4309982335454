"""Make a dataset of one step in memory, with the real writer, before a recording begins.

So settings that a manifest cannot hold are refused before the first episode.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from kd_offline.datasets.format import layout
from kd_offline.datasets.storage.manifest_file import read_manifest
from kd_offline.datasets.storage.store import Folder
from kd_offline.datasets.writing.dataset_files import DatasetFiles
from kd_offline.errors import KdOfflineError, UsageError
from kd_offline.schemas.dataset import FileRecord, RecordingHeader
from kd_offline.strict_json import parse
from kd_offline.types import Array
from kd_offline.user_code import plain


def dry_run(header: RecordingHeader) -> None:
    """Check that a dataset with this ``header`` can be finished and read.

    Raises
    ------
    UsageError
        It cannot; the message says which setting is in the way.
    """
    require_storable(header.model_dump(mode="json"))
    folder = _MemoryFolder()
    spec = header.environment
    files = DatasetFiles(folder, header, math.inf)
    try:
        files.append_episodes(_single_step(header), np.ones(1, np.int64))
        mask = np.ones((spec.n_agents, spec.obs_width), bool)
        files.finish(dict.fromkeys(header.masks, mask), 0.0)
        read_manifest(folder)
    except (KdOfflineError, ValidationError, ValueError) as error:
        msg = (
            f"a dataset with these settings could not be read again, so nothing was begun: "
            f"{plain(str(error))}"
        )
        raise UsageError(msg) from error


def require_storable(document: Mapping[str, Any]) -> None:
    """Check that a manifest can hold every value and key; raises as :func:`dry_run`."""
    for path, value in _scalars_and_keys("", document):
        try:
            parse(json.dumps(value, allow_nan=False).encode("ascii"))
        except ValueError as error:
            reason = str(error).replace("it has", "it is or has", 1)
            msg = (
                f"{plain(path)} is {plain(repr(value))}, which a dataset cannot hold ({reason}): "
                "give another value"
            )
            raise UsageError(msg) from None


def _scalars_and_keys(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the dotted path and value of every scalar and key of nested values."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            inner = f"{path}.{key}" if path else str(key)
            yield f"the name {inner}", key
            yield from _scalars_and_keys(inner, part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _scalars_and_keys(path, part)
    else:
        yield path, value


def _single_step(header: RecordingHeader) -> dict[str, Array]:
    """Return the arrays that every dataset of ``header`` has, with one episode of one step."""
    sizes = layout.axis_sizes(header.environment, 1, 1)
    arrays = {}
    full = layout.FULL if "F" in sizes else ()
    for name in (*layout.required_arrays("steps"), *layout.required_arrays("episodes"), *full):
        rule = layout.rule_for(name)
        shape = tuple(sizes[axis] for axis in rule.axes)
        arrays[name] = np.zeros(shape, rule.dtypes[0])
    arrays["episodes/length"] += 1
    return arrays


class _MemoryFolder(Folder):
    """A folder whose files are in memory."""

    def __init__(self) -> None:
        super().__init__(Path("rehearsal"))
        object.__setattr__(self, "_files", {})

    _files: dict[str, bytes]

    def put(self, path: str, data: bytes, *, durable: bool = False, aside: str = "") -> None:
        self._files[path] = data

    def read(self, path: str, listed: FileRecord | None = None) -> bytes:
        return self._files[path]

    def size(self, path: str) -> int | None:
        return len(self._files[path]) if path in self._files else None

    def remove(self, path: str) -> None:
        self._files.pop(path, None)

    def files(self) -> Iterator[str]:
        return iter(list(self._files))
