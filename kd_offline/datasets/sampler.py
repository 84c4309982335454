"""Which episodes come when: pure functions of a seed, so the state is (epoch, position)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from kd_offline.datasets.format.layout import SPLITS
from kd_offline.errors import UsageError
from kd_offline.seeding import generator
from kd_offline.types import Array, IntArray


@dataclass(frozen=True, slots=True)
class Position:
    """A place in an endless stream of batches."""

    epoch: int = 0
    batch: int = 0


BEGINNING = Position()

IDENTITY = ("seed", "expert_id", "noise_level")
"""Columns of the episode table that make an episode that one: all of it follows from these."""


@dataclass(frozen=True, slots=True)
class Splits:
    """Which part every episode belongs to: codes uint8 [E], and the code of every part's name."""

    codes: Array
    names: Mapping[str, int]


def epoch_order(episodes: IntArray, seed: int, epoch: int, part: int = 0) -> IntArray:
    """Return ``episodes`` (int [E]) in the order of ``epoch``, a function of the arguments.

    ``part`` numbers the parts of an epoch that is shuffled part by part.
    """
    purpose = ("epoch order", epoch, part) if part else ("epoch order", epoch)
    order = generator(seed, *purpose).permutation(len(episodes))
    return np.asarray(episodes, dtype=np.int64)[order]


def batches_per_epoch(episodes: int, size: int, *, drop_last: bool = False) -> int:
    """Return how many batches of ``size`` episodes an epoch has."""
    if size < 1:
        msg = f"a batch must hold at least one episode, got {size}"
        raise UsageError(msg)
    return episodes // size if drop_last else -(-episodes // size)


def batches(
    episodes: IntArray,
    size: int,
    seed: int,
    start: Position = BEGINNING,
    *,
    drop_last: bool = False,
) -> Iterator[tuple[Position, IntArray]]:
    """Yield ``(position, episode indices)`` for ever, beginning with the batch at ``start``.

    Continuing from a saved position gives exactly the batches that would have come.

    Raises
    ------
    UsageError
        An epoch would hold no batch.
    """
    count = batches_per_epoch(len(episodes), size, drop_last=drop_last)
    if count == 0:
        msg = f"{len(episodes)} episodes make no batch of {size}: use a smaller batch"
        raise UsageError(msg)
    epoch, first = start.epoch, start.batch
    while True:
        order = epoch_order(episodes, seed, epoch)
        for index in range(first, count):
            yield Position(epoch, index), order[index * size : (index + 1) * size]
        epoch, first = epoch + 1, 0


def assign_split(episodes: int, heldout: float, seed: int) -> Array:
    """Return the split code of each episode, uint8 [E]: seeded, by episode.

    ``heldout`` is a share; with two episodes or more at least one of them is held out unless the
    share is zero.
    """
    codes = np.full(episodes, SPLITS["train"], dtype=np.uint8)
    if heldout > 0 and episodes > 1:
        count = min(episodes - 1, max(1, round(episodes * heldout)))
        chosen = generator(seed, "split").permutation(episodes)[:count]
        codes[chosen] = SPLITS["heldout"]
    return codes


def first_alike(*columns: Array) -> IntArray:
    """Return for each row the first row that equals it in all ``columns``: int64 [E]."""
    order = np.lexsort(columns)  # stable: equal rows stay in their order
    starts = np.zeros(len(order), dtype=bool)
    starts[:1] = True
    for values in columns:
        starts[1:] |= values[order][1:] != values[order][:-1]
    first = np.empty(len(order), dtype=np.int64)
    first[order] = order[starts][np.cumsum(starts) - 1]
    return first
