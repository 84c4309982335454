"""Batches of episodes played side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

import torch

from kd_offline.environments.protocol import BatchedEnvironment
from kd_offline.execution.threads import Threads
from kd_offline.types import SeedArray

Made = TypeVar("Made")


def in_order(
    play: Callable[[BatchedEnvironment, SeedArray], Made],
    worlds: Sequence[BatchedEnvironment],
    parts: Sequence[SeedArray],
) -> Iterator[Made]:
    """Yield what ``play`` makes of each of ``parts``, in order, as many at a time as ``worlds``.

    Each thread plays with its own environment and one PyTorch thread: matrix products of a batch
    gain little from being split further, and the bits do not depend on how many threads there are.
    What one of them raises is raised here, once the batches that are being played are over.
    """
    free: SimpleQueue[BatchedEnvironment] = SimpleQueue()
    for world in worlds:
        free.put(world)

    def task(seeds: SeedArray) -> Made:
        world = free.get()
        try:
            return play(world, seeds)
        finally:
            free.put(world)

    # OpenMP keeps its number of threads for each thread.
    with Threads(len(worlds), partial(torch.set_num_threads, 1)) as threads:
        yield from threads.map(task, parts)
