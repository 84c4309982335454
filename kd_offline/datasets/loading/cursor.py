"""A moving place in an endless row of sequences: decodes ahead in threads, copies out in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from kd_offline.datasets.loading.plan import Items, Plan, Pool, Windows, items_of
from kd_offline.datasets.loading.rows import Rows, Source
from kd_offline.types import Array, BoolArray, IntArray


@dataclass(frozen=True, slots=True)
class Order:
    """Everything that decides which sequence comes when."""

    plan: Plan
    lengths: IntArray  # [E], of the chosen episodes
    cut: Windows
    seed: int
    shuffle: bool

    def pools(self, epoch: int, skip: int, until: int | None) -> Iterator[tuple[int, int, Pool]]:
        """Yield ``(epoch, sequences to skip, pool)`` from sequence ``skip`` on to ``until``."""
        counts = self.cut.counts(self.lengths)
        while until is None or epoch < until:
            for pool in self.plan.epoch(self.seed, epoch, shuffle=self.shuffle):
                size = int(counts[pool.episodes].sum())
                if skip < size or (skip == 0 and size == 0):
                    yield epoch, skip, pool
                skip = max(0, skip - size)
            epoch += 1

    def items(self, epoch: int, pool: Pool) -> Items:
        """Return the sequences of a pool in their order."""
        return items_of(pool, self.lengths, self.cut, self.seed, epoch, shuffle=self.shuffle)


@dataclass(frozen=True, slots=True)
class Taken:
    """Sequences that were copied out: arrays [B, L, ...], valid [B, L], places [B], steps [B]."""

    arrays: dict[str, Array]
    valid: BoolArray
    episodes: IntArray
    first: IntArray


@dataclass(slots=True)
class Cursor:
    """Takes any number of sequences at a time; close it, so that no thread stays."""

    order: Order
    source: Source
    threads: int
    carry_bytes: int
    resident: Rows | None = None
    epoch: int = 0
    skipped: int = 0
    until: int | None = None  # epoch before which decoding ahead ends
    _rows: Rows | None = None
    _items: Items | None = None
    _at: int = 0
    _pools: Iterator[tuple[Rows, Items, int]] | None = None
    _carried: dict[int, dict[int, dict[str, Array]]] = field(default_factory=dict)

    def take(self, count: int) -> Taken:
        """Return the next ``count`` sequences, over the ends of pools and epochs.

        Raises
        ------
        CorruptDatasetError
            A chunk is missing or damaged.
        """
        parts = []
        while count:
            rows, items = self._current()
            stop = min(self._at + count, len(items.episode))
            part = Items(*(x[self._at : stop] for x in (items.episode, items.first, items.count)))
            arrays, valid = rows.gather(part)
            parts.append(Taken(arrays, valid, part.episode, part.first))
            count -= stop - self._at
            self._at = stop
        return _joined(parts)

    def skip(self, count: int) -> None:
        """Go past the next ``count`` sequences without copying them."""
        while count:
            _, items = self._current()
            step = min(count, len(items.episode) - self._at)
            self._at += step
            count -= step

    def close(self) -> None:
        """Stop decoding and end the threads."""
        if self._pools is not None:
            self._pools.close()  # type: ignore[attr-defined]

    def _current(self) -> tuple[Rows, Items]:
        """Return the pool with the next sequence."""
        while self._rows is None or self._items is None or self._at >= len(self._items.episode):
            if self._pools is None:
                self._pools = self._resident() if self.resident else self._streamed()
            self._rows, self._items, self._at = next(self._pools)
        return self._rows, self._items

    def _resident(self) -> Iterator[tuple[Rows, Items, int]]:
        assert self.resident is not None  # noqa: S101 - the caller checked
        for epoch, skip, pool in self.order.pools(self.epoch, self.skipped, self.until):
            yield self.resident, self.order.items(epoch, pool), skip

    def _streamed(self) -> Iterator[tuple[Rows, Items, int]]:
        """Yield pools; while one is used the next is being decoded into other memory."""
        free = [Rows(self.source, self.order.cut.length) for _ in range(2)]
        ahead: deque[tuple[int, int, Pool, Rows, list[Future[None]]]] = deque()
        with _readers(self.threads) as executor:
            for epoch, skip, pool in self.order.pools(self.epoch, self.skipped, self.until):
                rows = free.pop()
                ahead.append((epoch, skip, pool, rows, rows.fill(pool, executor)))
                if not free:
                    yield self._ready(*ahead[0])
                    free.append(ahead.popleft()[3])
            for entry in ahead:
                yield self._ready(*entry)

    def _ready(
        self, epoch: int, skip: int, pool: Pool, rows: Rows, jobs: list[Future[None]]
    ) -> tuple[Rows, Items, int]:
        for job in jobs:
            job.result()
        self._exchange(rows, pool)
        return rows, self.order.items(epoch, pool), skip

    def _exchange(self, rows: Rows, pool: Pool) -> None:
        """Put together episodes that lie apart, and keep the rows of those that come later."""
        for episode in rows.apart(pool).tolist():
            rows.complete(episode, self._carried.pop(episode, {}))
        held = sum(map(_bytes, self._carried.values()))
        for episode in pool.leaving.tolist():
            if held > self.carry_bytes:
                break  # what is not carried is read again
            parts = rows.cut_out(episode)
            self._carried.setdefault(episode, {}).update(parts)
            held += _bytes(parts)


def decoded(source: Source, plan: Plan, length: int, threads: int) -> Rows:
    """Return everything that ``plan`` needs in memory; for a plan of one pool.

    Raises
    ------
    CorruptDatasetError
        A chunk is missing or damaged.
    """
    rows = Rows(source, length)
    (pool,) = plan.epoch(0, 0)
    with _readers(threads) as executor:
        for job in rows.fill(pool, executor):
            job.result()
    return rows


@contextmanager
def _readers(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that decode; leaving waits for what has begun and drops the rest."""
    executor = ThreadPoolExecutor(threads, thread_name_prefix="dataset-reader")
    try:
        yield executor
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _joined(parts: list[Taken]) -> Taken:
    if len(parts) == 1:
        return parts[0]
    return Taken(
        {name: np.concatenate([p.arrays[name] for p in parts]) for name in parts[0].arrays},
        np.concatenate([p.valid for p in parts]),
        np.concatenate([p.episodes for p in parts]),
        np.concatenate([p.first for p in parts]),
    )


def _bytes(parts: dict[int, dict[str, Array]]) -> int:
    return sum(values.nbytes for part in parts.values() for values in part.values())
