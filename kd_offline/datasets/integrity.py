"""``verify``: every file, every chunk, every digest, and the rules that values must keep."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from kd_offline.datasets import layout
from kd_offline.datasets.manifest import read_manifest
from kd_offline.datasets.rules import check_episodes, check_steps
from kd_offline.datasets.sources import open_files
from kd_offline.datasets.store import Files
from kd_offline.datasets.stored import StoredArray, open_arrays
from kd_offline.errors import CorruptDatasetError
from kd_offline.schemas.dataset import DatasetManifest, FileRecord, Problem, VerifyReport
from kd_offline.types import Array

# Left behind when a process dies between the manifest and the clean-up; they hold no data.
_HARMLESS = {layout.MANIFEST, layout.JOURNAL, layout.LOCK, layout.SCRATCH}
_THREADS = 2


def verify(path: str | Path, *, quick: bool = False) -> VerifyReport:
    """Check a dataset and name everything that is wrong with it.

    Parameters
    ----------
    path
        Folder of the dataset.
    quick
        Check files, sizes and sha256 only; otherwise every value is decoded as well, content
        digests are recomputed and the semantic rules of docs/format.md are applied.

    Raises
    ------
    NotADatasetError, UnfinishedError, FormatVersionError
        There is no finished dataset of a known format at ``path``.
    """
    folder = open_files(path)
    try:
        manifest = read_manifest(folder)
    except CorruptDatasetError as error:
        return _report([Problem(where=layout.MANIFEST, what=str(error))])
    files = {file.path: file for file in manifest.files}
    try:
        arrays = open_arrays(folder, manifest.arrays, files)
    except CorruptDatasetError as error:
        found = list(_check_files(folder, files, {}, hash_chunks=True))
        return _report(found or [Problem(where=layout.ZARR_JSON, what=str(error))])
    problems = list(_check_files(folder, files, arrays, hash_chunks=quick))
    if not quick:
        problems += _Values(manifest, arrays).check()
    return _report(problems)


def _report(problems: list[Problem]) -> VerifyReport:
    return VerifyReport(ok=not problems, problems=tuple(problems))


def _check_files(
    folder: Files,
    files: Mapping[str, FileRecord],
    arrays: Mapping[str, StoredArray],
    *,
    hash_chunks: bool,
) -> Iterator[Problem]:
    """Compare the folder with the manifest's file table, both ways.

    Without ``hash_chunks`` the chunk files are left to the decoding, which reads them anyway.
    """
    places = _chunk_places(arrays)
    for path in sorted(places.keys() - files.keys()):
        yield Problem(where=places[path], what=f"{path} is not in the manifest's file table")
    for path in sorted(set(folder.files() or ()) - files.keys() - _HARMLESS):
        yield Problem(where=path, what="this file is not in the manifest's file table")
    chosen = [file for file in files.values() if hash_chunks or file.path not in places]
    with ThreadPoolExecutor(max(_THREADS, folder.readers)) as pool:
        found = pool.map(lambda file: _file_problem(folder, file), chosen)
        for file, what in zip(chosen, found, strict=True):
            if what:
                place = places.get(file.path, file.path)
                yield Problem(where=place, what=f"{file.path} {what}")


def _chunk_places(arrays: Mapping[str, StoredArray]) -> dict[str, str]:
    """Return array and rows, in words, of every chunk file that must exist."""
    return {
        array.chunk_path(index): f"{name} {array.rows_of(index)}"
        for name, array in arrays.items()
        for index in range(array.chunk_count)
    }


def _file_problem(folder: Files, file: FileRecord) -> str | None:
    try:
        data = folder.read(file.path, file)
    except FileNotFoundError:
        return "is missing"
    if len(data) != file.size:
        return f"has {folder.size(file.path)} bytes instead of {file.size}"
    if hashlib.sha256(data).hexdigest() != file.sha256:
        return "does not match its sha256"
    return None


class _Values:
    """One pass over all values: decode, digest, rules; all steps arrays range by range."""

    def __init__(self, manifest: DatasetManifest, arrays: Mapping[str, StoredArray]) -> None:
        self._manifest = manifest
        self._arrays = arrays
        self._digests = {name: hashlib.sha256() for name in arrays}
        self._problems: list[Problem] = []

    def check(self) -> list[Problem]:
        """Return everything that is wrong with the values."""
        table = {}
        for name, array in self._arrays.items():
            if name.startswith("steps/"):
                continue
            parts = [self._decode(array, index) for index in range(array.chunk_count)]
            if name.startswith("episodes/") and all(part is not None for part in parts):
                table[name.split("/")[1]] = np.concatenate([p for p in parts if p is not None])
        self._problems += check_episodes(self._manifest, table)
        self._check_steps(_bounds(table.get("length")))
        self._problems += self._digest_problems()
        return self._problems

    def _check_steps(self, bounds: Array | None) -> None:
        steps = [array for name, array in self._arrays.items() if name.startswith("steps/")]
        names = [array.name.split("/")[1] for array in steps]
        with ThreadPoolExecutor(_THREADS) as pool:
            for index in range(steps[0].chunk_count):
                values = pool.map(lambda array, i=index: self._decode(array, i), steps)
                part = {n: v for n, v in zip(names, values, strict=True) if v is not None}
                first = index * steps[0].chunk_rows
                self._problems += check_steps(self._manifest, part, first, bounds)

    def _decode(self, array: StoredArray, index: int) -> Array | None:
        """Return a chunk and count it into its array's digest; None if it is damaged."""
        try:
            values = array.chunk(index)
        except CorruptDatasetError as error:
            where = f"{array.name} {array.rows_of(index)}"
            self._problems.append(Problem(where=where, what=str(error)))
            self._digests.pop(array.name, None)
            return None
        if array.name in self._digests:
            self._digests[array.name].update(np.ascontiguousarray(values).data)
        return values

    def _digest_problems(self) -> Iterator[Problem]:
        for name, values in self._digests.items():
            spec = self._manifest.arrays[name]
            if layout.content_digest(spec.dtype, spec.shape, values.hexdigest()) != spec.digest:
                yield Problem(where=name, what="the values do not match the content digest")


def _bounds(lengths: Array | None) -> Array | None:
    """Return the episode bounds, int64 [E + 1], if the lengths could be read."""
    if lengths is None:
        return None
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
