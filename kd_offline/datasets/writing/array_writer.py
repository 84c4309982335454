"""Write one growing array: takes rows, writes whole chunk files, computes digest and moments."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from kd_offline.datasets.format import chunks, layout
from kd_offline.datasets.format.layout import ArrayRule
from kd_offline.datasets.storage.store import Folder
from kd_offline.datasets.writing.statistics import Moments
from kd_offline.errors import CorruptDatasetError, Remedy, UsageError
from kd_offline.schemas.dataset import ArraySpec, FileRecord
from kd_offline.types import Array


@dataclass(slots=True)
class ArrayWriter:
    """Writes one array chunk by chunk.

    A chunk file is only replaced by one that begins with the same rows, so what a journal lists
    stays valid at every instant.
    """

    name: str
    dtype: str
    row_shape: tuple[int, ...]  # shape of one row
    chunk_rows: int
    rule: ArrayRule
    folder: Folder
    shrink_single_chunk: bool = True  # an only chunk has no padding
    stored: bool = True  # else the rows lie elsewhere, and are only measured
    rows: int = 0
    files: dict[str, FileRecord] = field(default_factory=dict)
    moments: Moments | None = None
    _flushed: int = 0  # rows at the last write of an incomplete chunk
    _buffer: Array = field(init=False)
    _sha256: hashlib._Hash = field(init=False, default_factory=hashlib.sha256)

    def __post_init__(self) -> None:
        self._buffer = np.zeros(
            (self.chunk_rows, *self.row_shape), chunks.little_endian(self.dtype)
        )
        if self.name.startswith("steps/") and self.dtype == "float32":
            self.moments = Moments()

    def append(self, values: Array) -> None:
        """Add ``values`` [n, *row_shape], cast if needed, and write every chunk that is full."""
        if values.dtype != self._buffer.dtype:
            values = self._cast(values)
        start = 0
        while start < len(values):
            filled = self.rows % self.chunk_rows
            take = min(len(values) - start, self.chunk_rows - filled)
            part = values[start : start + take]
            if take < self.chunk_rows:
                self._buffer[filled : filled + take] = part
            self.rows += take
            start += take
            if filled + take == self.chunk_rows:
                full = part if take == self.chunk_rows else self._buffer
                self._count_in(full)
                self._write(self.rows // self.chunk_rows - 1, full)

    def flush(self) -> None:
        """Write the rows of an incomplete chunk; a later write replaces that file."""
        filled = self.rows % self.chunk_rows
        if filled and self._flushed != self.rows:
            self._buffer[filled:] = 0
            self._write(self.rows // self.chunk_rows, self._buffer)
            self._flushed = self.rows

    def finish(self) -> ArraySpec:
        """Write the last chunk and the metadata; return the array's entry in the manifest."""
        filled = self.rows % self.chunk_rows
        if filled:
            self._count_in(self._buffer[:filled])
            if (
                self.shrink_single_chunk and self.rows < self.chunk_rows
            ):  # an only chunk has no padding
                self.chunk_rows = self.rows
                self._write(0, self._buffer[:filled])
            else:
                self.flush()
        shape = (self.rows, *self.row_shape)
        metadata = layout.array_metadata(
            self.dtype, shape, self.chunk_rows, self.rule.axes, self.rule.level
        )
        self._record(f"{self.name}/{layout.ZARR_JSON}", metadata)
        digest = layout.content_digest(self.dtype, shape, self._sha256.hexdigest())
        return ArraySpec(dtype=self.dtype, shape=shape, axes=self.rule.axes, digest=digest)

    def restore(self, rows: int) -> Iterator[Array]:
        """Read back the first ``rows`` rows of an earlier writer and yield them in parts."""
        for index in range(layout.chunk_count(rows, self.chunk_rows)):
            stored = self._read_chunk(index)
            part = stored[: rows - self.rows]
            if len(part) < min(self.chunk_rows, rows - self.rows):
                raise self._damage_error(index, "it has too few rows")
            if not chunks.all_finite(part):
                raise self._damage_error(index, "it has values that are not finite")
            self.rows += len(part)
            if len(part) == self.chunk_rows:
                self._count_in(part)
            else:
                self._buffer[: len(part)] = part
            yield part

    def _read_chunk(self, index: int) -> Array:
        path = layout.chunk_path(self.name, index, 1 + len(self.row_shape))
        try:
            data = self.folder.read(path)
        except FileNotFoundError:
            raise self._damage_error(index, "its file is missing") from None
        row_bytes = self._buffer[:1].nbytes
        rows = min(self.chunk_rows, (chunks.stated_size(data) or 0) // row_bytes)
        out = np.empty((rows, *self.row_shape), self._buffer.dtype)
        if problem := chunks.decode_chunk(data, out):
            raise self._damage_error(index, f"it {problem}")
        sha256 = hashlib.sha256(data).hexdigest()
        self.files[path] = FileRecord(path=path, size=len(data), sha256=sha256)
        return out

    def _damage_error(self, index: int, what: str) -> CorruptDatasetError:
        first = index * self.chunk_rows
        return CorruptDatasetError(
            f"the unfinished recording at {str(self.folder.root)!r} cannot be continued, because "
            f"chunk {index} of {self.name} (from row {first}) is damaged: {what}",
            Remedy("record again with", overwrite=True),
        )

    def _cast(self, values: Array) -> Array:
        with np.errstate(over="ignore"):  # check_block refuses overflow to infinity
            cast = values.astype(self._buffer.dtype)
        if values.dtype.kind in "iu" and not np.array_equal(cast, values):
            msg = f"{self.name} has values that do not fit {self.dtype}"
            raise UsageError(msg)
        return cast

    def _count_in(self, values: Array) -> None:
        """Add final values to digest and moments: each row once, in order, in fixed parts."""
        self._sha256.update(np.ascontiguousarray(values).data)
        if self.moments is not None:
            self.moments.add(values)

    def _write(self, index: int, rows: Array) -> None:
        if self.stored:
            path = layout.chunk_path(self.name, index, rows.ndim)
            self._record(path, chunks.encode_chunk(rows, self.rule.level))

    def _record(self, path: str, data: bytes) -> None:
        if self.stored:
            self.files[path] = self.folder.write(path, data)
