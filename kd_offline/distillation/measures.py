"""Figures over all training episodes that targets and students need, in one pass over the data.

Episodes come in parts whose size follows from the dataset alone, and the parts are merged in the
order of the file: the figures are the same bits whether the data are in memory or streamed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd_offline.datasets.layout import SOURCES
from kd_offline.datasets.loading.loader import Batch
from kd_offline.distillation.advantages import Estimates, estimates
from kd_offline.distillation.values import centred, state_value, variance
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
    "steps/action_source",
    "steps/terminated",
    "steps/truncated",
    "steps/q_values",
    "final/value",
)
_LARGE = 1e38  # twice as much, which a change may be, is within float32
PART_STEPS = 25_600
"""Steps of a part, padding included: small beside a network's memory."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean and standard deviation, [N] each; a deviation of zero is given as 1."""

    mean: FloatArray
    std: FloatArray

    def normalised(self, values: Tensor) -> Tensor:
        """Return ``values`` [..., N] less the mean, in deviations."""
        mean, std = (torch.from_numpy(x.astype(np.float32)) for x in (self.mean, self.std))
        return (values - mean) / std


@dataclass(frozen=True, slots=True)
class Measures:
    """What was measured; None where the recipe reads nothing to measure it on."""

    scale: InputScale
    centre: FloatArray | None = None  # mean embedding [N, H]
    advantage: Moments | None = None
    state_value: Moments | None = None  # mean Q-value of the legal actions
    q_scale: FloatArray | None = None  # [N], root mean variance of Q-values between legal actions


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


@dataclass(slots=True)
class _Totals:
    obs: Deviation = field(default_factory=lambda: Deviation((0, 1)))
    motion: Deviation = field(default_factory=lambda: Deviation((0, 1)))
    embedding: Deviation = field(default_factory=lambda: Deviation((0, 1)))
    state_value: Deviation = field(default_factory=lambda: Deviation((0, 1)))
    q_variance: Deviation = field(default_factory=lambda: Deviation((0, 1)))
    sides: list[_Side] = field(default_factory=list)


@dataclass(slots=True)
class _Fit:
    """How well a critic foretells returns."""

    returns: Deviation = field(default_factory=lambda: Deviation((0, 1, 2)))
    residual: float = 0.0

    def add(self, value: Array, error: Array, weight: Array) -> None:
        """Count in values and what the returns exceed them by."""
        self.returns.add(error + value, weight)
        self.residual += float((np.square(error) * weight).sum())

    @property
    def explained(self) -> float:
        """Share of the variance of the returns that the values explain."""
        return 1 - self.residual / max(float(self.returns.squares), 1e-12)


@dataclass(slots=True)
class _Side:
    """What a side's critic and rewards gave; sides differ in the unit and meaning of both.

    A critic speaks of the policy that it was trained with. Where noise or a partner acted, returns
    are those of another, so episodes that the expert played alone judge it, if there are any.
    """

    name: str
    agents: list[int]
    advantage: Deviation = field(default_factory=lambda: Deviation((0, 1, 2)))
    everywhere: _Fit = field(default_factory=_Fit)
    alone: _Fit = field(default_factory=_Fit)

    @property
    def fit(self) -> _Fit:
        """What the critic is judged by."""
        return self.alone if self.alone.returns.seen else self.everywhere


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
        There are values, and the recorded critic explains too little of the returns of a side.
    """
    totals = _Totals(sides=_sides(spec))
    for batch in parts:
        _add_views(totals, batch)
        alive = batch["steps/alive"] & batch.valid[..., None]
        if switches.centre and "steps/embedding" in batch.arrays:
            totals.embedding.add(batch["steps/embedding"].astype(np.float64), alive[..., None])
        if critic is not None and "steps/value" in batch.arrays:
            weight = deciding(batch.arrays, alive, switches)
            found = estimates(batch.arrays, spec, critic, switches)
            alone = _alone(batch.arrays, alive)
            with np.errstate(over="ignore", invalid="ignore"):  # told by _check_critic
                for side in totals.sides:
                    _add_values(side, found, weight, alone)
        if "steps/q_values" in batch.arrays:
            _add_q_values(totals, batch, deciding(batch.arrays, alive, switches))
    for side in totals.sides:
        _check_critic(side, several=len(totals.sides) > 1)
    return Measures(
        scale=InputScale(totals.obs.mean, totals.obs.std, totals.motion.std),
        centre=totals.embedding.mean if np.ndim(totals.embedding.mean) else None,
        advantage=_by_agent(totals.sides, spec.n_agents),
        state_value=_moments(totals.state_value),
        q_scale=_steady(np.sqrt(totals.q_variance.mean)) if totals.q_variance.seen else None,
    )


def _sides(spec: EnvironmentSpec) -> list[_Side]:
    owner = np.array(spec.side_of)
    return [_Side(name, np.flatnonzero(owner == k).tolist()) for k, name in enumerate(spec.sides)]


def _by_agent(sides: list[_Side], n_agents: int) -> Moments | None:
    """Return for every agent the moments of its side's advantages."""
    if not all(side.advantage.seen for side in sides):
        return None
    mean, std = np.zeros(n_agents), np.zeros(n_agents)
    for side in sides:
        mean[side.agents], std[side.agents] = side.advantage.mean, side.advantage.std
    return Moments(mean, std + 1e-8)


