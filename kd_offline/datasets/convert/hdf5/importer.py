"""Import an HDF5 file that :mod:`~kd_offline.datasets.convert.hdf5.exporter` wrote."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kd_offline.datasets.convert import untrusted_hdf5
from kd_offline.datasets.convert.embedded_manifest import manifest_of, splits_of
from kd_offline.datasets.convert.interchange import (
    Imported,
    Options,
    episode_groups,
    foreign,
)
from kd_offline.datasets.format import layout
from kd_offline.datasets.format.manifest import header_of
from kd_offline.datasets.writing.blocks import EpisodeBlock
from kd_offline.errors import CorruptDatasetError
from kd_offline.schemas.dataset import DatasetManifest
from kd_offline.types import Array

MANIFEST = "manifest"


def recognise(path: Path) -> bool:
    """Tell whether ``path`` is an HDF5 file that carries a manifest of ours."""
    if not untrusted_hdf5.is_hdf5(path):
        return False
    with untrusted_hdf5.opened(path) as file:
        return MANIFEST in untrusted_hdf5.names(file)


@contextmanager
def read(path: Path, options: Options) -> Iterator[Imported]:
    """Open an HDF5 file that carries a manifest of ours."""
    with untrusted_hdf5.opened(path) as file:
        text = untrusted_hdf5.text(file, MANIFEST)
        if text is None:
            raise foreign(path, "it carries no manifest of an expert buffer", "check --from")
        manifest = manifest_of(text, str(path))
        arrays = {name: _dataset(path, file, manifest, name) for name in manifest.arrays}
        table = {n: untrusted_hdf5.whole(d) for n, d in arrays.items() if n.startswith("episodes/")}
        _check_digests(path, manifest, table)
        yield Imported(
            header=header_of(manifest),
            blocks=_blocks(arrays, table),
            steps=int(table["episodes/length"].sum()),
            manifest=manifest,
            splits=splits_of(manifest, table["episodes/split"]),
            masks={
                name.removeprefix("masks/"): untrusted_hdf5.whole(found)
                for name, found in arrays.items()
                if name.startswith("masks/")
            },
        )


def _dataset(path: Path, file: Any, manifest: DatasetManifest, name: str) -> Any:
    """Return the dataset of one array, which must be what the manifest says."""
    spec = manifest.arrays[name]
    found = untrusted_hdf5.dataset(file, name)
    if found.shape != spec.shape or found.dtype != np.dtype(spec.dtype):
        got = f"{found.dtype} {list(found.shape)} where its manifest has "
        raise foreign(path, f"{name} is {got}{spec.dtype} {list(spec.shape)}")
    return found


def _check_digests(path: Path, manifest: DatasetManifest, arrays: dict[str, Array]) -> None:
    """Check small arrays at once: some are computed anew, so nothing later would notice."""
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
    for first, last in episode_groups(table["episodes/length"]):
        parts: dict[str, dict[str, Array]] = {"steps": {}, "final": {}, "episodes": {}}
        for name, found in arrays.items():
            group, short = name.split("/", 1)
            if group == "steps":
                parts[group][short] = found[int(offsets[first]) : int(offsets[last])]
            elif group == "final":
                parts[group][short] = found[first:last]
            elif group == "episodes" and not layout.rule_for(name).derived:
                parts[group][short] = table[name][first:last]
        yield EpisodeBlock(**parts)
