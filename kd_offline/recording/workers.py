"""Play several batches of episodes in parallel."""

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
    environments: Sequence[BatchedEnvironment],
    seed_batches: Sequence[SeedArray],
) -> Iterator[Made]:
    """Yield the result of ``play`` for each batch of seeds, in order, in parallel threads.

    Each thread plays in its own environment with one PyTorch thread: matrix products of a batch
    gain little from more threads, and the bits do not depend on the number of threads. An error in
    one batch is raised here after the running batches have finished.
    """
    idle_environments: SimpleQueue[BatchedEnvironment] = SimpleQueue()
    for environment in environments:
        idle_environments.put(environment)

    def task(seeds: SeedArray) -> Made:
        environment = idle_environments.get()
        try:
            return play(environment, seeds)
        finally:
            idle_environments.put(environment)

    # OpenMP has a number of threads for each thread that calls it.
    with Threads(len(environments), partial(torch.set_num_threads, 1)) as threads:
        yield from threads.map(task, seed_batches)
