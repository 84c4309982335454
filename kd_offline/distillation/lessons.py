"""Training and held-out targets of a dataset: all in memory, or computed from a stream."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from kd_offline.datasets import ExpertBuffer
from kd_offline.datasets.loading.budget import table_bytes
from kd_offline.datasets.loading.loader import Loader
from kd_offline.datasets.loading.plan import Windows
from kd_offline.datasets.sampler import Position
from kd_offline.distillation.measures import MEASURED, Measures, measure, part_episodes
from kd_offline.distillation.targets import (
    Lesson,
    PackedTargets,
    Taught,
    arrays_to_read,
    build_targets,
)
from kd_offline.errors import UsageError
from kd_offline.schemas.dataset import ExpertRecord
from kd_offline.schemas.recipes import DistillRecipe
from kd_offline.types import IntArray


class Episodes(Protocol):
    """Episodes as the training loop takes them."""

    def __len__(self) -> int:
        """Return how many episodes there are."""

    def epoch(self, size: int, seed: int, epoch: int) -> Iterator[PackedTargets]:
        """Yield the batches of ``size`` episodes of an epoch, in its order."""

    def parts(self, size: int) -> Iterator[PackedTargets]:
        """Yield all episodes in the order of the file, ``size`` or fewer at a time."""


@dataclass(frozen=True, slots=True)
class Judges:
    """Episodes that students are judged by and never trained on, and the part that they are."""

    part: str
    episodes: Episodes


@dataclass(frozen=True, slots=True)
class Streamed:
    """Episodes that do not fit: decoded ahead, their targets computed batch by batch."""

    buffer: ExpertBuffer
    episodes: IntArray
    lesson: Lesson
    length: int

    def __len__(self) -> int:
        return len(self.episodes)

    def epoch(self, size: int, seed: int, epoch: int) -> Iterator[PackedTargets]:
        """Yield the batches of an epoch; see :class:`~kd_offline.datasets.Loader`."""
        loader = _loader(self, size, seed, shuffle=True)
        for batch in loader.batches(Position(epoch), epochs=1):
            yield build_targets(batch, self.lesson).packed()

    def parts(self, size: int) -> Iterator[PackedTargets]:
        """Yield all episodes in the order of the file."""
        for batch in _loader(self, size, 0, shuffle=False).batches(epochs=1):
            yield build_targets(batch, self.lesson).packed()


def _loader(streamed: Streamed, size: int, seed: int, *, shuffle: bool) -> Loader:
    recipe = streamed.lesson.recipe
    return Loader.open(
        streamed.buffer,
        arrays_to_read(streamed.buffer, recipe),
        size,
        windows=Windows(streamed.length),
        episodes=streamed.episodes,
        seed=seed,
        shuffle=shuffle,
        drop_last=shuffle,
        memory_mb=recipe.memory_mb,
    )


def ordered(buffer: ExpertBuffer, episodes: IntArray, recipe: DistillRecipe) -> Loader:
    """Return whole episodes in the order of the file, with all that their targets need.

    Raises
    ------
    UsageError
        No budget is given, and this machine has too little memory for everything; or the budget
        is too small for anything.
    """
    names = arrays_to_read(buffer, recipe)
    if recipe.memory_mb is None:
        _check_machine(buffer, names)
    length = int(buffer.episodes("length")[episodes].max())
    return Loader.open(
        buffer,
        names,
        part_episodes(length),
        episodes=episodes,
        shuffle=False,
        memory_mb=recipe.memory_mb,
    )


def measured(loader: Loader, recipe: DistillRecipe) -> Measures:
    """Measure the episodes of ``loader``; a stream reads no more arrays than that takes."""
    buffer, switches = loader.buffer, recipe.switches
    critic = first_critic(buffer)
    if loader.streams:
        names = [name for name in MEASURED if name in loader.names]
        names += ["steps/embedding"] * (switches.centre and "steps/embedding" in loader.names)
        loader = Loader.open(
            buffer,
            names,
            loader.batch,
            episodes=loader.episodes,
            shuffle=False,
            memory_mb=recipe.memory_mb,
        )
    return measure(loader.batches(epochs=1), buffer.spec, critic, switches)


def first_critic(buffer: ExpertBuffer) -> ExpertRecord | None:
    """Return the expert whose values a dataset holds."""
    return buffer.manifest.experts[0] if buffer.manifest.experts else None


def taught(loader: Loader, lesson: Lesson) -> Episodes:
    """Return the targets of the episodes of ``loader``, in memory where they fit the budget."""
    budget = lesson.recipe.memory_mb
    if budget is not None and (loader.streams or _needed(loader, lesson) > budget * 1e6):
        return Streamed(loader.buffer, loader.episodes, lesson, loader.length)
    parts = (build_targets(batch, lesson) for batch in loader.batches(epochs=1))
    return Taught.of(parts, loader.buffer.episodes("length")[loader.episodes])


def _needed(loader: Loader, lesson: Lesson) -> float:
    """Return the bytes of all targets and of the arrays that they are computed from."""
    batch = next(loader.batches())
    probe = build_targets(batch, lesson)
    step = sum(x.nbytes for x in probe.targets.tensors().values()) / probe.lengths.sum()
    steps = loader.buffer.episodes("length")[loader.episodes].sum()
    episode = sum(x.nbytes for x in batch.arrays.values()) / len(batch)
    return float(step * steps + episode * len(loader.episodes))


def _check_machine(buffer: ExpertBuffer, names: Iterable[str]) -> None:
    if not hasattr(os, "sysconf"):
        return
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    decoded = table_bytes(buffer.manifest, names)
    if 2 * decoded > there:  # targets take about as much again
        msg = (
            f"the dataset at {buffer.where!r} needs some {2 * decoded / 1e9:.1f} GB of memory and "
            f"this machine has {there / 1e9:.1f}: give --memory-mb, and it is streamed within that"
        )
        raise UsageError(msg)
