"""Import a vault that our exporter wrote, without loss."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kd_offline.datasets.convert.embedded_manifest import splits_from_manifest
from kd_offline.datasets.convert.interchange import (
    ImportedDataset,
    episode_ranges,
    foreign_error,
    row_ranges,
)
from kd_offline.datasets.convert.vault import store
from kd_offline.datasets.convert.vault.store import VaultArrays
from kd_offline.datasets.format.layout import rule_for
from kd_offline.datasets.format.manifest import recording_header
from kd_offline.datasets.writing.blocks import EpisodeBlock
from kd_offline.schemas.dataset import DatasetManifest
from kd_offline.types import Array


def reimport(
    folder: Path,
    stores: VaultArrays,
    steps: int,
    metadata: Mapping[str, Any],
    manifest: DatasetManifest,
) -> ImportedDataset:
    """Return the exported dataset; ``manifest`` is the one embedded in the vault."""
    absent = [
        n for n in map(store.leaf_name, _arrays_with_leaf(manifest)) if n not in stores.leaves
    ]
    if absent:
        raise foreign_error(folder, f"its manifest promises the leaves {', '.join(absent)}")
    ends = np.concatenate(
        [store.episode_ends(stores, 0, a, b)[0] for a, b in row_ranges(steps)] or [np.zeros(0)]
    )
    stops = np.flatnonzero(ends) + 1
    lengths = np.diff(stops, prepend=0)
    codes = _rows_of_leaf(stores, "episodes/split", stops - 1).astype(np.uint8)
    masks = {n: np.asarray(m, np.bool_) for n, m in _fixed_masks(folder, metadata).items()}
    for name in manifest.arrays:
        if name.startswith("masks/") and store.leaf_name(name) in stores.leaves:
            masks[name.removeprefix("masks/")] = _rows_of_leaf(stores, name, stops - 1)
    return ImportedDataset(
        header=recording_header(manifest),
        blocks=_blocks(stores, manifest, lengths),
        steps=steps,
        manifest=manifest,
        splits=splits_from_manifest(manifest, codes),
        masks=masks,
    )


def _arrays_with_leaf(manifest: DatasetManifest) -> list[str]:
    """Return the arrays of which the vault must have a leaf."""
    return [
        name
        for name, spec in manifest.arrays.items()
        if name != "episodes/length"
        and (name == "episodes/split" or not rule_for(name, len(spec.shape)).derived)
        and not (name.startswith("masks/") and len(spec.shape) == len("NO"))
    ]


def _fixed_masks(folder: Path, metadata: Mapping[str, Any]) -> dict[str, Any]:
    try:
        masks = json.loads(metadata.get(store.MASKS_KEY, "{}"))
    except (ValueError, TypeError, RecursionError):
        raise foreign_error(folder, f"{store.MASKS_KEY} in its metadata.json is damaged") from None
    return dict(masks)


def _rows_of_leaf(stores: VaultArrays, name: str, rows: Array) -> Array:
    """Return the given rows [n] of a leaf, in one pass over it."""
    parts = []
    for start, stop in row_ranges(int(rows[-1]) + 1 if len(rows) else 0):
        rows_in_window = rows[(rows >= start) & (rows < stop)] - start
        parts.append(stores.read(store.leaf_name(name), 0, start, stop)[rows_in_window])
    return np.concatenate(parts) if parts else np.zeros(0, np.uint8)


def _blocks(
    stores: VaultArrays, manifest: DatasetManifest, lengths: Array
) -> Iterator[EpisodeBlock]:
    stops = np.cumsum(lengths)
    names = [name for name in _arrays_with_leaf(manifest) if name != "episodes/split"]
    for first, last in episode_ranges(lengths):
        start = int(stops[first] - lengths[first])
        rows = stops[first:last] - 1 - start
        parts: dict[str, dict[str, Array]] = {"steps": {}, "final": {}, "episodes": {}}
        parts["episodes"]["length"] = lengths[first:last]
        for name in names:
            group, short = name.split("/", 1)
            if group in parts:
                values = stores.read(store.leaf_name(name), 0, start, int(stops[last - 1]))
                parts[group][short] = _original(name, values, rows)
        yield EpisodeBlock(**parts)


def _original(name: str, values: Array, ends: Array) -> Array:
    """Return the values of an array from those of its leaf."""
    if name in ("steps/terminated", "steps/truncated"):
        return values[:, 0]
    if name.startswith("steps/"):
        return values
    values = values[ends]
    if name == "episodes/seed":
        return np.ascontiguousarray(values).view("<u8")[..., 0]
    return values
