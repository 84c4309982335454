"""Training and validation targets of a dataset: all in memory, or computed from a stream."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Protocol

import torch

from kd_offline.datasets import ExpertBuffer
from kd_offline.datasets.loading.budget import table_bytes
from kd_offline.datasets.loading.loader import Loader
from kd_offline.datasets.loading.plan import Windows
from kd_offline.datasets.loading.sampler import Position
from kd_offline.distillation.dataset_statistics import (
    BASIC,
    DatasetStatistics,
    dataset_statistics,
    part_episodes,
)
from kd_offline.distillation.own_episodes import own_episodes, passes_over
from kd_offline.distillation.targets import PackedTargets, TargetContext, TargetStore, build_targets
from kd_offline.distillation.terms.active import ActiveTerms
from kd_offline.distillation.terms.base import TrainingEpisodes
from kd_offline.errors import Remedy, UnknownNameError, UsageError
from kd_offline.types import IntArray


class EpisodeTargets(Protocol):
    """Episodes as the training loop takes them."""

    def __len__(self) -> int:
        """Return how many episodes there are."""

    def epoch(self, size: int, seed: int, epoch: int) -> Iterator[PackedTargets]:
        """Yield the batches of ``size`` episodes of an epoch, in its order."""

    def parts(self, size: int) -> Iterator[PackedTargets]:
        """Yield all episodes in the order of the file, ``size`` or fewer at a time."""

    def to(self, device: torch.device) -> EpisodeTargets:
        """Return the same episodes with all batches on a device."""


@dataclass(frozen=True, slots=True)
class ValidationEpisodes:
    """Episodes that students are judged by and never trained on, and the part that they are."""

    part: str
    episodes: EpisodeTargets


@dataclass(frozen=True, slots=True)
class StreamedTargets:
    """Episodes that do not fit: decoded ahead, their targets computed batch by batch."""

    buffer: ExpertBuffer
    episodes: IntArray
    context: TargetContext
    length: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def to(self, device: torch.device) -> StreamedTargets:
        """Return the same episodes, whose batches are moved to a device one by one."""
        return replace(self, device=device)

    def __len__(self) -> int:
        return len(self.episodes)

    def epoch(self, size: int, seed: int, epoch: int) -> Iterator[PackedTargets]:
        """Yield the batches of an epoch; see :class:`~kd_offline.datasets.Loader`."""
        own = own_episodes(len(self), size, seed, self.context.recipe.diverse)
        passes = passes_over(len(own), len(self), size)
        loader = _loader(replace(self, episodes=self.episodes[own]), size, seed, shuffle=True)
        batches = (
            batch
            for k in range(passes)
            for batch in loader.batches(Position(passes * epoch + k), epochs=1)
        )
        for batch in islice(batches, len(self) // size):
            yield build_targets(batch, self.context).packed().to(self.device)

    def parts(self, size: int) -> Iterator[PackedTargets]:
        """Yield all episodes in the order of the file."""
        for batch in _loader(self, size, 0, shuffle=False).batches(epochs=1):
            yield build_targets(batch, self.context).packed().to(self.device)


def _loader(streamed: StreamedTargets, size: int, seed: int, *, shuffle: bool) -> Loader:
    return Loader.open(
        streamed.buffer,
        arrays_to_read(streamed.buffer, streamed.context.terms),
        size,
        windows=Windows(streamed.length),
        episodes=streamed.episodes,
        seed=seed,
        shuffle=shuffle,
        drop_last=shuffle,
        memory_mb=streamed.context.recipe.memory_mb,
    )


def arrays_to_read(buffer: ExpertBuffer, terms: ActiveTerms) -> list[str]:
    """Return the names of the arrays that inputs and targets are computed from.

    Raises
    ------
    UnknownNameError
        The dataset has no mask of the recipe's name.
    """
    mask = terms.recipe.mask
    if mask not in buffer.mask_names:
        raise UnknownNameError(what="mask", got=mask, allowed=buffer.mask_names)
    names = [*terms.arrays(list(buffer.names)), "steps/actions", f"masks/{mask}"]
    return list(dict.fromkeys(names))


def in_file_order(buffer: ExpertBuffer, episodes: IntArray, terms: ActiveTerms) -> Loader:
    """Return whole episodes in the order of the file, with all that their targets need.

    Raises
    ------
    UsageError
        No budget is given, and this machine has too little memory for everything; or the budget
        is too small for anything.
    """
    names, budget = arrays_to_read(buffer, terms), terms.recipe.memory_mb
    if budget is None:
        _check_machine(buffer, names)
    return _parts(buffer, episodes, names, budget)


def _parts(
    buffer: ExpertBuffer, episodes: IntArray, names: Iterable[str], memory_mb: float | None
) -> Loader:
    size = part_episodes(int(buffer.episodes("length")[episodes].max()))
    return Loader.open(buffer, names, size, episodes=episodes, shuffle=False, memory_mb=memory_mb)


def fit(loader: Loader, terms: ActiveTerms) -> DatasetStatistics:
    """Take the statistics of the episodes of ``loader``, and give every term its own.

    A stream reads no more arrays than that takes.
    """
    buffer, recipe = loader.buffer, terms.recipe
    fitting = terms.fit(TrainingEpisodes(buffer, loader.episodes))
    if loader.streams:
        wanted = dict.fromkeys((*BASIC, *fitting.arrays))
        names = [name for name in wanted if name in loader.names]
        loader = _parts(buffer, loader.episodes, names, recipe.memory_mb)
    parts = loader.batches(epochs=1)
    found = dataset_statistics(parts, recipe.objective, fitting.accumulators.values())
    fitting.finish()
    return found


def make_targets(loader: Loader, context: TargetContext) -> EpisodeTargets:
    """Return the targets of the episodes of ``loader``, in memory where they fit the budget."""
    budget = context.recipe.memory_mb
    if budget is not None and (loader.streams or _needed(loader, context) > budget * 1e6):
        return StreamedTargets(loader.buffer, loader.episodes, context, loader.length)
    parts = (build_targets(batch, context) for batch in loader.batches(epochs=1))
    store = TargetStore.of(parts, loader.buffer.episodes("length")[loader.episodes])
    return replace(store, share=context.recipe.diverse)


def _needed(loader: Loader, context: TargetContext) -> float:
    """Return the bytes of all targets and of the arrays that they are computed from."""
    batch = next(loader.batches())
    probe = build_targets(batch, context)
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
            f"this machine has {there / 1e9:.1f}"
        )
        raise UsageError(msg, Remedy("to stream it, set", settings={"memory_mb": ...}))
