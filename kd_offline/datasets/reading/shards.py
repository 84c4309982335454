"""Arrays whose rows lie in shards: other datasets, which are opened when rows of them are needed.

A dataset of shards reads as if it held its steps itself: the same arrays, in the chunks that a
writer would have made of them. So whoever reads it in chunks reads the same rows together.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from kd_offline.datasets.format import chunks, layout
from kd_offline.datasets.reading.array_reader import StoredArray, check_ranges, open_arrays
from kd_offline.datasets.storage.addresses import is_remote
from kd_offline.datasets.storage.manifest_file import read_manifest
from kd_offline.datasets.storage.shard_addresses import resolve_shard
from kd_offline.datasets.storage.sources import open_files
from kd_offline.datasets.storage.store import Files
from kd_offline.datasets.storage.threads import parallel_map
from kd_offline.errors import CorruptDatasetError, NotADatasetError
from kd_offline.schemas.dataset import ArraySpec, DatasetManifest, ShardRecord
from kd_offline.types import Array, IntArray

MOST_OPEN = 512  # as many shards of 16 steps as share a chunk of the whole
"""Shards that are open at once; each takes about 0.1 MB."""
MOST_NESTED = 3
"""Levels of shards that list shards."""
_REMOTE_READERS = 16
_OF_PROCESS = ("_open", "_lock")
_LEVEL = 1  # of zstd, for chunks that are made of several


@dataclass(frozen=True, slots=True)
class OpenShard:
    """A shard that was opened and compared with its entry in the manifest of the whole."""

    files: Files
    manifest: DatasetManifest
    arrays: Mapping[str, StoredArray]


class Shards:
    """The shards of a dataset. At most ``MOST_OPEN`` are open, those that were used last."""

    def __init__(self, whole: Files, manifest: DatasetManifest, cached: bool, depth: int) -> None:
        self.whole, self.records = whole.address, manifest.shards
        elsewhere = any(is_remote(shard.address) for shard in self.records)
        self.readers = max(whole.readers, _REMOTE_READERS if elsewhere else 1)
        self._cached = cached
        self._arrays = {n: s for n, s in manifest.arrays.items() if not manifest.holds(n)}
        self._depth = depth
        self._open: OrderedDict[int, Future[OpenShard]] = OrderedDict()
        self._lock = threading.Lock()
        self.starts = {
            "steps": _starts([shard.steps for shard in self.records]),
            "final": _starts([shard.episodes for shard in self.records]),
        }

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs, which opens shards itself."""
        return {name: value for name, value in vars(self).items() if name not in _OF_PROCESS}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self._open, self._lock = OrderedDict(), threading.Lock()

    def opened(self, index: int) -> OpenShard:
        """Return a shard; opens it at most once at a time, whatever the number of threads.

        Raises
        ------
        CorruptDatasetError
            It is not there, or not the one that the manifest lists.
        UsageError
            The manifest leads to a place that the user does not allow.
        """
        with self._lock:
            future = self._open.get(index)
            is_first = future is None
            if future is None:
                future = self._open[index] = Future()
            self._open.move_to_end(index)
            while len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)
        if is_first:
            try:
                future.set_result(self._opened(index))
            except BaseException as error:
                with self._lock:
                    self._open.pop(index, None)
                future.set_exception(error)
        return future.result()

    def levels(self) -> int:
        """Return how many levels of shards there are; opens all of them."""
        inner = (self.opened(index).arrays["steps/reward"] for index in range(len(self.records)))
        below = (array.shards.levels() for array in inner if isinstance(array, ShardedArray))
        return 1 + max(below, default=0)

    def _opened(self, index: int) -> OpenShard:
        record = self.records[index]
        if self._depth > MOST_NESTED:
            what = f"shards of shards go deeper than {MOST_NESTED} levels"
            raise self._refused(index, record.address, what)
        address = resolve_shard(self.whole, record.address)
        files = open_files(address, cached=self._cached)
        try:
            manifest = read_manifest(files)
        except NotADatasetError as error:
            raise self._refused(index, address, "no dataset is there") from error
        if problem := self._difference(record, manifest):
            raise self._refused(index, address, problem)
        arrays = open_all_arrays(files, manifest, cached=self._cached, depth=self._depth + 1)
        return OpenShard(files, manifest, arrays)

    def _difference(self, record: ShardRecord, manifest: DatasetManifest) -> str | None:
        """Return how a dataset differs from the shard that is listed, or None."""
        if manifest.id != record.id:
            return f"it has the id {manifest.id[:19]} instead of {record.id[:19]}"
        if manifest.manifest_digest != record.manifest_digest:
            return "its content is the same, but its manifest was changed"
        figures = manifest.statistics
        stated = (record.episodes, record.steps, record.bytes)
        if stated != (figures.episodes, figures.steps, manifest.size_bytes):
            return "it has another size than is listed"
        for name, spec in self._arrays.items():
            own = manifest.arrays.get(name)
            if own is None or _kind(own) != _kind(spec):
                return f"its {name} is not that of the whole"
        return None

    def _refused(self, index: int, address: str, what: str) -> CorruptDatasetError:
        return CorruptDatasetError(
            f"shard {index + 1} of the dataset at {self.whole!r} cannot be read from {address!r}: "
            f"{what}; put back the shard that is listed, or list the shards anew"
        )


