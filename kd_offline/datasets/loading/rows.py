"""Decoded rows of a pool in memory, and copies of sequences from them."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field

import numpy as np

from kd_offline.datasets.format import chunks
from kd_offline.datasets.loading.plan import Pool, Sequences
from kd_offline.datasets.reading.array_reader import StoredArray
from kd_offline.types import Array, BoolArray, IntArray


@dataclass(frozen=True, slots=True)
class EpisodeSource:
    """The ``steps/*`` arrays that are read, and the rows and chunks of the chosen episodes."""

    arrays: Mapping[str, StoredArray]
    chunk_rows: int
    offsets: IntArray  # [E], first row of each chosen episode
    lengths: IntArray  # [E]
    first_chunk: IntArray  # [E]
    last_chunk: IntArray  # [E]

    @classmethod
    def of(
        cls,
        arrays: Mapping[str, StoredArray],
        chunk_rows: int,
        offsets: IntArray,
        lengths: IntArray,
    ) -> EpisodeSource:
        """Return the source of episodes with these offsets and lengths, int64 [E]."""
        first, last = offsets // chunk_rows, (offsets + lengths - 1) // chunk_rows
        return cls(arrays, chunk_rows, offsets, lengths, first, last)

    @property
    def chunk_bytes(self) -> int:
        """Decoded bytes of one chunk of every array."""
        return self.chunk_rows * sum(stored.row_bytes for stored in self.arrays.values())


@dataclass(slots=True)
class PoolBuffer:
    """Memory for the rows of one pool: one contiguous array for each name, [rows, ...].

    ``length`` is that of a window. As many spare rows at the end allow a padded window to be
    copied like any other.
    """

    source: EpisodeSource
    length: int
    arrays: dict[str, Array] = field(default_factory=dict)
    chunks: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    starts: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))  # [E], -1: not here
    _windows: dict[str, tuple[Array, Array]] = field(default_factory=dict)

    def fill(self, pool: Pool, executor: Executor) -> list[Future[None]]:
        """Start decoding the chunks of ``pool`` over what was here; return the jobs."""
        size = self.source.chunk_rows
        self.chunks = pool.chunks
        self._place_episodes(pool)
        jobs = []
        for slot, chunk in enumerate(pool.chunks.tolist()):
            for name, stored in self.source.arrays.items():
                out = self.arrays[name][slot * size : (slot + 1) * size]
                jobs.append(executor.submit(stored.decode, chunk, out))
        return jobs

    def _place_episodes(self, pool: Pool) -> None:
        """Set the first row of every episode: in its adjacent chunks, or behind all chunks."""
        size = self.source.chunk_rows
        first, last = (
            self.source.first_chunk[pool.episodes],
            self.source.last_chunk[pool.episodes],
        )
        slot = np.searchsorted(pool.chunks, first)
        end = np.minimum(slot + last - first, len(pool.chunks) - 1)
        together = (pool.chunks[np.minimum(slot, len(pool.chunks) - 1)] == first) & (
            pool.chunks[end] == last
        )
        starts = slot * size + self.source.offsets[pool.episodes] - first * size
        episodes_to_assemble = pool.episodes[~together]
        lengths = self.source.lengths[episodes_to_assemble]
        behind = len(pool.chunks) * size + np.cumsum(lengths) - lengths
        starts[~together] = behind
        self.starts = np.full(len(self.source.offsets), -1)
        self.starts[pool.episodes] = starts
        self._reserve(len(pool.chunks) * size + int(lengths.sum()) + self.length)

    def _reserve(self, rows: int) -> None:
        if self.arrays and len(next(iter(self.arrays.values()))) >= rows:
            return
        self._windows.clear()
        self.arrays.clear()  # frees them before larger ones are allocated
        for name, stored in self.source.arrays.items():
            dtype = chunks.little_endian(stored.spec.dtype)
            self.arrays[name] = np.empty((rows, *stored.spec.shape[1:]), dtype)

    def copy_rows(self, episode: int) -> dict[int, dict[str, Array]]:
        """Return copies of an episode's rows that are in memory, by chunk."""
        parts = {}
        for chunk, slot in self._chunks_here(episode):
            low, high = self._rows_within(episode, chunk)
            at = slot * self.source.chunk_rows
            rows = slice(at + low, at + high)
            parts[chunk] = {name: values[rows].copy() for name, values in self.arrays.items()}
        return parts

    def assemble(self, episode: int, carried_rows: Mapping[int, Mapping[str, Array]]) -> None:
        """Copy the rows of an episode whose chunks are not adjacent into one place."""
        parts = dict(carried_rows) | self.copy_rows(episode)
        first, last = int(self.source.first_chunk[episode]), int(self.source.last_chunk[episode])
        at = int(self.starts[episode])
        for chunk in range(first, last + 1):
            low, high = self._rows_within(episode, chunk)
            base = chunk * self.source.chunk_rows
            for name, values in self.arrays.items():
                if chunk in parts:
                    values[at : at + high - low] = parts[chunk][name]
                else:
                    stored = self.source.arrays[name]
                    values[at : at + high - low] = stored.read(base + low, base + high)
            at += high - low

    def episodes_to_assemble(self, pool: Pool) -> IntArray:
        """Return the episodes of ``pool`` whose chunks are not adjacent."""
        behind = self.starts[pool.episodes] >= len(pool.chunks) * self.source.chunk_rows
        return pool.episodes[behind]

    def _chunks_here(self, episode: int) -> list[tuple[int, int]]:
        span = [self.source.first_chunk[episode], self.source.last_chunk[episode] + 1]
        low, high = np.searchsorted(self.chunks, span).tolist()
        return [(int(self.chunks[slot]), slot) for slot in range(low, high)]

    def _rows_within(self, episode: int, chunk: int) -> tuple[int, int]:
        """Return the half-open range of a chunk's rows that belong to the episode."""
        base = chunk * self.source.chunk_rows
        start = int(self.source.offsets[episode])
        stop = start + int(self.source.lengths[episode])
        return max(start - base, 0), min(stop - base, self.source.chunk_rows)

    def gather(self, items: Sequences) -> tuple[dict[str, Array], BoolArray]:
        """Return copies of sequences, [B, L, ...] and zero where padded, and ``valid`` [B, L].

        A window is one element of a structureless dtype, so that NumPy copies it in one piece.
        """
        starts = self.starts[items.episode] + items.first
        valid = np.arange(self.length) < items.count[:, None]
        out = {}
        for name, values in self.arrays.items():
            windows = self._windows_of(name, values)
            taken = windows[starts].view(values.dtype)
            out[name] = taken.reshape(len(starts), self.length, *values.shape[1:])
        if not valid.all():
            padding = ~valid
            for taken in out.values():
                taken[padding] = 0
        return out, valid

    def _windows_of(self, name: str, values: Array) -> Array:
        held = self._windows.get(name)
        if held is None or held[0] is not values:
            size = values[:1].nbytes
            windows: Array = np.ndarray(
                (len(values) - self.length + 1,),
                np.dtype((np.void, size * self.length)),
                buffer=values.data,  # NumPy checks bounds against it
                strides=(size,),
            )
            self._windows[name] = held = (values, windows)
        return held[1]
