"""Load chosen episodes of a dataset in batches that fit into memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.errors import UsageError
from kd_offline.seeding import generator
from kd_offline.types import Array, IntArray

_PART_BYTES = 64 << 20
MAX_EPISODES = 256
"""Largest number of episodes in a part."""


@dataclass(frozen=True, slots=True)
class Part:
    """``B`` whole episodes: their indices, lengths (int64 [B]) and arrays by full name.

    ``steps/*`` arrays are [B, T, ...] with T the longest length, the others [B, ...].
    """

    episodes: IntArray
    lengths: IntArray
    arrays: dict[str, Array]


def opened(dataset: ExpertBuffer | str | Path) -> ExpertBuffer:
    """Return an open dataset; an address is opened."""
    return dataset if isinstance(dataset, ExpertBuffer) else ExpertBuffer.open(dataset)


def choose(buffer: ExpertBuffer, episodes: int, seed: int) -> IntArray:
    """Return ``episodes`` distinct indices drawn with ``seed``, ascending; all if there are fewer.

    Raises
    ------
    UsageError
        ``episodes`` is below 1.
    """
    if episodes < 1:
        msg = f"{episodes} episodes cannot be compared: give 1 or more"
        raise UsageError(msg)
    if episodes >= buffer.n_episodes:
        return np.arange(buffer.n_episodes)
    indices = generator(seed, "episodes to compare").permutation(buffer.n_episodes)[:episodes]
    return np.sort(indices)


def parts(
    buffer: ExpertBuffer, names: Iterable[str], episodes: IntArray, most: int = MAX_EPISODES
) -> Iterator[Part]:
    """Yield the arrays ``names`` of the ascending ``episodes``, in order, ``most`` at a time."""
    steps = [name for name in names if name.startswith("steps/")]
    others = [name for name in names if not name.startswith("steps/")]
    size = min(most, _part_size(buffer, steps))
    for start in range(0, len(episodes), size):
        indices = episodes[start : start + size]
        arrays, _ = buffer.padded(steps, indices)
        lengths = buffer.episodes("length")[indices].astype(np.int64)
        yield Part(indices, lengths, arrays | buffer.load(others, indices))


def _part_size(buffer: ExpertBuffer, steps: Iterable[str]) -> int:
    longest = int(buffer.episodes("length").max())
    specs = [buffer.array(name).spec for name in steps]
    step_bytes = sum(int(np.prod(s.shape[1:])) * np.dtype(s.dtype).itemsize for s in specs)
    return int(np.clip(_PART_BYTES // max(1, step_bytes * longest), 1, MAX_EPISODES))
