"""Batches of episodes or windows, from memory or streamed, with one interface and one order.

::

    loader = Loader.open("dataset.zarr", ["steps/obs", "steps/logits"], batch=32)
    for batch in loader.batches(epochs=1):
        batch["steps/obs"]  # [B, L, N, O]
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kd_offline.datasets.loading.budget import plan_within, table_bytes
from kd_offline.datasets.loading.cursor import Cursor, Order, SequenceBatch, decode_all
from kd_offline.datasets.loading.plan import Windows
from kd_offline.datasets.loading.rows import EpisodeSource, PoolBuffer
from kd_offline.datasets.loading.sampler import BEGINNING, Position, batches_per_epoch
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.errors import UsageError
from kd_offline.types import Array, BoolArray, IntArray


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences of one length; the arrays are copies and may be changed.

    ``arrays``: ``steps/*`` as [B, L, ...], zero where padded; ``final/*``, ``episodes/*`` and masks
    that differ by episode as [B, ...]; a mask that is the same for all as [N, O].
    """

    arrays: dict[str, Array]
    valid: BoolArray  # [B, L]
    episodes: IntArray  # [B], index in the dataset
    first: IntArray  # [B], step of the episode with which the sequence begins
    following: Position  # of the next batch
    datasets: IntArray | None = None  # [B], index of the mixed dataset
    sequences_of_all: int | None = None  # of the global batch; None: these are all

    def __getitem__(self, name: str) -> Array:
        return self.arrays[name]

    def __len__(self) -> int:
        return len(self.valid)


