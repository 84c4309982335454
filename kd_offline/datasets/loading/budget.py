"""Plan how many chunks are decoded at once, from the memory that may be used."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from kd_offline.datasets.loading.plan import ReadPlan
from kd_offline.datasets.loading.rows import EpisodeSource
from kd_offline.errors import UsageError
from kd_offline.schemas.dataset import DatasetManifest

# Blocks of a pool where the budget allows: fewer shuffle less, more split more episodes.
_MAX_BLOCKS = 8
# Share of the budget for rows that are carried over to a later pool and for files being decoded,
# and the part of that share for carried rows.
_RESERVED_SHARE, _CARRY_SHARE = 0.2, 0.75


def table_bytes(manifest: DatasetManifest, names: Iterable[str]) -> int:
    """Return the decoded size of whole arrays."""
    specs = [manifest.arrays[name] for name in names]
    return sum(int(np.prod(s.shape)) * np.dtype(s.dtype).itemsize for s in specs)


def plan_within(
    memory_mb: float | None, source: EpisodeSource, length: int, fixed: int, where: str
) -> tuple[ReadPlan, int]:
    """Return a plan that stays within a budget, and the bytes that pools may carry over.

    Two pools are in memory at once: one is used while the next is decoded.

    Parameters
    ----------
    memory_mb
        In 10**6 bytes; None for no limit.
    length
        Steps of a sequence.
    fixed
        Bytes that are held besides.
    where
        Address of the dataset, for the message.

    Raises
    ------
    UsageError
        The budget does not hold two chunks.
    """
    plan = ReadPlan(source.first_chunk, source.last_chunk)
    budget = 0 if memory_mb is None else int(memory_mb * 1e6) - fixed
    if memory_mb is None or len(plan.needed()) * source.chunk_bytes <= budget:
        return plan, 0
    reserve = int(budget * _RESERVED_SHARE)
    row = source.chunk_bytes // source.chunk_rows
    longest = int(source.lengths.max()) * row
    for blocks in range(_MAX_BLOCKS, 0, -1):
        # Every block of a pool may complete an episode at either edge.
        room = (budget - reserve) // 2 - length * row - 2 * blocks * longest
        block = room // (blocks * source.chunk_bytes)
        if block >= 1:
            return ReadPlan(source.first_chunk, source.last_chunk, block, blocks), int(
                reserve * _CARRY_SHARE
            )
    least = 2 * (source.chunk_bytes + length * row + 2 * longest) / (1 - _RESERVED_SHARE) + fixed
    msg = (
        f"a budget of {memory_mb:g} MB cannot hold two chunks of the dataset at {where!r}: give "
        f"at least {least / 1e6 + 0.01:.2f} MB or fewer arrays"
    )
    raise UsageError(msg)
