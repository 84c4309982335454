"""One pass over all values of a dataset: decode, digest, rules."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain

import numpy as np

from kd_offline.datasets.format import layout, resource_limits
from kd_offline.datasets.reading.array_reader import StoredArray
from kd_offline.datasets.validation.episode_rules import bounds, check_episodes
from kd_offline.datasets.validation.rules import Part, check_final, check_mask, check_steps
from kd_offline.datasets.validation.totals import Totals
from kd_offline.errors import CorruptDatasetError, StorageError
from kd_offline.schemas.dataset import DatasetManifest, Problem
from kd_offline.types import Array

_THREADS = 2


def check_contents(
    manifest: DatasetManifest, arrays: Mapping[str, StoredArray]
) -> Iterator[Problem]:
    """Yield everything that is wrong with the values.

    Every chunk is decoded once. Two ranges of rows are in memory, and the whole episode table.

    Raises
    ------
    UsageError
        The episode table does not fit into memory.
    """
    return _Pass(manifest, arrays).problems()


class _Pass:
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
        for group, check in (("final", check_final), ("masks", check_mask)):
            for array in self._groups[group]:
                for index in range(array.chunk_count):
                    part, found = self._part([(array, _read(array, index))], index)
                    yield from chain(found, check(part))
        yield from self._steps(table)
        yield from self._wrong_digests()

    def _read_table(self, table: dict[str, Array]) -> Iterator[Problem]:
        arrays = self._groups["episodes"]
        resource_limits.check_memory(
            sum(a.rows * a.row_bytes for a in arrays), "the tables of the episodes"
        )
        for array in arrays:
            parts: list[Array] = []
            for index in range(array.chunk_count):
                part, found = self._part([(array, _read(array, index))], index)
                yield from found
                parts += part.arrays.values()
            if len(parts) == array.chunk_count:
                table[_bare(array)] = np.concatenate(parts)

    def _steps(self, table: Mapping[str, Array]) -> Iterator[Problem]:
        """Check range by range; the next range is read while this one is checked."""
        arrays = sorted(self._groups["steps"], key=lambda array: -array.row_bytes)
        limits_of = bounds(table, arrays[0].rows)
        totals = Totals(self._manifest, limits_of)
        levels = _levels(self._manifest, table)
        with ThreadPoolExecutor(max(_THREADS, arrays[0].folder.readers)) as pool:

            def begin(index: int) -> list[Future[Array | Exception]]:
                return [pool.submit(_read, array, index) for array in arrays]

            coming = begin(0)
            for index in range(arrays[0].chunk_count):
                read = [(a, f.result()) for a, f in zip(arrays, coming, strict=True)]
                counting = [pool.submit(self._count, a, v, totals) for a, v in read]
                if index + 1 < arrays[0].chunk_count:
                    coming = begin(index + 1)
                part, found = self._part(read, index, limits_of, levels, counted=True)
                yield from chain(found, check_steps(part))
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
    ) -> tuple[Part, list[Problem]]:
        """Return the arrays that are whole as a part, and what is wrong with the others."""
        values, problems = {}, []
        for array, result in read:
            if isinstance(result, Exception):
                where = f"{array.name} {array.rows_of(index)}"
                problems.append(Problem(where=where, what=str(result)))
                self._digests.pop(array.name, None)
            else:
                values[_bare(array)] = result
                if not counted:
                    self._count(array, result)
        first = index * read[0][0].chunk_rows
        return Part(values, first, self._manifest, bounds, levels), problems

    def _count(
        self, array: StoredArray, values: Array | Exception, totals: Totals | None = None
    ) -> None:
        """Count a chunk into its array's digest and figures, unless one before was damaged."""
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


def _read(array: StoredArray, index: int) -> Array | Exception:
    try:
        return array.chunk(index)
    except (CorruptDatasetError, StorageError) as error:
        return error


def _bare(array: StoredArray) -> str:
    return array.name.partition("/")[2]


def _levels(manifest: DatasetManifest, table: Mapping[str, Array]) -> Array | None:
    """Return the noise level of each episode, float32 [E]; without a mixture there was none."""
    if "noise_level" in table:
        levels = table["noise_level"]
        return levels if ((levels >= 0) & (levels <= 1)).all() else None
    none = not manifest.recording.noise and "length" in table
    return np.zeros(len(table["length"]), np.float32) if none else None
