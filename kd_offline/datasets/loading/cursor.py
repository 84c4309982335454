"""Iterate over sequences in order: decode chunks ahead in threads, copy sequences out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from kd_offline.datasets.loading.plan import Pool, ReadPlan, Sequences, Windows, sequences_of_pool
from kd_offline.datasets.loading.rows import EpisodeSource, PoolBuffer
from kd_offline.types import Array, BoolArray, IntArray


@dataclass(frozen=True, slots=True)
class Order:
    """Everything that determines the order of the sequences."""

    plan: ReadPlan
    lengths: IntArray  # [E], of the chosen episodes
    windows: Windows
    seed: int
    shuffle: bool

    def pools(self, epoch: int, skip: int, until: int | None) -> Iterator[tuple[int, int, Pool]]:
        """Yield ``(epoch, sequences to skip, pool)``, from sequence ``skip`` to epoch ``until``."""
        counts = self.windows.counts(self.lengths)
        while until is None or epoch < until:
            for pool in self.plan.epoch(self.seed, epoch, shuffle=self.shuffle):
                size = int(counts[pool.episodes].sum())
                if skip < size or (skip == 0 and size == 0):
                    yield epoch, skip, pool
                skip = max(0, skip - size)
            epoch += 1

    def items(self, epoch: int, pool: Pool) -> Sequences:
        """Return the sequences of a pool in their order."""
        return sequences_of_pool(
            pool, self.lengths, self.windows, self.seed, epoch, shuffle=self.shuffle
        )


@dataclass(frozen=True, slots=True)
class SequenceBatch:
    """Copies of sequences: arrays [B, L, ...], valid bool [B, L], episodes and first steps [B]."""

    arrays: dict[str, Array]
    valid: BoolArray
    episodes: IntArray
    first: IntArray


@dataclass(slots=True)
class Cursor:
    """An iterator over sequences, any number at a time; close it to end its threads."""

    order: Order
    source: EpisodeSource
    threads: int
    carry_bytes: int
    resident: PoolBuffer | None = None
    epoch: int = 0
    skipped: int = 0
    until: int | None = None  # decoding ahead ends before this epoch
    _rows: PoolBuffer | None = None
    _items: Sequences | None = None
    _at: int = 0
    _pools: Iterator[tuple[PoolBuffer, Sequences, int]] | None = None
    _carry_over: dict[int, dict[int, dict[str, Array]]] = field(default_factory=dict)

    def take(self, count: int) -> SequenceBatch:
        """Return the next ``count`` sequences, also across pools and epochs.

        Raises
        ------
        CorruptDatasetError
            A chunk is missing or damaged.
        """
        parts = []
        while count:
            rows, items = self._current()
            stop = min(self._at + count, len(items.episode))
            part = Sequences(
                *(x[self._at : stop] for x in (items.episode, items.first, items.count))
            )
            arrays, valid = rows.gather(part)
            parts.append(SequenceBatch(arrays, valid, part.episode, part.first))
            count -= stop - self._at
            self._at = stop
        return _concatenated(parts)

    def skip(self, count: int) -> None:
        """Skip the next ``count`` sequences without copying them."""
        while count:
            _, items = self._current()
            step = min(count, len(items.episode) - self._at)
            self._at += step
            count -= step

    def close(self) -> None:
        """Stop decoding and end the threads."""
        if self._pools is not None:
            self._pools.close()  # type: ignore[attr-defined]

    def _current(self) -> tuple[PoolBuffer, Sequences]:
        """Return the memory and the sequences of the pool that has the next sequence."""
        while self._rows is None or self._items is None or self._at >= len(self._items.episode):
            if self._pools is None:
                self._pools = self._resident() if self.resident else self._streamed()
            self._rows, self._items, self._at = next(self._pools)
        return self._rows, self._items

    def _resident(self) -> Iterator[tuple[PoolBuffer, Sequences, int]]:
        assert self.resident is not None  # noqa: S101 - the caller checked
        for epoch, skip, pool in self.order.pools(self.epoch, self.skipped, self.until):
            yield self.resident, self.order.items(epoch, pool), skip

    def _streamed(self) -> Iterator[tuple[PoolBuffer, Sequences, int]]:
        """Yield pools; while one is used, the next is decoded into other memory."""
        free = [PoolBuffer(self.source, self.order.windows.length) for _ in range(2)]
        ahead: deque[tuple[int, int, Pool, PoolBuffer, list[Future[None]]]] = deque()
        with _reader_threads(self.threads) as executor:
            for epoch, skip, pool in self.order.pools(self.epoch, self.skipped, self.until):
                rows = free.pop()
                ahead.append((epoch, skip, pool, rows, rows.fill(pool, executor)))
                if not free:
                    yield self._ready(*ahead[0])
                    free.append(ahead.popleft()[3])
            for entry in ahead:
                yield self._ready(*entry)

    def _ready(
        self, epoch: int, skip: int, pool: Pool, rows: PoolBuffer, jobs: list[Future[None]]
    ) -> tuple[PoolBuffer, Sequences, int]:
        for job in jobs:
            job.result()
        self._assemble_and_carry(rows, pool)
        return rows, self.order.items(epoch, pool), skip

    def _assemble_and_carry(self, rows: PoolBuffer, pool: Pool) -> None:
        """Assemble episodes whose rows lie apart, and keep rows that a later pool needs."""
        for episode in rows.episodes_to_assemble(pool).tolist():
            rows.assemble(episode, self._carry_over.pop(episode, {}))
        held = sum(map(_carried_bytes, self._carry_over.values()))
        for episode in pool.unfinished.tolist():
            if held > self.carry_bytes:
                break  # other rows are read again
            parts = rows.copy_rows(episode)
            self._carry_over.setdefault(episode, {}).update(parts)
            held += _carried_bytes(parts)


def decode_all(source: EpisodeSource, plan: ReadPlan, length: int, threads: int) -> PoolBuffer:
    """Return all chunks that ``plan`` needs, decoded; ``plan`` must have one pool.

    Raises
    ------
    CorruptDatasetError
        A chunk is missing or damaged.
    """
    rows = PoolBuffer(source, length)
    (pool,) = plan.epoch(0, 0)
    with _reader_threads(threads) as executor:
        for job in rows.fill(pool, executor):
            job.result()
    return rows


@contextmanager
def _reader_threads(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Give threads that decode; at exit, running jobs end and waiting ones are dropped."""
    executor = ThreadPoolExecutor(threads, thread_name_prefix="dataset-reader")
    try:
        yield executor
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _concatenated(parts: list[SequenceBatch]) -> SequenceBatch:
    if len(parts) == 1:
        return parts[0]
    return SequenceBatch(
        {name: np.concatenate([p.arrays[name] for p in parts]) for name in parts[0].arrays},
        np.concatenate([p.valid for p in parts]),
        np.concatenate([p.episodes for p in parts]),
        np.concatenate([p.first for p in parts]),
    )


def _carried_bytes(parts: dict[int, dict[str, Array]]) -> int:
    return sum(values.nbytes for part in parts.values() for values in part.values())
