"""Figures over all training episodes that targets and students need, in one pass over the data.

Episodes come in parts whose size follows from the dataset alone, and the parts are merged in the
order of the file: the figures are the same bits whether the data are in memory or streamed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from kd_offline.datasets.loading.loader import Batch
from kd_offline.distillation.advantages import Estimates, estimates
from kd_offline.errors import UsageError
from kd_offline.schemas.dataset import ExpertRecord
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.recipes import LossSwitches
from kd_offline.students.networks import InputScale
from kd_offline.types import Array, FloatArray

MINIMUM_R2 = 0.3
MEASURED = (
    "steps/obs",
    "steps/alive",
    "steps/available_actions",
    "steps/reward",
    "steps/value",
    "steps/terminated",
    "steps/truncated",
    "final/value",
)
PART_STEPS = 25_600
"""Steps of a part, padding included: small beside a network's memory."""


@dataclass(frozen=True, slots=True)
class Measures:
    """What was measured; None where the recipe reads nothing to measure it on."""

    scale: InputScale
    centre: FloatArray | None = None  # mean embedding [N, H]
    advantage_mean: float = 0.0
    advantage_std: float = 1.0


@dataclass(slots=True)
class Deviation:
    """Running mean and squared deviation under weights, merged part by part in float64."""

    axes: tuple[int, ...]
    count: Any = 0.0
    mean: Any = 0.0
    squares: Any = 0.0

    def add(self, values: Array, weight: Array) -> None:
        """Count in ``values``; ``weight`` broadcasts to them."""
        weights = weight.astype(np.float64)
        count = np.broadcast_to(weights, values.shape).sum(self.axes)
        mean = (values * weights).sum(self.axes) / count.clip(1)
        total = (self.count + count).clip(1)
        gap = mean - self.mean
        squares = (np.square(values - mean) * weights).sum(self.axes)
        self.squares = self.squares + squares + gap * gap * self.count * count / total
        self.mean = self.mean + gap * count / total
        self.count = self.count + count

    @property
    def std(self) -> Any:
        """Standard deviation of the population."""
        return np.sqrt(self.squares / np.maximum(self.count, 1))


@dataclass(slots=True)
class _Totals:
    obs: Deviation = field(default_factory=lambda: Deviation((0, 1)))
    motion: Deviation = field(default_factory=lambda: Deviation((0, 1)))
    embedding: Deviation = field(default_factory=lambda: Deviation((0, 1)))
    advantage: Deviation = field(default_factory=lambda: Deviation((0, 1, 2)))
    returns: Deviation = field(default_factory=lambda: Deviation((0, 1, 2)))
    residual: float = 0.0


def part_episodes(length: int) -> int:
    """Return the episodes of a part, for episodes padded to ``length`` steps."""
    return max(1, PART_STEPS // length)


def measure(
    parts: Iterator[Batch],
    spec: EnvironmentSpec,
    critic: ExpertRecord | None,
    switches: LossSwitches,
) -> Measures:
    """Go once over whole training episodes, in the order of the file.

    Raises
    ------
    UsageError
        There are values, and the recorded critic explains too little of the returns.
    """
    totals = _Totals()
    for batch in parts:
        _add_views(totals, batch)
        alive = batch["steps/alive"] & batch.valid[..., None]
        if switches.centre and "steps/embedding" in batch.arrays:
            totals.embedding.add(batch["steps/embedding"].astype(np.float64), alive[..., None])
        if critic is not None and "steps/value" in batch.arrays:
            weight = deciding(batch.arrays, alive, switches)
            _add_values(totals, estimates(batch.arrays, spec, critic, switches), weight)
    if totals.returns.count:
        _check_critic(1 - totals.residual / max(float(totals.returns.squares), 1e-12))
    return Measures(
        scale=InputScale(totals.obs.mean, totals.obs.std, totals.motion.std),
        centre=totals.embedding.mean if np.ndim(totals.embedding.mean) else None,
        advantage_mean=float(totals.advantage.mean),
        advantage_std=float(totals.advantage.std),
    )


def deciding(data: Mapping[str, Array], alive: Array, switches: LossSwitches) -> Array:
    """Return where an agent's decision counts, bool [B, T, N]."""
    if not switches.drop_forced:
        return alive
    choices = (data["steps/available_actions"] | ~alive[..., None]).sum(-1)
    counts: Array = alive & (choices > 1)
    return counts


def _add_views(totals: _Totals, batch: Batch) -> None:
    obs, alive = batch["steps/obs"], batch["steps/alive"] & batch.valid[..., None]
    totals.obs.add(obs, alive[..., None])
    both = alive[:, 1:] & alive[:, :-1]
    totals.motion.add(obs[:, 1:] - obs[:, :-1], both[..., None])


def _add_values(totals: _Totals, found: Estimates, weight: Array) -> None:
    """Outside of ``weight`` estimates follow no rule, and count nothing."""
    value, error, advantage = (
        torch.where(torch.from_numpy(weight), x, 0.0).double().numpy() for x in found
    )
    totals.advantage.add(advantage, weight)
    totals.returns.add(error + value, weight)
    totals.residual += float((np.square(error) * weight).sum())


def _check_critic(r2: float) -> None:
    if r2 < MINIMUM_R2:
        msg = (
            f"the recorded critic explains {r2:.2f} of the variance of the returns, and the "
            f"policy-gradient term needs at least {MINIMUM_R2}: distil with --policy-term none, "
            "or record an expert whose critic fits its rewards"
        )
        raise UsageError(msg)
