"""Statistics of all training episodes that targets and students need, in one pass over the data.

Episodes come in parts whose size follows from the dataset alone, and the parts are merged in the
order of the file: the figures are the same bits whether the data are in memory or streamed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd_offline.datasets.loading.loader import Batch
from kd_offline.distillation.terms.base import Accumulator, RecordedBatch
from kd_offline.distillation.values import centred, variance
from kd_offline.schemas.recipes import Objective
from kd_offline.students.networks import InputScale
from kd_offline.types import Array, FloatArray

BASIC = ("steps/obs", "steps/alive", "steps/available_actions", "steps/q_values")
"""Arrays of the statistics that every distillation takes; Q-values where a term reads them."""

PART_STEPS = 25_600
"""Steps of a part, padding included: small beside a network's memory."""

_LARGE = 1e38  # twice as much, which a change may be, is within float32


class AliveMoments:
    """Accumulates mean and deviation of an array [N, ...] over agents that are alive.

    ``statistics`` makes of them what :meth:`finish` returns.
    """

    def __init__(self, array: str, statistics: Callable[[Deviation], Any]) -> None:
        self.arrays = (array,)
        self._moments, self._statistics = Deviation((0, 1)), statistics

    def add(self, batch: RecordedBatch) -> None:
        """Count in the values of a batch."""
        values = batch.arrays[self.arrays[0]].astype(np.float64)
        self._moments.add(values, batch.alive[..., None])

    def finish(self) -> Any:
        """Return the statistics."""
        return self._statistics(self._moments)


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean and standard deviation, [N] each; a deviation of zero is given as 1."""

    mean: FloatArray
    std: FloatArray

    @classmethod
    def of(cls, found: Deviation) -> Moments:
        """Return the moments of the values that were added."""
        return cls(found.mean, _steady(found.std))

    def normalised(self, values: Tensor) -> Tensor:
        """Return ``values`` [..., N] less the mean, in deviations."""
        mean, std = (torch.from_numpy(x.astype(np.float32)) for x in (self.mean, self.std))
        return (values - mean) / std


@dataclass(slots=True)
class Deviation:
    """Running mean and squared deviation under weights, merged part by part in float64."""

    axes: tuple[int, ...]
    count: Any = 0.0
    mean: Any = 0.0
    squares: Any = 0.0

    def add(self, values: Array, weight: Array) -> None:
        """Count in ``values``; ``weight`` has as many axes and broadcasts to them."""
        weights = weight.astype(np.float64)
        count = weights.sum(self.axes)
        mean = self._sum(values, weights) / count.clip(1)
        total = (self.count + count).clip(1)
        gap = mean - self.mean
        apart = values - mean
        squares = self._sum(np.square(apart, out=apart), weights)
        self.squares = self.squares + squares + gap * gap * self.count * count / total
        self.mean = self.mean + gap * count / total
        self.count = self.count + count

    def _sum(self, values: Array, weights: Array) -> Any:
        """Return the weighted sum; products as large as ``values`` would take most of the time."""
        names = "abcdefgh"[: values.ndim]
        same = zip(names, values.shape, weights.shape, strict=True)
        others = "".join(x if size == own else x.upper() for x, size, own in same)
        kept = "".join(x for k, x in enumerate(names) if k not in self.axes)
        return np.einsum(f"{names},{others}->{kept}", values, weights)

    @property
    def seen(self) -> bool:
        """Whether anything was counted in."""
        return bool(np.any(self.count))

    @property
    def std(self) -> Any:
        """Standard deviation of the population."""
        return np.sqrt(self.squares / np.maximum(self.count, 1))


@dataclass(frozen=True, slots=True)
class DatasetStatistics:
    """Scales of the students' inputs and of value-based experts' Q-values."""

    scale: InputScale
    q_scale: FloatArray | None = None
    """[N], root mean variance of Q-values between legal actions; None where they are not read."""


@dataclass(slots=True)
class _Totals:
    obs: Deviation = field(default_factory=lambda: Deviation((0, 1)))
    motion: Deviation = field(default_factory=lambda: Deviation((0, 1)))
    q_variance: Deviation = field(default_factory=lambda: Deviation((0, 1)))


def part_episodes(length: int) -> int:
    """Return the episodes of a part, for episodes padded to ``length`` steps."""
    return max(1, PART_STEPS // length)


def dataset_statistics(
    parts: Iterable[Batch], objective: Objective, accumulators: Iterable[Accumulator]
) -> DatasetStatistics:
    """Go once over whole training episodes, in the order of the file.

    The ``accumulators`` of loss terms are given every part too; who made them finishes them.
    """
    totals, collecting = _Totals(), list(accumulators)
    for batch in parts:
        alive = batch["steps/alive"] & batch.valid[..., None]
        _add_views(totals, batch["steps/obs"], alive)
        decides = deciding(batch.arrays, alive, objective)
        if "steps/q_values" in batch.arrays:
            _add_q_values(totals, batch, decides)
        recorded = RecordedBatch(batch.arrays, alive, decides)
        for accumulator in collecting:
            accumulator.add(recorded)
    unit = totals.q_variance
    return DatasetStatistics(
        scale=InputScale(totals.obs.mean, totals.obs.std, totals.motion.std),
        q_scale=_steady(np.sqrt(unit.mean)) if unit.seen else None,
    )


def _steady(deviation: FloatArray) -> FloatArray:
    return np.where(deviation > 1e-8, deviation, 1.0)


def deciding(arrays: Mapping[str, Array], alive: Array, objective: Objective) -> Array:
    """Return where an agent's decision counts, bool [B, T, N]; none of one that waits its turn."""
    choices = arrays["steps/available_actions"].sum(-1)
    counts: Array = alive & (choices > (1 if objective.drop_forced else 0))
    return counts


def _add_views(totals: _Totals, obs: Array, alive: Array) -> None:
    totals.obs.add(obs, alive[..., None])
    both = alive[:, 1:] & alive[:, :-1]
    if max(obs.max(), -obs.min()) > _LARGE:
        obs = obs.astype(np.float64)
    totals.motion.add(obs[:, 1:] - obs[:, :-1], both[..., None])


def _add_q_values(totals: _Totals, batch: Batch, weight: Array) -> None:
    """Outside of ``weight`` there may be no legal action, and nothing counts."""
    legal = torch.from_numpy(batch["steps/available_actions"])
    q = torch.from_numpy(batch["steps/q_values"]).double()
    totals.q_variance.add(variance(centred(q, legal), legal).numpy(), weight)
