"""Plan which chunks are read when: functions of lengths, seed, epoch and budget.

An epoch is a list of *pools*. A pool is in memory at once and consists of some blocks of
consecutive chunks. Blocks are shuffled among pools, and sequences are shuffled within a pool. An
episode that spans several blocks belongs to the pool with the last of them; its rows of earlier
pools are carried over. So an epoch reads every chunk once. If one pool holds everything, the order
is that of :func:`~kd_offline.datasets.loading.sampler.epoch_order`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kd_offline.datasets.loading.sampler import epoch_order
from kd_offline.errors import UsageError
from kd_offline.seeding import generator
from kd_offline.types import BoolArray, IntArray


@dataclass(frozen=True, slots=True)
class Windows:
    """Sequences of ``length`` steps that begin every ``stride`` steps (None: every ``length``).

    A window never crosses the end of an episode. The last one of an episode is the first that
    reaches its end, and is padded if it extends beyond.
    """

    length: int
    stride: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.step <= self.length:
            msg = (
                f"windows need a length of at least 1 and a stride of 1 to the length, got "
                f"{self.length} and {self.stride}"
            )
            raise UsageError(msg)

    @property
    def step(self) -> int:
        """Steps between the beginnings of two windows."""
        return self.length if self.stride is None else self.stride

    def counts(self, lengths: IntArray) -> IntArray:
        """Return the number of windows of each episode, int64 [E]."""
        beyond = np.maximum(lengths - self.length, 0)
        counts: IntArray = 1 + -(-beyond // self.step)
        return counts


@dataclass(frozen=True, slots=True)
class Pool:
    """The chunks that are in memory at once; episodes by index in the loader's list."""

    number: int
    chunks: IntArray  # ascending
    episodes: IntArray  # complete with this pool
    unfinished: IntArray  # with rows here, complete with a later pool


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """The chunks that the chosen episodes need, and how many of them are in memory at once.

    ``first_chunk`` and ``last_chunk``: int64 [E], of each chosen episode. ``chunks_per_block``:
    chunks of a block. ``blocks_per_pool``: blocks of a pool, or None if one pool holds all.
    """

    first_chunk: IntArray
    last_chunk: IntArray
    chunks_per_block: int = 1
    blocks_per_pool: int | None = None

    def needed(self) -> IntArray:
        """Return the chunks that hold rows of the chosen episodes, ascending."""
        edges = np.zeros(int(self.last_chunk.max(initial=-1)) + 2, dtype=np.int64)
        np.add.at(edges, self.first_chunk, 1)
        np.add.at(edges, self.last_chunk + 1, -1)
        return np.flatnonzero(np.cumsum(edges) > 0)

    def epoch(self, seed: int, epoch: int, *, shuffle: bool = True) -> list[Pool]:
        """Return the pools of an epoch in their order."""
        chunks = self.needed()
        if self.blocks_per_pool is None:
            every = np.arange(len(self.first_chunk))
            return [Pool(0, chunks, every, every[:0])]
        present = np.unique(chunks // self.chunks_per_block)
        order = present
        if shuffle:
            order = present[generator(seed, "block order", epoch).permutation(len(present))]
        pool_of = np.full(int(present[-1]) + 1, -1)
        pool_of[order] = self._pool_numbers(len(order), epoch)
        pool_of_episode = self._last_pool(pool_of)
        spanning = np.flatnonzero(
            self.first_chunk // self.chunks_per_block != self.last_chunk // self.chunks_per_block
        )
        by_pool = np.argsort(pool_of_episode, kind="stable")
        ends = np.cumsum(np.bincount(pool_of_episode, minlength=int(pool_of.max()) + 1))
        pools = []
        for number, episodes in enumerate(np.split(by_pool, ends[:-1])):
            pool_chunks = chunks[pool_of[chunks // self.chunks_per_block] == number]
            touching = spanning[self._touches(spanning, pool_of == number)]
            pools.append(
                Pool(number, pool_chunks, episodes, touching[pool_of_episode[touching] > number])
            )
        return pools

    def _pool_numbers(self, count: int, epoch: int) -> IntArray:
        """Return the pool of each block; the first pools are small, so that batches come soon."""
        assert self.blocks_per_pool is not None  # noqa: S101 - the caller checked
        sizes: list[int] = []
        size = 1 if epoch == 0 else self.blocks_per_pool
        while sum(sizes) < count:
            sizes.append(size)
            size = min(2 * size, self.blocks_per_pool)
        return np.repeat(np.arange(len(sizes)), sizes)[:count]

    def _last_pool(self, pool_of: IntArray) -> IntArray:
        """Return the pool that completes each episode, int64 [E]."""
        first, last = (
            self.first_chunk // self.chunks_per_block,
            self.last_chunk // self.chunks_per_block,
        )
        pool_of_episode = pool_of[last]
        for ahead in range(int((last - first).max(initial=0))):
            pool_of_episode = np.maximum(pool_of_episode, pool_of[np.minimum(first + ahead, last)])
        return pool_of_episode

    def _touches(self, episodes: IntArray, in_pool: BoolArray) -> BoolArray:
        before = np.concatenate([[0], np.cumsum(in_pool)])
        first = self.first_chunk[episodes] // self.chunks_per_block
        last = self.last_chunk[episodes] // self.chunks_per_block
        touched: BoolArray = before[last + 1] > before[first]
        return touched


@dataclass(frozen=True, slots=True)
class Sequences:
    """Sequences in order; all int64 [I]."""

    episode: IntArray  # index in the loader's list
    first: IntArray  # first step, counted in the episode
    count: IntArray  # steps without padding


def sequences_of_pool(
    pool: Pool,
    lengths: IntArray,
    windows: Windows,
    seed: int,
    epoch: int,
    *,
    shuffle: bool = True,
) -> Sequences:
    """Return the sequences of a pool in the order of ``epoch``."""
    counts = windows.counts(lengths[pool.episodes])
    episode = np.repeat(pool.episodes, counts)
    ends = np.cumsum(counts)
    first = (np.arange(len(episode)) - np.repeat(ends - counts, counts)) * windows.step
    if shuffle:
        order = epoch_order(np.arange(len(episode)), seed, epoch, pool.number)
        episode, first = episode[order], first[order]
    return Sequences(episode, first, np.minimum(lengths[episode] - first, windows.length))