def _moments(found: Deviation) -> Moments | None:
    return Moments(found.mean, _steady(found.std)) if found.seen else None


def _steady(deviation: FloatArray) -> FloatArray:
    return np.where(deviation > 1e-8, deviation, 1.0)


def deciding(data: Mapping[str, Array], alive: Array, switches: LossSwitches) -> Array:
    """Return where an agent's decision counts, bool [B, T, N]; none of one that waits its turn."""
    choices = data["steps/available_actions"].sum(-1)
    counts: Array = alive & (choices > (1 if switches.drop_forced else 0))
    return counts


def _add_views(totals: _Totals, batch: Batch) -> None:
    obs, alive = batch["steps/obs"], batch["steps/alive"] & batch.valid[..., None]
    totals.obs.add(obs, alive[..., None])
    both = alive[:, 1:] & alive[:, :-1]
    if max(obs.max(), -obs.min()) > _LARGE:
        obs = obs.astype(np.float64)
    totals.motion.add(obs[:, 1:] - obs[:, :-1], both[..., None])


def _alone(data: Mapping[str, Array], alive: Array) -> Array:
    """Return which episodes the expert played without noise and partners, bool [B]."""
    if "steps/action_source" not in data:
        return np.ones(len(alive), bool)
    other = alive & (data["steps/action_source"] != SOURCES["expert"])
    found: Array = ~other.any((1, 2))
    return found


def _add_values(side: _Side, found: Estimates, weight: Array, alone: Array) -> None:
    """Outside of ``weight`` estimates follow no rule, and count nothing."""
    mine = weight[..., side.agents]
    value, error, advantage = (
        torch.where(torch.from_numpy(mine), x[..., side.agents], 0.0).double().numpy()
        for x in found
    )
    side.advantage.add(advantage, mine)
    side.everywhere.add(value, error, mine)
    side.alone.add(value, error, mine & alone[:, None, None])


def _add_q_values(totals: _Totals, batch: Batch, weight: Array) -> None:
    """Outside of ``weight`` there may be no legal action, and nothing counts."""
    legal = torch.from_numpy(batch["steps/available_actions"])
    q = torch.from_numpy(batch["steps/q_values"]).double()
    totals.state_value.add(state_value(q, legal).numpy(), weight)
    totals.q_variance.add(variance(centred(q, legal), legal).numpy(), weight)


def _check_critic(side: _Side, *, several: bool) -> None:
    if not side.everywhere.returns.seen:
        return
    r2 = side.fit.explained
    if not math.isfinite(r2 + side.advantage.std):
        msg = (
            f"the rewards and values of side {side.name!r} are so large that returns exceed "
            "float32, and the policy-gradient term needs them: distil with --policy-term none, or "
            "scale the rewards in the environment and record again"
        )
        raise UsageError(msg)
    if r2 < MINIMUM_R2:
        whose = f" of side {side.name!r}" if several else ""
        msg = (
            f"the recorded critic explains {r2:.2f} of the variance of the returns{whose}, and the "
            f"policy-gradient term needs at least {MINIMUM_R2}: distil with --policy-term none, "
            "or record an expert whose critic fits its rewards"
        )
        raise UsageError(msg)
