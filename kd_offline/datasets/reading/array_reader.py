"""One stored array: reads ranges of rows from chunk files, and checks them before decoding."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kd_offline.datasets.format import chunks, layout, resource_limits
from kd_offline.datasets.storage.safe_open import NotPlainError
from kd_offline.datasets.storage.store import Files
from kd_offline.datasets.storage.threads import parallel_map
from kd_offline.errors import CorruptDatasetError
from kd_offline.schemas.dataset import ArraySpec, FileRecord
from kd_offline.types import Array, IntArray


@dataclass(frozen=True, slots=True)
class StoredArray:
    """Reads one array chunk by chunk; decodes only files whose size and sha256 are as listed."""

    name: str
    spec: ArraySpec
    chunk_rows: int
    folder: Files
    files: Mapping[str, FileRecord]

    @property
    def rows(self) -> int:
        """Length of the first axis."""
        return self.spec.shape[0]

    @property
    def chunk_count(self) -> int:
        """Number of chunk files."""
        return layout.chunk_count(self.rows, self.chunk_rows)

    @property
    def row_bytes(self) -> int:
        """Decoded bytes of one row."""
        return math.prod(self.spec.shape[1:]) * chunks.little_endian(self.spec.dtype).itemsize

    def chunk_path(self, index: int) -> str:
        """Return the path of the file of a chunk."""
        return layout.chunk_path(self.name, index, len(self.spec.shape))

    def chunk(self, index: int) -> Array:
        """Return the rows of one chunk, without the padding of the last one.

        Raises
        ------
        CorruptDatasetError
            The file is missing, altered, or does not decode to what the shape demands.
        """
        out = self.allocate(self.chunk_rows)
        self.decode(index, out)
        return out[: self.rows - index * self.chunk_rows]

    def read(self, start: int, stop: int) -> Array:
        """Return rows ``start`` to ``stop``; both must lie within the array."""
        out = self.allocate(stop - start)

        def fill(index: int) -> None:
            first = index * self.chunk_rows
            low, high = max(start, first), min(stop, first + self.chunk_rows)
            if high - low == self.chunk_rows:
                self.decode(index, out[low - start : high - start])
            else:
                out[low - start : high - start] = self.chunk(index)[low - first : high - first]

        count = layout.chunk_count(stop, self.chunk_rows)
        parallel_map(fill, range(start // self.chunk_rows, count), self.folder.readers)
        return out

    def gather(self, rows: IntArray) -> Array:
        """Return the given rows [n] in their order; every needed chunk is decoded once."""
        out = self.allocate(len(rows))
        owner = rows // self.chunk_rows

        def fill(index: int) -> None:
            rows_in_chunk = owner == index
            out[rows_in_chunk] = self.chunk(index)[rows[rows_in_chunk] - index * self.chunk_rows]

        parallel_map(fill, np.unique(owner).tolist(), self.folder.readers)
        return out

    def decode(self, index: int, out: Array) -> None:
        """Decode a chunk into ``out`` [chunk_rows, ...], with the padding of the last chunk.

        Raises
        ------
        CorruptDatasetError
            As :meth:`chunk`.
        """
        data = self._checked_bytes(index)
        if problem := chunks.decode_chunk(data, out):
            raise self.damage_error(index, f"{self.chunk_path(index)} {problem}")

    def checked_chunk_bytes(self, index: int) -> bytes:
        """Return the checked bytes of a chunk's file, which state the decoded size of its shape.

        Raises
        ------
        CorruptDatasetError
            The file is missing or altered, or states another decoded size.
        """
        data = self._checked_bytes(index)
        expected = self.chunk_rows * self.row_bytes
        if chunks.stated_size(data) != expected:
            what = (
                f"{self.chunk_path(index)} does not state the {expected} decoded bytes of a chunk"
            )
            raise self.damage_error(index, what)
        return data

    def allocate(self, rows: int) -> Array:
        """Return memory for ``rows`` rows, uninitialised; raises if there is not as much."""
        resource_limits.check_memory(rows * self.row_bytes, f"{rows:,} rows of {self.name}")
        return np.empty((rows, *self.spec.shape[1:]), chunks.little_endian(self.spec.dtype))

    def _checked_bytes(self, index: int) -> bytes:
        path = self.chunk_path(index)
        record = self.files.get(path)
        if record is None:
            raise self.damage_error(index, f"the manifest does not list {path}")
        try:
            data = self.folder.read(path, record)
        except FileNotFoundError:
            raise self.damage_error(index, f"{path} is missing") from None
        except NotPlainError as error:
            raise self.damage_error(index, error.problem) from None
        if len(data) != record.size:
            size = self.folder.size(path)
            raise self.damage_error(index, f"{path} has {size} bytes instead of {record.size}")
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise self.damage_error(index, f"{path} does not match its sha256")
        return data

    def damage_error(self, index: int, what: str) -> CorruptDatasetError:
        """Return an error that names the array and the rows of chunk ``index``."""
        return CorruptDatasetError(
            f"{self.name} {self.row_range_text(index)} of the dataset at {self.folder.address!r} "
            f"cannot be trusted: {what}; run verify and get a fresh copy"
        )

    def row_range_text(self, index: int) -> str:
        """Return the rows of a chunk as text, such as ``rows 0 to 8191``."""
        first = index * self.chunk_rows
        return f"rows {first} to {min(first + self.chunk_rows, self.rows) - 1}"


def open_arrays(
    folder: Files, arrays: Mapping[str, ArraySpec], files: Mapping[str, FileRecord]
) -> dict[str, StoredArray]:
    """Return the arrays of a manifest by full name, after checking all Zarr metadata files.

    Raises
    ------
    CorruptDatasetError
        A metadata file is missing, altered, or not what the manifest's array table demands.
    """
    groups = {name.split("/")[0] for name in arrays}
    nodes = ["", *(f"{node}/" for node in (*sorted(groups), *arrays))]
    paths = [f"{node}{layout.ZARR_JSON}" for node in nodes]
    texts = parallel_map(lambda path: _checked_metadata(folder, path, files), paths, folder.readers)
    metadata = dict(zip(paths, texts, strict=True))
    stored = {}
    for name, spec in arrays.items():
        path = f"{name}/{layout.ZARR_JSON}"
        rows = layout.parse_array_metadata(metadata.pop(path), spec)
        if rows is None:
            raise _bad_metadata(folder, path, "it does not describe the array of the manifest")
        stored[name] = StoredArray(name, spec, rows, folder, files)
    for path, text in metadata.items():
        if not layout.is_group_metadata(text):
            raise _bad_metadata(folder, path, "it is not that of a plain group")
    _check_grids(folder, stored)
    _check_counts(folder, stored, files)
    check_ranges(folder, stored)
    return stored


def _check_grids(folder: Files, stored: Mapping[str, StoredArray]) -> None:
    for groups in (("steps",), ("final", "episodes")):
        sizes = {a.chunk_rows for name, a in stored.items() if name.split("/")[0] in groups}
        if len(sizes) > 1:
            where = f"{groups[0]}/*/{layout.ZARR_JSON}"
            raise _bad_metadata(folder, where, "the arrays do not share one row grid")


def _check_counts(
    folder: Files, stored: Mapping[str, StoredArray], files: Mapping[str, FileRecord]
) -> None:
    """Check, before any work, that chunks are as many as files."""
    record = Counter(path.partition("/c/")[0] for path in files if "/c/" in path)
    for name, array in stored.items():
        if record[name] != array.chunk_count:
            what = f"it has {array.chunk_count:,} chunks where the manifest lists {record[name]:,}"
            raise _bad_metadata(folder, f"{name}/{layout.ZARR_JSON}", what)


def check_ranges(folder: Files, stored: Mapping[str, StoredArray]) -> None:
    """Check, before any work, that ranges of rows fit into memory.

    Raises
    ------
    CorruptDatasetError
        One of them decodes to more than a reader accepts.
    """
    ranges: Counter[str] = Counter()
    for name, array in stored.items():
        ranges[name if name.startswith("masks/") else name.split("/")[0]] += (
            array.row_bytes * array.chunk_rows
        )
    for group, size in ranges.items():
        if size > resource_limits.MAX_RANGE_BYTES:
            most = resource_limits.MAX_RANGE_BYTES
            what = f"a range of rows decodes to {size:,} bytes, over {most:,}"
            raise _bad_metadata(folder, f"{group}/{layout.ZARR_JSON}", what)


def _checked_metadata(folder: Files, path: str, files: Mapping[str, FileRecord]) -> bytes:
    record = files.get(path)
    if record is None or record.size > resource_limits.MAX_METADATA_BYTES:
        raise _bad_metadata(folder, path, "the manifest does not list it, or as too large")
    try:
        data = folder.read(path, record)
    except FileNotFoundError:
        raise _bad_metadata(folder, path, "it is missing") from None
    except NotPlainError as error:
        raise _bad_metadata(folder, path, error.problem) from None
    if hashlib.sha256(data).hexdigest() != record.sha256:
        raise _bad_metadata(folder, path, "it does not match its sha256")
    return data


def _bad_metadata(folder: Files, path: str, what: str) -> CorruptDatasetError:
    return CorruptDatasetError(
        f"{path} of the dataset at {folder.address!r} cannot be trusted: {what}; "
        "run verify and get a fresh copy"
    )
