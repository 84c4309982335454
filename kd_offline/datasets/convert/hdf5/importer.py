"""Import an HDF5 file that :mod:`~kd_offline.datasets.convert.hdf5.exporter` wrote."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kd_offline.datasets.convert import untrusted_hdf5
from kd_offline.datasets.convert.embedded_manifest import (
    parse_embedded_manifest,
    splits_from_manifest,
)
from kd_offline.datasets.convert.interchange import (
    CHECK_FORMAT,
    ConvertOptions,
    ImportedDataset,
    episode_ranges,
    foreign_error,
)
from kd_offline.datasets.format import layout
from kd_offline.datasets.format.manifest import recording_header
from kd_offline.datasets.writing.blocks import EpisodeBlock
from kd_offline.errors import CorruptDatasetError
from kd_offline.schemas.dataset import DatasetManifest
from kd_offline.types import Array

MANIFEST = "manifest"


def recognise(path: Path) -> bool:
    """Tell whether ``path`` is an HDF5 file with a manifest of ours."""
    if not untrusted_hdf5.is_hdf5(path):
        return False
    with untrusted_hdf5.open_hdf5(path) as file:
        return MANIFEST in untrusted_hdf5.member_names(file)


@contextmanager
def read(path: Path, options: ConvertOptions) -> Iterator[ImportedDataset]:
    """Open the dataset in an HDF5 file that has an expert buffer's manifest."""
    with untrusted_hdf5.open_hdf5(path) as file:
        text = untrusted_hdf5.read_bytes(file, MANIFEST)
        if text is None:
            raise foreign_error(path, "it carries no manifest of an expert buffer", CHECK_FORMAT)
        manifest = parse_embedded_manifest(text, str(path))
        arrays = {name: _dataset(path, file, manifest, name) for name in manifest.arrays}
        table = {
            n: untrusted_hdf5.read_all(d) for n, d in arrays.items() if n.startswith("episodes/")
        }
        _check_digests(path, manifest, table)
        yield ImportedDataset(
            header=recording_header(manifest),
            blocks=_blocks(arrays, table),
            steps=int(table["episodes/length"].sum()),
            manifest=manifest,
            splits=splits_from_manifest(manifest, table["episodes/split"]),
            masks={
                name.removeprefix("masks/"): untrusted_hdf5.read_all(array)
                for name, array in arrays.items()
                if name.startswith("masks/")
            },
        )


def _dataset(path: Path, file: Any, manifest: DatasetManifest, name: str) -> Any:
    """Return the HDF5 dataset of an array, after checking its dtype and shape."""
    spec = manifest.arrays[name]
    array = untrusted_hdf5.checked_dataset(file, name)
    if array.shape != spec.shape or array.dtype != np.dtype(spec.dtype):
        got = f"{array.dtype} {list(array.shape)} where its manifest has "
        raise foreign_error(path, f"{name} is {got}{spec.dtype} {list(spec.shape)}")
    return array


def _check_digests(path: Path, manifest: DatasetManifest, arrays: dict[str, Array]) -> None:
    """Check the digests of the episode table; some columns are recomputed, not compared later."""
    for name, values in arrays.items():
        spec = manifest.arrays[name]
        content = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False))
        sha256 = hashlib.sha256(content.data).hexdigest()
        if layout.content_digest(spec.dtype, spec.shape, sha256) != spec.digest:
            msg = (
                f"{name} of {str(path)!r} does not have the digest that the file's manifest lists: "
                "get a fresh copy"
            )
            raise CorruptDatasetError(msg)


def _blocks(arrays: dict[str, Any], table: dict[str, Array]) -> Iterator[EpisodeBlock]:
    offsets = np.concatenate([[0], np.cumsum(table["episodes/length"], dtype=np.int64)])
    for first, last in episode_ranges(table["episodes/length"]):
        parts: dict[str, dict[str, Array]] = {"steps": {}, "final": {}, "episodes": {}}
        for name, array in arrays.items():
            group, short = name.split("/", 1)
            if group == "steps":
                parts[group][short] = array[int(offsets[first]) : int(offsets[last])]
            elif group == "final":
                parts[group][short] = array[first:last]
            elif group == "episodes" and not layout.rule_for(name).derived:
                parts[group][short] = table[name][first:last]
        yield EpisodeBlock(**parts)
