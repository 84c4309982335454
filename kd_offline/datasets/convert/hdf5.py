"""One HDF5 file with the arrays of the expert buffer and its manifest: lossless both ways."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kd_offline.datasets.convert import untrusted_hdf5 as careful
from kd_offline.datasets.convert.embedded_manifest import manifest_of, splits_of, text_of
from kd_offline.datasets.convert.hdf5_writing import writing
from kd_offline.datasets.convert.parts import (
    Imported,
    Options,
    episode_groups,
    foreign,
    windows,
)
from kd_offline.datasets.format import layout
from kd_offline.datasets.format.manifest import header_of
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.writing.blocks import EpisodeBlock
from kd_offline.errors import CorruptDatasetError
from kd_offline.schemas.dataset import DatasetManifest
from kd_offline.tracking.base import Observer
from kd_offline.types import Array

CANNOT_HOLD: dict[str, str] = {}
MANIFEST = "manifest"
_GZIP_LEVEL = 4


def recognise(path: Path) -> bool:
    """Tell whether ``path`` is an HDF5 file that carries a manifest of ours."""
    if not careful.is_hdf5(path):
        return False
    with careful.opened(path) as file:
        return MANIFEST in careful.names(file)


def write(buffer: ExpertBuffer, path: Path, options: Options, observer: Observer) -> list[str]:
    """Write every array of a dataset, and its manifest, to one HDF5 file."""
    with writing(path, libver=("v108", "v110")) as file:
        text = np.frombuffer(text_of(buffer).encode("ascii"), np.uint8)
        file.create_dataset(MANIFEST, data=text, chunks=text.shape, compression="gzip")
        stored = {name: _create(file, buffer, name) for name in buffer.names}
        for name in (name for name in buffer.names if not name.startswith("steps/")):
            _copy(buffer, name, stored[name], 0, buffer.array(name).rows)
        for start, stop in windows(buffer.n_steps):
            for name in (name for name in buffer.names if name.startswith("steps/")):
                _copy(buffer, name, stored[name], start, stop)
            observer.progress(stop, buffer.n_steps, "steps")
    return []


@contextmanager
def read(path: Path, options: Options) -> Iterator[Imported]:
    """Open an HDF5 file that carries a manifest of ours."""
    with careful.opened(path) as file:
        text = careful.text(file, MANIFEST)
        if text is None:
            raise foreign(path, "it carries no manifest of an expert buffer", "check --from")
        manifest = manifest_of(text, str(path))
        arrays = {name: _dataset(path, file, manifest, name) for name in manifest.arrays}
        table = {n: careful.whole(d) for n, d in arrays.items() if n.startswith("episodes/")}
        _check_digests(path, manifest, table)
        yield Imported(
            header=header_of(manifest),
            blocks=_blocks(arrays, table),
            steps=int(table["episodes/length"].sum()),
            manifest=manifest,
            splits=splits_of(manifest, table["episodes/split"]),
            masks={
                name.removeprefix("masks/"): careful.whole(found)
                for name, found in arrays.items()
                if name.startswith("masks/")
            },
        )


def _create(file: Any, buffer: ExpertBuffer, name: str) -> Any:
    spec = buffer.manifest.arrays[name]
    row = int(np.prod(spec.shape[1:], dtype=np.int64)) * np.dtype(spec.dtype).itemsize
    # HDF5 decodes whole chunks; smaller ones than Zarr's suit readers of single episodes.
    rows = min(spec.shape[0], max(64, (1 << 20) // max(1, row)))
    made = file.create_dataset(
        name,
        shape=spec.shape,
        dtype=spec.dtype,
        chunks=(rows, *spec.shape[1:]),
        compression="gzip",
        compression_opts=_GZIP_LEVEL,
        shuffle=np.dtype(spec.dtype).itemsize > 1,
        fletcher32=True,
    )
    made.attrs["axes"] = " ".join(spec.axes)
    made.attrs["digest"] = spec.digest
    return made


def _copy(buffer: ExpertBuffer, name: str, stored: Any, start: int, stop: int) -> None:
    stored[start:stop] = buffer.read(name, start, stop)


def _dataset(path: Path, file: Any, manifest: DatasetManifest, name: str) -> Any:
    """Return the dataset of one array, which must be what the manifest says."""
    spec = manifest.arrays[name]
    found = careful.dataset(file, name)
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
