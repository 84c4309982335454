"""Policy gradient on recorded advantages (KD-MARL, Eqs. 1 to 4), and its offline forms."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from kd_offline.advantage import generalised_advantage, side_mean, side_sum, waiting
from kd_offline.distillation import losses
from kd_offline.distillation.dataset_statistics import Deviation, Moments
from kd_offline.distillation.terms.base import (
    Accumulator,
    Elements,
    LossTerm,
    RecordedBatch,
    StudentBatch,
    TargetBatch,
    TermSettings,
    TrainingEpisodes,
)
from kd_offline.distillation.terms.kl import KLSettings
from kd_offline.errors import UsageError
from kd_offline.schemas.bounds import Steps
from kd_offline.schemas.dataset import ExpertRecord
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.types import Array

MINIMUM_R2 = 0.3
"""Least share of the variance of returns that a critic has to explain."""

_STEPS = ("reward", "value", "alive", "terminated", "truncated")


class PolicySettings(TermSettings):
    """Settings of the policy gradient."""

    warmup: float = Field(
        default=0.2, ge=0, le=1, description="share of the updates before the term sets in"
    )
    form: Literal["ppo", "awr", "crr"] = Field(
        default="ppo", description="clipped ratio, advantage-weighted, or positive advantages only"
    )
    ratio: Literal["per_agent", "joint"] = "per_agent"
    clip: float = Field(default=0.2, gt=0, description="epsilon, Eq. 4")
    temperature: Literal["one", "kl"] = Field(
        default="one", description="of the student in the ratio; kl: that of the KL, as Alg. 1"
    )
    awr_temperature: float = Field(default=1.0, gt=0)
    gamma: float | None = Field(
        default=None, ge=0, le=1, description="None: as the recorded critic was trained"
    )
    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    gae_horizon: Steps | None = Field(default=None, description="L of Eq. 2; None: to the end")
    bootstrap_on_truncation: bool | None = Field(
        default=None, description="None: as the recorded critic was trained"
    )


class PolicyGradient(LossTerm[PolicySettings]):
    """Raises the probability of executed actions by their advantage, to be maximised."""

    description = "policy gradient on recorded advantages (Eqs. 1 to 4)"
    settings_type = PolicySettings
    any_axes = True
    maximised = True

    def arrays(self, present: Iterable[str]) -> Sequence[str]:
        """Return rewards, values and actions; their probabilities where a ratio is taken."""
        names = ["steps/actions", "steps/value", "final/value", "steps/reward"]
        names += ["steps/terminated", "steps/truncated"]
        names += ["steps/behaviour_logprob"] if self.settings.form == "ppo" else []
        return [*names, *(name for name in present if name == "steps/action_source")]

    def fit(self, episodes: TrainingEpisodes) -> Accumulator | None:
        """Collect the moments of advantages, and judge the critic that they are built on."""
        if episodes.expert is None:
            return None
        return Advantages(episodes.spec, episodes.expert, self.settings)

    def targets(self, batch: TargetBatch) -> dict[str, Tensor]:
        """Return what was done, its advantage and, for PPO, its log probability, [B, T, N]."""
        if batch.expert is None:
            return {}
        raw = advantages(batch.arrays, batch.spec, batch.expert, self.settings)
        # CRR asks whether an action was better than the policy: less the mean, the sign is another.
        if self.statistics is not None and self.settings.form != "crr":
            raw = self.statistics.normalised(raw)
        found = {"executed": batch.executed(), "advantage": raw.masked_fill(~batch.alive, 0.0)}
        if self.settings.form == "ppo":
            found["behaviour"] = torch.from_numpy(batch.arrays["steps/behaviour_logprob"])
        return found

    def loss(
        self, students: StudentBatch, targets: Mapping[str, Tensor], heads: nn.Module | None
    ) -> Elements | None:
        """Return the gain of every decision, [S, N]; None where no critic was recorded."""
        if "advantage" not in targets:
            return None
        own, advantage = students.policy, targets["advantage"]
        if self.settings.temperature == "kl":
            tau = KLSettings.model_validate(self.recipe.terms.get("kl", {})).temperature
            own = own.at(tau)
        taken = own.log_prob(targets["executed"])
        if self.settings.form == "awr":
            gain = losses.advantage_weighted(taken, advantage, self.settings.awr_temperature)
        elif self.settings.form == "crr":
            gain = losses.positive_only(taken, advantage)
        else:
            behaviour = targets["behaviour"]
            if self.settings.ratio == "joint":
                both = (x * students.weight for x in (taken, behaviour))
                taken, behaviour = (side_sum(x, students.side_of) for x in both)
            gain = losses.ppo_clip(taken, behaviour, advantage, self.settings.clip)
        return Elements(gain, students.weight)


@dataclass(slots=True)
class Advantages:
    """Collects the moments of every side's advantages, and how well its critic foretells returns.

    Raises a ``UsageError`` when finished, where a critic explains too little.
    """

    spec: EnvironmentSpec
    critic: ExpertRecord
    settings: PolicySettings
    arrays: Sequence[str] = (
        *(f"steps/{name}" for name in _STEPS),
        "steps/action_source",
        "final/value",
    )
    sides: list[_Side] = field(init=False)

    def __post_init__(self) -> None:
        self.sides = _sides(self.spec)

    def add(self, batch: RecordedBatch) -> None:
        """Count in the estimates of decisions."""
        found = estimates(batch.arrays, self.spec, self.critic, self.settings)
        alone = batch.played_by_expert()
        with np.errstate(over="ignore", invalid="ignore"):  # told by _check_critic
            for side in self.sides:
                _add_values(side, found, batch.deciding, alone)

    def finish(self) -> Moments | None:
        """Return the moments of every agent's side; None where a side decides nothing."""
        for side in self.sides:
            _check_critic(side, several=len(self.sides) > 1)
        return _by_agent(self.sides, self.spec.n_agents)


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