class Loader:
    """Endless batches of one dataset; :meth:`open` makes a loader.

    Before you bootstrap from ``final/value``, check
    :func:`~kd_offline.datasets.format.manifest.final_value_warning`: most critics never learned it.
    """

    def __init__(
        self,
        buffer: ExpertBuffer,
        episodes: IntArray,
        order: Order,
        source: EpisodeSource,
        table: Mapping[str, Array],
        batch: int,
        drop_last: bool,
        threads: int,
        carry_bytes: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.buffer = buffer
        self.rank = rank
        self.world = world
        self.episodes = episodes
        self.order = order
        self.batch = batch
        self.drop_last = drop_last
        self._source = source
        self._table = dict(table)
        self._threads = threads
        self._carry_bytes = carry_bytes
        self._rows: PoolBuffer | None = None
        self.sequences = int(order.windows.counts(order.lengths).sum())

    @classmethod
    def open(
        cls,
        dataset: str | Path | ExpertBuffer,
        arrays: Iterable[str],
        batch: int,
        *,
        windows: Windows | None = None,
        split: str | None = None,
        episodes: IntArray | None = None,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        memory_mb: float | None = None,
        threads: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> Loader:
        """Return a loader of a dataset's batches.

        Parameters
        ----------
        dataset
            An opened dataset, or an address.
        arrays
            Full names, at least one of ``steps/*``.
        batch
            Sequences in a batch, over all ranks together; the last of an epoch may have fewer, see
            ``drop_last``.
        windows
            None: whole episodes, padded to the longest of the chosen ones.
        split, episodes
            ``train``, ``heldout`` or another part, or indices without repetition; neither: all.
        seed
            The order of an epoch is a function of the seed, the epoch and, where the arrays do not
            fit, the budget.
        shuffle
            False: in the order of the file.
        memory_mb
            Decoded values in memory at any time, in 10**6 bytes. None, or enough for everything:
            everything is decoded once, here. Less: chunks are decoded ahead in threads.
        threads
            That decode; None: as many as there are processors, or as the address is best read by.
        rank, world
            Number of this process, from 0 on, and of all processes that read the dataset together.
            The batches are the same for any ``world``, and each rank gets its part of every batch:
            as many sequences as the others, or one fewer.

        Raises
        ------
        MissingArrayError, UnknownNameError, UsageError
            An array, split or episode that is not there; a budget that is too small; a batch of an
            epoch has no sequence for some rank.
        DatasetError
            The dataset cannot be opened, or read.
        """
        buffer = dataset if isinstance(dataset, ExpertBuffer) else ExpertBuffer.open(dataset)
        chosen = _chosen_episodes(buffer, split, episodes)
        lengths = buffer.episodes("length")[chosen].astype(np.int64)
        names = list(dict.fromkeys(arrays))
        source = _episode_source(buffer, names, chosen, lengths)
        cut = windows or Windows(int(lengths.max()))
        table_names = [name for name in names if name not in source.arrays]
        workers = threads or max(buffer.files.readers, _processor_count())
        fixed = table_bytes(buffer.manifest, table_names)
        plan, carry = plan_within(memory_mb, source, cut.length, fixed, buffer.where)
        table = buffer.load(table_names, chosen)
        order = Order(plan, lengths, cut, seed, shuffle)
        loader = cls(
            buffer, chosen, order, source, table, batch, drop_last, workers, carry, rank, world
        )
        if not len(loader):
            msg = f"{loader.sequences} sequences make no batch of {batch}: use a smaller batch"
            raise UsageError(msg)
        loader._check_ranks()
        if plan.blocks_per_pool is None:
            loader._rows = decode_all(source, plan, cut.length, workers)
        return loader

    @property
    def length(self) -> int:
        """Steps of every sequence, padding included."""
        return self.order.windows.length

    @property
    def columns(self) -> dict[str, tuple[object, ...]]:
        """Dtype, shape and digest of each array, which must agree between mixed datasets."""
        specs = {name: self.buffer.manifest.arrays[name] for name in self.names}
        fixed = {name for name in self._table if self._is_fixed(name)}
        return {
            name: (spec.dtype, spec.shape[1:], spec.digest if name in fixed else "")
            for name, spec in specs.items()
        }

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arrays of a batch."""
        return (*self._source.arrays, *self._table)

    @property
    def streams(self) -> bool:
        """Whether chunks are decoded again in every epoch."""
        return self.order.plan.blocks_per_pool is not None

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return batches_per_epoch(self.sequences, self.batch, drop_last=self.drop_last)

    def batches(
        self,
        start: Position = BEGINNING,
        *,
        epochs: int | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[Batch]:
        """Yield batches from ``start`` on, for ``epochs`` epochs or without end.

        Starting at a batch's ``following`` gives exactly the batches that would have come next.
        With ``share`` (i, n) only every n-th batch is given, beginning with the i-th.

        Raises
        ------
        UsageError
            There is no such position.
        CorruptDatasetError
            A chunk is missing or damaged. Threads end with the iteration, however it ends.
        """
        _check_start(start, len(self))
        index, count = share
        until = None if epochs is None else start.epoch + epochs
        cursor = self.cursor(start.epoch, start.batch * self.batch, until)
        epoch, index_in_epoch, number = start.epoch, start.batch, 0
        try:
            while until is None or epoch < until:
                size = min(self.batch, self.sequences - index_in_epoch * self.batch)
                last = index_in_epoch + 1 == len(self)
                following = Position(epoch + 1, 0) if last else Position(epoch, index_in_epoch + 1)
                if number % count == index:
                    yield self._part(cursor, size, following)
                else:
                    cursor.skip(size)
                if last and self.drop_last:
                    cursor.skip(self.sequences - len(self) * self.batch)
                epoch, index_in_epoch, number = following.epoch, following.batch, number + 1
        finally:
            cursor.close()

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

    def cursor(self, epoch: int, sequence: int, until: int | None = None) -> Cursor:
        """Return an iterator from ``sequence`` of ``epoch`` on; the caller must close it."""
        return Cursor(
            self.order,
            self._source,
            self._threads,
            self._carry_bytes,
            self._rows,
            epoch + sequence // self.sequences,
            sequence % self.sequences,
            until,
        )

    def finished(self, taken: SequenceBatch, following: Position) -> Batch:
        """Return a batch of the sequences ``taken``, with the arrays of one row an episode."""
        arrays = dict(taken.arrays)
        for name, values in self._table.items():
            arrays[name] = values if self._is_fixed(name) else values[taken.episodes]
        chosen = self.episodes[taken.episodes]
        return Batch(arrays, taken.valid, chosen, taken.first, following)

    def _part(self, cursor: Cursor, size: int, following: Position) -> Batch:
        """Return this rank's part of the next ``size`` sequences."""
        first, stop = (size * rank // self.world for rank in (self.rank, self.rank + 1))
        cursor.skip(first)
        taken = cursor.take(stop - first)
        cursor.skip(size - stop)
        whole = None if self.world == 1 else size
        return replace(self.finished(taken, following), sequences_of_all=whole)

    def _check_ranks(self) -> None:
        """Raise a ``UsageError`` unless every rank gets something of every batch."""
        if not 0 <= self.rank < self.world:
            msg = (
                f"there is no rank {self.rank} of {self.world}: ranks are counted from 0, so give "
                "one below the number of processes"
            )
            raise UsageError(msg)
        last = 0 if self.drop_last else self.sequences % self.batch
        smallest = min(self.batch, last or self.batch)
        if smallest < self.world:
            which = "a batch" if smallest == self.batch else "the last batch of an epoch"
            msg = (
                f"{which} has {smallest} sequences, so some of {self.world} ranks get none: use a "
                "larger batch, drop_last=True or fewer processes"
            )
            raise UsageError(msg)

    def _is_fixed(self, name: str) -> bool:
        return name.startswith("masks/") and self._table[name].ndim == len("NO")


def _processor_count() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check_start(start: Position, per_epoch: int) -> None:
    if start.epoch < 0 or not 0 <= start.batch < per_epoch:
        msg = (
            f"there is no batch {start.batch} of epoch {start.epoch}: an epoch has batches 0 to "
            f"{per_epoch - 1}; continue with the options that the position was saved under"
        )
        raise UsageError(msg)


def _chosen_episodes(
    buffer: ExpertBuffer, split: str | None, episodes: IntArray | None
) -> IntArray:
    if split is not None and episodes is not None:
        msg = "split and episodes exclude each other: give one of them"
        raise UsageError(msg)
    if episodes is None:
        chosen = np.arange(buffer.n_episodes) if split is None else buffer.split(split)
    else:
        chosen = np.asarray(episodes, dtype=np.int64)
    inside = chosen.size and chosen.min() >= 0 and chosen.max() < buffer.n_episodes
    if not inside or len(np.unique(chosen)) != len(chosen):
        msg = (
            f"batches need at least one episode, each from 0 to {buffer.n_episodes - 1} and none "
            f"twice, got {len(chosen)}: choose others"
        )
        raise UsageError(msg)
    return chosen


def _episode_source(
    buffer: ExpertBuffer, names: list[str], chosen: IntArray, lengths: IntArray
) -> EpisodeSource:
    arrays = {name: buffer.array(name) for name in names if name.startswith("steps/")}
    for name in names:
        buffer.array(name)
    if not arrays:
        msg = f"batches need at least one array of steps, got {', '.join(names) or 'none'}"
        raise UsageError(msg)
    rows = next(iter(arrays.values())).chunk_rows
    offsets = buffer.episodes("offset")[chosen].astype(np.int64)
    return EpisodeSource.of(arrays, rows, offsets, lengths)
