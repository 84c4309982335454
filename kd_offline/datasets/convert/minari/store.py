"""The files of a Minari dataset: names, and checked access."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kd_offline.datasets.convert import untrusted_hdf5
from kd_offline.datasets.convert.interchange import episode_ranges, foreign_error
from kd_offline.datasets.writing.blocks import EpisodeBlock
from kd_offline.types import Array

DATA_FILE = "main_data.hdf5"
METADATA_FILE = "metadata.json"
MANIFEST_KEY = "kd_offline_manifest"
MASKS_KEY = "kd_offline_masks"
EPISODE_MASKS_GROUP = "kd_masks"
ATTRIBUTE_PREFIX = "kd_"
_LARGEST_JSON = 256 << 20


def metadata_of(data: Path) -> dict[str, Any]:
    """Return the content of ``metadata.json``; raises ``ForeignError`` if it cannot be used."""
    file = data / METADATA_FILE
    try:
        if file.stat().st_size > _LARGEST_JSON:
            raise foreign_error(data, f"{METADATA_FILE} is too large")
        document = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise foreign_error(data, f"it has no {METADATA_FILE}", "check the path") from None
    except (ValueError, RecursionError):
        raise foreign_error(data, f"{METADATA_FILE} is damaged") from None
    if not isinstance(document, dict):
        raise foreign_error(data, f"{METADATA_FILE} is damaged")
    if document.get("data_format", "hdf5") != "hdf5":
        storage_format = document["data_format"]
        advice = "store it as hdf5 with Minari first"
        raise foreign_error(data, f"its data are kept as {storage_format!r}, not as hdf5", advice)
    return document


def length_of(file: Any, k: int) -> int:
    """Return the number of steps of episode ``k``."""
    length = len(
        untrusted_hdf5.checked_dataset(untrusted_hdf5.subgroup(file, f"episode_{k}"), "rewards")
    )
    if length < 1:
        raise foreign_error(Path(file.filename), f"episode {k} has no steps")
    return length


def values_of(group: Any, name: str, rows: int) -> Array:
    """Return an array of an episode, after checking that it has ``rows`` rows."""
    array = untrusted_hdf5.checked_dataset(group, name)
    if array.ndim < 1 or len(array) != rows:
        path = Path(group.file.filename)
        raise foreign_error(
            path, f"{array.name} has {list(array.shape)} rows where {rows} are needed"
        )
    return untrusted_hdf5.read_all(array)


def episode_blocks_from(
    lengths: Array, load: Callable[[int], Mapping[str, Array]]
) -> Iterator[EpisodeBlock]:
    """Yield blocks of episodes; ``load`` returns the arrays of one by full name."""
    for first, last in episode_ranges(lengths):
        episodes = [load(k) for k in range(first, last)]
        parts: dict[str, dict[str, Array]] = {"steps": {}, "final": {}, "episodes": {}}
        for name in episodes[0]:
            group, short = name.split("/", 1)
            parts[group][short] = np.concatenate([episode[name] for episode in episodes])
        parts["episodes"]["length"] = lengths[first:last]
        yield EpisodeBlock(**parts)


def attribute(group: Any, name: str) -> Any:
    """Return a scalar attribute of an episode; raises ``ForeignError`` if there is none."""
    if name not in group.attrs or not np.isscalar(value := group.attrs[name]):
        raise foreign_error(Path(group.file.filename), f"{group.name} has no attribute {name!r}")
    return value