def _check_critic(side: _Side, *, several: bool) -> None:
    if not side.everywhere.returns.seen:
        return
    r2 = side.fit.explained
    if not math.isfinite(r2 + side.advantage.std):
        msg = (
            f"the rewards and values of side {side.name!r} are so large that returns exceed "
            "float32, and the policy-gradient term needs them: set weights.policy to 0, or "
            "scale the rewards in the environment and record again"
        )
        raise UsageError(msg)
    if r2 < MINIMUM_R2:
        whose = f" of side {side.name!r}" if several else ""
        msg = (
            f"the recorded critic explains {r2:.2f} of the variance of the returns{whose}, and the "
            f"policy-gradient term needs at least {MINIMUM_R2}: set weights.policy to 0, "
            "or record an expert whose critic fits its rewards"
        )
        raise UsageError(msg)


class Estimates(NamedTuple):
    """Of whole episodes, float [B, T, N]; steps behind an episode's end follow no rule."""

    value: Tensor
    error: Tensor  # discounted return minus value
    advantage: Tensor


def advantages(
    data: Mapping[str, Array], spec: EnvironmentSpec, critic: ExpertRecord, settings: PolicySettings
) -> Tensor:
    """Return the advantages of episodes, float [B, T, N], in raw reward units."""
    return _estimate(data, spec, critic, settings, settings.gae_lambda, settings.gae_horizon)


def estimates(
    data: Mapping[str, Array], spec: EnvironmentSpec, critic: ExpertRecord, settings: PolicySettings
) -> Estimates:
    """Return advantages beside what judges the critic that they are built on."""
    value = torch.from_numpy(data["steps/value"])
    error = _estimate(data, spec, critic, settings, 1.0, None)
    return Estimates(value, error, advantages(data, spec, critic, settings))


def _estimate(
    data: Mapping[str, Array],
    spec: EnvironmentSpec,
    critic: ExpertRecord,
    settings: PolicySettings,
    gae_lambda: float,
    horizon: int | None,
) -> Tensor:
    step = {name: torch.from_numpy(data[f"steps/{name}"]).transpose(0, 1) for name in _STEPS}
    bootstrap = settings.bootstrap_on_truncation
    return generalised_advantage(
        side_mean(step["reward"], torch.tensor(spec.side_of)),
        step["value"],
        torch.from_numpy(data["final/value"]),
        step["terminated"],
        step["truncated"],
        gamma=settings.gamma if settings.gamma is not None else critic.gamma or 0.99,
        gae_lambda=gae_lambda,
        bootstrap_on_truncation=bool(
            critic.bootstraps_truncation if bootstrap is None else bootstrap
        ),
        horizon=horizon,
        waits=waiting(step["alive"], step["terminated"] | step["truncated"]),
    ).transpose(0, 1)
