"""The order of the episodes in an epoch: a function of seed and epoch, so a position resumes it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kd_offline.errors import UsageError
from kd_offline.seeding import generator
from kd_offline.types import IntArray


@dataclass(frozen=True, slots=True)
class Position:
    """The next batch of an endless stream: its epoch, and its number in the epoch."""

    epoch: int = 0
    batch: int = 0


BEGINNING = Position()


def epoch_order(episodes: IntArray, seed: int, epoch: int, part: int = 0) -> IntArray:
    """Return ``episodes`` (int [E]) in random order, a function of the arguments.

    ``part`` numbers the parts of an epoch that is shuffled part by part.
    """
    purpose = ("epoch order", epoch, part) if part else ("epoch order", epoch)
    order = generator(seed, *purpose).permutation(len(episodes))
    return np.asarray(episodes, dtype=np.int64)[order]


def batches_per_epoch(sequences: int, size: int, *, drop_last: bool = False) -> int:
    """Return the number of batches of ``size`` sequences in an epoch.

    Raises
    ------
    UsageError
        ``size`` is below 1.
    """
    if size < 1:
        msg = f"a batch must hold at least one episode, got {size}"
        raise UsageError(msg)
    return sequences // size if drop_last else -(-sequences // size)
