"""Export a dataset to one HDF5 file: every array, and the manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kd_offline.datasets.convert.embedded_manifest import manifest_text
from kd_offline.datasets.convert.hdf5.importer import MANIFEST
from kd_offline.datasets.convert.hdf5_writing import create_hdf5
from kd_offline.datasets.convert.interchange import (
    ConvertOptions,
    row_ranges,
)
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.tracking.base import Observer

_GZIP_LEVEL = 4


def write(
    buffer: ExpertBuffer, path: Path, options: ConvertOptions, observer: Observer
) -> list[str]:
    """Write every array of a dataset, and its manifest, to one HDF5 file."""
    with create_hdf5(path, libver=("v108", "v110")) as file:
        text = np.frombuffer(manifest_text(buffer).encode("ascii"), np.uint8)
        file.create_dataset(MANIFEST, data=text, chunks=text.shape, compression="gzip")
        stored = {name: _create(file, buffer, name) for name in buffer.names}
        for name in (name for name in buffer.names if not name.startswith("steps/")):
            _copy(buffer, name, stored[name], 0, buffer.array(name).rows)
        for start, stop in row_ranges(buffer.n_steps):
            for name in (name for name in buffer.names if name.startswith("steps/")):
                _copy(buffer, name, stored[name], start, stop)
            observer.progress(stop, buffer.n_steps, "steps")
    return []


def _create(file: Any, buffer: ExpertBuffer, name: str) -> Any:
    spec = buffer.manifest.arrays[name]
    row = int(np.prod(spec.shape[1:], dtype=np.int64)) * np.dtype(spec.dtype).itemsize
    # HDF5 decodes whole chunks; chunks smaller than Zarr's suit readers of single episodes.
    rows = min(spec.shape[0], max(64, (1 << 20) // max(1, row)))
    created = file.create_dataset(
        name,
        shape=spec.shape,
        dtype=spec.dtype,
        chunks=(rows, *spec.shape[1:]),
        compression="gzip",
        compression_opts=_GZIP_LEVEL,
        shuffle=np.dtype(spec.dtype).itemsize > 1,
        fletcher32=True,
    )
    created.attrs["axes"] = " ".join(spec.axes)
    created.attrs["digest"] = spec.digest
    return created


def _copy(buffer: ExpertBuffer, name: str, stored: Any, start: int, stop: int) -> None:
    stored[start:stop] = buffer.read(name, start, stop)
