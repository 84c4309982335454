"""The timing protocol: engines take turns, every step is timed, after a warm-up, on one thread."""

from __future__ import annotations

import gc
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from kd_offline.errors import UnknownNameError, UsageError
from kd_offline.evaluation.engines import ENGINES, Nanoseconds, Sampler
from kd_offline.schemas.latency import Histogram
from kd_offline.seeding import generator
from kd_offline.tracking.base import SILENT, Observer, counting

DEFAULT_ENGINES = ("torch", "onnx", "c", "c-ctypes", "numpy")
BINS_PER_DECADE = 20
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a measurement: engines, batch sizes, rounds and steps of a round."""

    engines: tuple[str, ...] = DEFAULT_ENGINES
    batches: tuple[int, ...] = (1,)
    rounds: int = 50
    steps: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.engines:
            if name not in ENGINES:
                raise UnknownNameError(what="engine", got=name, allowed=ENGINES)
        smallest = min((*self.batches, self.rounds, self.steps), default=0)
        if smallest < 1 or not self.engines or not self.batches:
            msg = (
                f"cannot measure {self.rounds} rounds of {self.steps} steps in batches of "
                f"{list(self.batches)}: give an engine or more, and 1 or more of everything"
            )
            raise UsageError(msg)

    @property
    def discarded(self) -> int:
        """Number of steps at the start of a burst that run without being counted (warm-up)."""
        return max(1, self.steps // 5)


def interleaved(
    samplers: Mapping[Key, Sampler], plan: Plan, observer: Observer = SILENT
) -> dict[Key, Nanoseconds]:
    """Run all samplers in turns, in a new order each round.

    Returns
    -------
    dict
        Key of a sampler -> nanoseconds of its counted steps, int64 [rounds * steps].
    """
    keys = list(samplers)
    times: dict[Key, list[Nanoseconds]] = {name: [] for name in keys}
    order = generator(plan.seed, "latency order")
    tick = counting(observer, plan.rounds, "rounds")
    with _no_collection():
        for _ in range(plan.rounds):
            for index in order.permutation(len(keys)):
                samplers[keys[index]](plan.discarded)
                times[keys[index]].append(samplers[keys[index]](plan.steps))
            tick()
    return {name: np.concatenate(bursts) for name, bursts in times.items()}


def histogram(nanoseconds: Nanoseconds) -> Histogram:
    """Return counts in logarithmic bins, 20 bins for each factor of ten."""
    microseconds = np.maximum(nanoseconds, 1) / 1e3
    exponents = np.floor(np.log10(microseconds) * BINS_PER_DECADE).astype(int)
    low, high = int(exponents.min()), int(exponents.max())
    counts = np.bincount(exponents - low, minlength=high - low + 1)
    edges = 10.0 ** (np.arange(low, high + 2) / BINS_PER_DECADE)
    return Histogram(edges_us=tuple(edges.tolist()), counts=tuple(counts.tolist()))


@contextmanager
def _no_collection() -> Iterator[None]:
    """Disable Python's garbage collector while the body runs."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