@dataclass(frozen=True, slots=True)
class ShardedArray(StoredArray):
    """An array of ``steps`` or ``final`` whose rows lie in shards, one after the other."""

    shards: Shards

    @property
    def starts(self) -> IntArray:
        """First row of every shard, and the end of the last one, int64."""
        return self.shards.starts[self.name.partition("/")[0]]

    def part(self, index: int) -> StoredArray:
        """Return the rows of one shard; raises as :meth:`Shards.opened`."""
        return self.shards.opened(index).arrays[self.name]

    def read(self, start: int, stop: int) -> Array:
        """Return rows ``start`` to ``stop``; both must lie within the array."""
        out = self.allocate(stop - start)
        parallel_map(
            lambda piece: self._fill(piece, start, out),
            list(self._pieces(start, stop)),
            self.shards.readers,
        )
        return out

    def gather(self, rows: IntArray) -> Array:
        """Return the given rows [n] in their order; every needed chunk is decoded once."""
        return gather_rows([self], {self.name.partition("/")[0]: rows})[0]

    def decode(self, index: int, out: Array) -> None:
        """Decode the rows of a chunk into ``out`` [chunk_rows, ...], zeros behind the last row."""
        first = index * self.chunk_rows
        stop = min(first + self.chunk_rows, self.rows)
        for piece in self._pieces(first, stop):
            self._fill(piece, first, out)
        out[stop - first :] = 0

    def checked_chunk_bytes(self, index: int) -> bytes:
        """Return a chunk, encoded from the checked values of the shards."""
        out = self.allocate(self.chunk_rows)
        self.decode(index, out)
        return chunks.encode_chunk(out, _LEVEL)

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Yield index, first row and end, within the shard, of every shard with such rows."""
        starts = self.starts
        first = int(np.searchsorted(starts, start, side="right")) - 1
        for index in range(first, len(starts) - 1):
            base, end = int(starts[index]), int(starts[index + 1])
            if base >= stop:
                return
            yield index, max(start, base) - base, min(stop, end) - base

    def _fill(self, piece: tuple[int, int, int], first: int, out: Array) -> None:
        index, low, high = piece
        at = int(self.starts[index]) + low - first
        out[at : at + high - low] = self.part(index).read(low, high)


def gather_rows(arrays: Sequence[ShardedArray], rows: Mapping[str, IntArray | None]) -> list[Array]:
    """Return rows of several arrays, in the order of each; every shard is opened once.

    ``rows``: for ``steps`` and ``final`` the rows [n] that are wanted, None for all of them.
    """
    if not arrays:
        return []
    shards = arrays[0].shards
    wanted = {name.partition("/")[0] for name in (array.name for array in arrays)}
    orders = {group: _by_shard(rows[group], shards.starts[group]) for group in wanted}
    out = []
    for array in arrays:
        chosen = rows[array.name.partition("/")[0]]
        out.append(array.allocate(array.rows if chosen is None else len(chosen)))

    def fill(index: int) -> None:
        for array, values in zip(arrays, out, strict=True):
            group = array.name.partition("/")[0]
            chosen, places = rows[group], orders[group](index)
            start = int(array.starts[index])
            if chosen is None:
                values[places] = array.part(index).read(0, int(array.starts[index + 1]) - start)
            elif len(values[places]):
                values[places] = array.part(index).gather(chosen[places] - start)

    touched = {k for group in wanted for k in _touched(rows[group], shards.starts[group])}
    parallel_map(fill, sorted(touched), shards.readers)
    return out


def open_all_arrays(
    files: Files, manifest: DatasetManifest, *, cached: bool = True, depth: int = 1
) -> dict[str, StoredArray]:
    """Return the arrays of a dataset by full name, also those that lie in its shards.

    The metadata of what is held here are checked; shards are opened when their rows are needed.

    Parameters
    ----------
    files, manifest
        Of the dataset.
    cached
        Whether shards are read through the user's cache, as by :func:`open_files`.
    depth
        How many datasets lie above these shards, with this one.

    Raises
    ------
    CorruptDatasetError
        A metadata file is missing, altered, or not what the manifest's array table demands.
    """
    table = {file.path: file for file in manifest.files}
    held = {name: spec for name, spec in manifest.arrays.items() if manifest.holds(name)}
    stored = open_arrays(files, held, table)
    if not manifest.shards:
        return stored
    shards = Shards(files, manifest, cached, depth)
    rows = {
        "steps": _step_chunk_rows(manifest.arrays),
        "final": stored["episodes/length"].chunk_rows,
    }
    arrays = {
        name: stored[name]
        if name in stored
        else ShardedArray(name, spec, rows[name.partition("/")[0]], files, {}, shards)
        for name, spec in manifest.arrays.items()
    }
    check_ranges(files, arrays)
    return arrays


def _step_chunk_rows(arrays: Mapping[str, ArraySpec]) -> int:
    """Return the rows of a chunk that a writer chooses for the ``steps/*`` of a dataset."""
    specs = [spec for name, spec in arrays.items() if name.startswith("steps/")]
    sizes = [chunks.little_endian(s.dtype).itemsize * math.prod(s.shape[1:]) for s in specs]
    return min(layout.chunk_rows(max(sizes), sum(sizes)), specs[0].shape[0])


def _touched(rows: IntArray | None, starts: IntArray) -> Iterable[int]:
    """Return the shards that hold some of ``rows``."""
    if rows is None:
        return range(len(starts) - 1)
    owners: list[int] = np.unique(np.searchsorted(starts, rows, side="right") - 1).tolist()
    return owners


def _by_shard(rows: IntArray | None, starts: IntArray) -> Callable[[int], IntArray | slice]:
    """Return a function from a shard to the places of its rows among ``rows``."""
    if rows is None:
        return lambda index: slice(int(starts[index]), int(starts[index + 1]))
    owner = np.searchsorted(starts, rows, side="right") - 1
    order = np.argsort(owner, kind="stable")
    bounds = np.searchsorted(owner[order], np.arange(len(starts)))
    return lambda index: order[bounds[index] : bounds[index + 1]]


def _starts(counts: Sequence[int]) -> IntArray:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _kind(spec: ArraySpec) -> tuple[object, ...]:
    return spec.dtype, spec.axes, spec.shape[1:]
