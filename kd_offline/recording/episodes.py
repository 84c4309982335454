"""Some episodes of a dataset, a part that fits into memory at a time."""

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
MOST_EPISODES = 256


@dataclass(frozen=True, slots=True)
class Part:
    """``B`` whole episodes: their indices, lengths (int64 [B]) and arrays by full name.

    ``steps/*`` arrays are [B, T, ...] with T the longest length, the others [B, ...].
    """

    episodes: IntArray
    lengths: IntArray
    arrays: dict[str, Array]


def opened(dataset: ExpertBuffer | str | Path) -> ExpertBuffer:
    """Return ``dataset``, opened if it is an address."""
    return dataset if isinstance(dataset, ExpertBuffer) else ExpertBuffer.open(dataset)


def choose(buffer: ExpertBuffer, episodes: int, seed: int) -> IntArray:
    """Return ``episodes`` distinct episodes drawn with ``seed``, ascending; all if there are fewer.

    Raises
    ------
    UsageError
        Not even one was asked for.
    """
    if episodes < 1:
        msg = f"{episodes} episodes cannot be compared: give 1 or more"
        raise UsageError(msg)
    if episodes >= buffer.n_episodes:
        return np.arange(buffer.n_episodes)
    drawn = generator(seed, "episodes to compare").permutation(buffer.n_episodes)[:episodes]
    return np.sort(drawn)


def parts(
    buffer: ExpertBuffer, names: Iterable[str], episodes: IntArray, most: int = MOST_EPISODES
) -> Iterator[Part]:
    """Yield the arrays ``names`` of the ascending ``episodes``, in order, ``most`` at a time."""
    steps = [name for name in names if name.startswith("steps/")]
    others = [name for name in names if not name.startswith("steps/")]
    size = min(most, _part_size(buffer, steps))
    for start in range(0, len(episodes), size):
        here = episodes[start : start + size]
        arrays, _ = buffer.padded(steps, here)
        lengths = buffer.episodes("length")[here].astype(np.int64)
        yield Part(here, lengths, arrays | buffer.load(others, here))


def _part_size(buffer: ExpertBuffer, steps: Iterable[str]) -> int:
    longest = int(buffer.episodes("length").max())
    specs = [buffer.array(name).spec for name in steps]
    row = sum(int(np.prod(s.shape[1:])) * np.dtype(s.dtype).itemsize for s in specs)
    return int(np.clip(_PART_BYTES // max(1, row * longest), 1, MOST_EPISODES))
