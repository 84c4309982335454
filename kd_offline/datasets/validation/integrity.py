"""``verify``: check every file, chunk and digest of a dataset, and the rules of its values."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from pathlib import Path

import numpy as np

from kd_offline.datasets.format import layout, resource_limits
from kd_offline.datasets.reading.array_reader import StoredArray
from kd_offline.datasets.reading.shards import ShardedArray, Shards, gather_rows, open_all_arrays
from kd_offline.datasets.storage.addresses import is_remote
from kd_offline.datasets.storage.manifest_file import read_manifest, reread_manifest_text
from kd_offline.datasets.storage.safe_open import NotPlainError
from kd_offline.datasets.storage.sources import open_files
from kd_offline.datasets.storage.store import Files, Folder, size_and_sha256
from kd_offline.datasets.validation.rules import (
    DatasetTotals,
    RowRange,
    check_episodes,
    check_final,
    check_mask,
    check_steps,
    episode_bounds,
)
from kd_offline.errors import CorruptDatasetError, DatasetError, StorageError
from kd_offline.execution.threads import Threads
from kd_offline.schemas.dataset import DatasetManifest, FileRecord, Problem, VerifyReport
from kd_offline.types import Array

_MIN_THREADS = 2
_FILES_PER_TASK = 16  # that a thread takes at once
_MOST_UNLISTED = 100


def verify(
    path: str | Path, *, quick: bool = False, manifest: DatasetManifest | None = None
) -> VerifyReport:
    """Check a dataset and return everything that is wrong with it.

    Parameters
    ----------
    path
        Folder of the dataset.
    quick
        Check files, sizes and sha256 only; otherwise every value is decoded as well, content
        digests are recomputed and the semantic rules of docs/format.md are applied.
    manifest
        The dataset's manifest, if it was read before; the files are then compared with it.

    Raises
    ------
    NotADatasetError, UnfinishedError, FormatVersionError
        There is no finished dataset of a known format at ``path``.
    """
    folder = open_files(path, cached=False)  # the cache may hold files of an earlier state
    try:
        manifest = read_manifest(folder) if manifest is None else manifest
    except CorruptDatasetError as error:
        return unusable_manifest_report(error)
    files = {file.path: file for file in manifest.files}
    try:
        arrays = open_all_arrays(folder, manifest, cached=False)
    except CorruptDatasetError as error:
        problem = Problem(where=layout.ZARR_JSON, what=str(error))
        return _report([problem, *_check_files(folder, files, {}, hash_chunks=True)])
    problems, decodable = _file_problems(folder, manifest, arrays, quick=quick)
    if decodable and not quick:
        problems += check_contents(manifest, arrays)
    return _report([*problems, *_replaced_manifest(folder, manifest)])


def _file_problems(
    folder: Files, manifest: DatasetManifest, arrays: Mapping[str, StoredArray], *, quick: bool
) -> tuple[list[Problem], bool]:
    """Return what is wrong with the files here and in all shards; False: no value can be read."""
    files = {file.path: file for file in manifest.files}
    held = {name: array for name, array in arrays.items() if manifest.holds(name)}
    problems = list(_check_files(folder, files, held, hash_chunks=quick))
    if manifest.format_version[1] <= layout.NEWEST_VERSION[1]:  # later ones may have more
        problems += _files_of_no_array(files, held)
    bomb = _expansion_problem(folder, held)
    if bomb is not None:
        problems.append(bomb)
    decodable = bomb is None
    sharded = [array for array in arrays.values() if isinstance(array, ShardedArray)]
    for index in range(len(manifest.shards)):
        found, good = _shard_problems(sharded[0].shards, index, quick=quick)
        problems += found
        decodable &= good
    return problems, decodable


def _shard_problems(shards: Shards, index: int, *, quick: bool) -> tuple[list[Problem], bool]:
    """Return what is wrong with the files of a shard, and whether its values can be read."""
    where = f"shard {index + 1} ({shards.records[index].address})"
    try:
        shard = shards.opened(index)
    except (DatasetError, StorageError) as error:
        return [Problem(where=where, what=str(error))], False
    found, good = _file_problems(shard.files, shard.manifest, shard.arrays, quick=quick)
    return [Problem(where=f"{where}: {p.where}", what=p.what) for p in found], good


def _replaced_manifest(folder: Files, manifest: DatasetManifest) -> Iterator[Problem]:
    """Yield a problem if a server shows another manifest than the one that was checked."""
    if is_remote(folder.address):
        try:
            reread_manifest_text(folder, manifest)
        except (DatasetError, StorageError) as error:
            yield Problem(where=layout.MANIFEST, what=str(error))


def unusable_manifest_report(error: CorruptDatasetError) -> VerifyReport:
    """Return the report of a dataset whose manifest cannot be used."""
    return _report([Problem(where=layout.MANIFEST, what=str(error))])


def _report(problems: list[Problem]) -> VerifyReport:
    return VerifyReport(ok=not problems, problems=tuple(problems))


def _check_files(
    folder: Files,
    files: Mapping[str, FileRecord],
    arrays: Mapping[str, StoredArray],
    *,
    hash_chunks: bool,
) -> Iterator[Problem]:
    """Compare the folder with the manifest's file table, in both directions.

    Without ``hash_chunks`` chunk files are skipped here, since decoding checks them.
    """
    labels = _chunk_labels(arrays)
    chosen = [file for file in files.values() if hash_chunks or file.path not in labels]
    with Threads(max(_MIN_THREADS, folder.readers)) as threads:
        groups = [
            chosen[start : start + _FILES_PER_TASK]
            for start in range(0, len(chosen), _FILES_PER_TASK)
        ]
        problems = threads.map(lambda group: [_file_problem(folder, f) for f in group], groups)
        yield from _unlisted_files(folder, files)
        for file, what in zip(chosen, chain.from_iterable(problems), strict=True):
            if what:
                yield Problem(where=labels.get(file.path, file.path), what=what)


def _unlisted_files(folder: Files, files: Mapping[str, FileRecord]) -> Iterator[Problem]:
    strays = sorted(set(folder.files() or ()) - files.keys() - layout.FILES_WITHOUT_CONTENT)
    for path in strays[:_MOST_UNLISTED]:
        what = "this file is not in the manifest's file table"
        if path.rpartition("/")[2] in layout.ZARR_V2:
            what = (
                "this is metadata of Zarr version 2, which other programs may read and which can "
                "make them run code"
            )
        # File names may hold characters that cannot be printed.
        yield Problem(where=path if path.isprintable() else ascii(path), what=what)
    if len(strays) > _MOST_UNLISTED:
        what = f"{len(strays) - _MOST_UNLISTED} more files are not in the manifest's file table"
        yield Problem(where=folder.address, what=what)


def _files_of_no_array(
    files: Mapping[str, FileRecord], arrays: Mapping[str, StoredArray]
) -> Iterator[Problem]:
    metadata = {f"{node}{layout.ZARR_JSON}" for node in _node_prefixes(arrays)}
    for path in sorted(files.keys() - _chunk_labels(arrays).keys() - metadata):
        yield Problem(where=path, what="this file belongs to no array of the manifest")


def _node_prefixes(arrays: Iterable[str]) -> Iterator[str]:
    """Yield the path prefixes of the root, the groups and the arrays."""
    yield ""
    for name in arrays:
        yield f"{name.partition('/')[0]}/"
        yield f"{name}/"


def _expansion_problem(folder: Files, arrays: Mapping[str, StoredArray]) -> Problem | None:
    """Return a problem if decoding would need far more memory than the files on disk explain."""
    if not isinstance(folder, Folder):  # others never decode a file of another size
        return None
    stored = sum(_size(folder, path) for path in _chunk_labels(arrays))
    decoded = sum(
        array.chunk_count * array.chunk_rows * array.row_bytes for array in arrays.values()
    )
    what = resource_limits.expansion_problem(decoded, stored)
    return None if what is None else Problem(where=folder.address, what=what)


def _size(folder: Folder, path: str) -> int:
    try:
        return folder.size(path) or 0
    except (CorruptDatasetError, StorageError):
        return 0


def _chunk_labels(arrays: Mapping[str, StoredArray]) -> dict[str, str]:
    """Return path -> array and rows as text, for every chunk file that must exist."""
    return {
        array.chunk_path(index): f"{name} {array.row_range_text(index)}"
        for name, array in arrays.items()
        for index in range(array.chunk_count)
    }


def _file_problem(folder: Files, file: FileRecord) -> str | None:
    try:
        size, digest = size_and_sha256(folder, file)
    except FileNotFoundError:
        return f"{file.path} is missing"
    except NotPlainError as error:
        return error.problem
    except StorageError as error:
        return str(error)
    if size != file.size:
        return f"{file.path} has {size} bytes instead of {file.size}"
    return None if digest == file.sha256 else f"{file.path} does not match its sha256"


def check_contents(
    manifest: DatasetManifest, arrays: Mapping[str, StoredArray]
) -> Iterator[Problem]:
    """Yield everything that is wrong with the values.

    Every chunk is decoded once. Two ranges of rows and the episode table are in memory.

    Raises
    ------
    UsageError
        The episode table does not fit into memory.
    """
    return _ContentCheck(manifest, arrays).problems()


class _ContentCheck:
    """One pass over all values of a dataset: decode, digest, rules."""

    def __init__(self, manifest: DatasetManifest, arrays: Mapping[str, StoredArray]) -> None:
        self._manifest = manifest
        self._groups: dict[str, list[StoredArray]] = {group: [] for group in layout.GROUPS}
        for name, array in arrays.items():
            self._groups[name.split("/")[0]].append(array)
        self._digests = {name: hashlib.sha256() for name in arrays}

    def problems(self) -> Iterator[Problem]:
        table: dict[str, Array] = {}
        yield from self._read_table(table)
        yield from check_episodes(self._manifest, table)
        yield from self._final()
        for array in self._groups["masks"]:
            for index in range(array.chunk_count):
                part, problems = self._part([(array, _read_or_error(array, index))], index)
                yield from chain(problems, check_mask(part))
        yield from self._steps(table)
        yield from self._wrong_digests()

    def _final(self) -> Iterator[Problem]:
        """Check the values after the last steps; every shard is opened once for all arrays."""
        arrays = self._groups["final"]
        for index in range(arrays[0].chunk_count if arrays else 0):
            for array, values in zip(arrays, _read_together(arrays, index), strict=True):
                part, problems = self._part([(array, values)], index)
                yield from chain(problems, check_final(part))

    def _read_table(self, table: dict[str, Array]) -> Iterator[Problem]:
        arrays = self._groups["episodes"]
        resource_limits.check_memory(
            sum(a.rows * a.row_bytes for a in arrays), "the tables of the episodes"
        )
        for array in arrays:
            parts: list[Array] = []
            for index in range(array.chunk_count):
                part, problems = self._part([(array, _read_or_error(array, index))], index)
                yield from problems
                parts += part.arrays.values()
            if len(parts) == array.chunk_count:
                table[_bare_name(array)] = np.concatenate(parts)

    def _steps(self, table: Mapping[str, Array]) -> Iterator[Problem]:
        """Check the steps range by range; the next range is read while one is checked."""
        arrays = sorted(self._groups["steps"], key=lambda array: -array.row_bytes)
        bounds = episode_bounds(table, arrays[0].rows)
        totals = DatasetTotals(self._manifest, bounds)
        levels = _noise_levels(self._manifest, table)
        with ThreadPoolExecutor(max(_MIN_THREADS, arrays[0].folder.readers)) as pool:

            def begin(index: int) -> list[Future[Array | Exception]]:
                return [pool.submit(_read_or_error, array, index) for array in arrays]

            next_chunks = begin(0)
            for index in range(arrays[0].chunk_count):
                read = [(a, f.result()) for a, f in zip(arrays, next_chunks, strict=True)]
                counting = [pool.submit(self._count, a, v, totals) for a, v in read]
                if index + 1 < arrays[0].chunk_count:
                    next_chunks = begin(index + 1)
                part, problems = self._part(read, index, bounds, levels, counted=True)
                yield from chain(problems, check_steps(part))
                totals.add(part.arrays, part.first)
                for done in counting:
                    done.result()
        yield from totals.problems(table)

    def _part(
        self,
        read: list[tuple[StoredArray, Array | Exception]],
        index: int,
        bounds: Array | None = None,
        levels: Array | None = None,
        *,
        counted: bool = False,
    ) -> tuple[RowRange, list[Problem]]:
        """Return the undamaged arrays as a row range, and the problems of the others."""
        values, problems = {}, []
        for array, result in read:
            if isinstance(result, Exception):
                where = f"{array.name} {array.row_range_text(index)}"
                problems.append(Problem(where=where, what=str(result)))
                self._digests.pop(array.name, None)
            else:
                values[_bare_name(array)] = result
                if not counted:
                    self._count(array, result)
        first = index * read[0][0].chunk_rows
        return RowRange(values, first, self._manifest, bounds, levels), problems

    def _count(
        self, array: StoredArray, values: Array | Exception, totals: DatasetTotals | None = None
    ) -> None:
        """Add a chunk to its array's digest and moments, unless an earlier chunk was damaged."""
        digest = self._digests.get(array.name)
        if isinstance(values, Exception) or digest is None:
            return
        digest.update(np.ascontiguousarray(values).data)
        if totals is not None:
            totals.measure(array.name, values)

    def _wrong_digests(self) -> Iterator[Problem]:
        for name, values in self._digests.items():
            spec = self._manifest.arrays[name]
            if layout.content_digest(spec.dtype, spec.shape, values.hexdigest()) != spec.digest:
                yield Problem(where=name, what="the values do not match the content digest")


def _read_or_error(array: StoredArray, index: int) -> Array | Exception:
    try:
        return array.chunk(index)
    except (CorruptDatasetError, StorageError) as error:
        return error


def _read_together(arrays: Sequence[StoredArray], index: int) -> list[Array | Exception]:
    """Return a chunk of each array of one grid, or its error."""
    first = index * arrays[0].chunk_rows
    rows = np.arange(first, min(first + arrays[0].chunk_rows, arrays[0].rows))
    sharded = [array for array in arrays if isinstance(array, ShardedArray)]
    if len(sharded) == len(arrays):
        with suppress(CorruptDatasetError, StorageError):
            return list(gather_rows(sharded, {"final": rows}))
    return [_read_or_error(array, index) for array in arrays]


def _bare_name(array: StoredArray) -> str:
    return array.name.partition("/")[2]


def _noise_levels(manifest: DatasetManifest, table: Mapping[str, Array]) -> Array | None:
    """Return the noise level of each episode, float32 [E], or None if it is not known."""
    if "noise_level" in table:
        levels = table["noise_level"]
        return levels if ((levels >= 0) & (levels <= 1)).all() else None
    none = not manifest.recording.noise and "length" in table
    return np.zeros(len(table["length"]), np.float32) if none else None
