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
"""Smallest share of the variance of returns that a critic must explain."""

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
    """Policy gradient: raises the probability of executed actions by their advantage."""

    description = "policy gradient on recorded advantages (Eqs. 1 to 4)"
    settings_type = PolicySettings
    any_axes = True
    maximised = True

    def arrays(self, present: Iterable[str]) -> Sequence[str]:
        """Return rewards, values and actions; for PPO also their log probabilities."""
        names = ["steps/actions", "steps/value", "final/value", "steps/reward"]
        names += ["steps/terminated", "steps/truncated"]
        names += ["steps/behaviour_logprob"] if self.settings.form == "ppo" else []
        return [*names, *(name for name in present if name == "steps/action_source")]

    def fit(self, episodes: TrainingEpisodes) -> Accumulator | None:
        """Return an accumulator of the moments of advantages that also checks the critic."""
        if episodes.expert is None:
            return None
        return Advantages(episodes.spec, episodes.expert, self.settings)

    def targets(self, batch: TargetBatch) -> dict[str, Tensor]:
        """Return executed action, advantage and, for PPO, behaviour log probability: [B, T, N]."""
        if batch.expert is None:
            return {}
        advantage = advantages(batch.arrays, batch.spec, batch.expert, self.settings)
        # CRR uses the sign of the advantage, which subtracting the mean would change.
        if self.statistics is not None and self.settings.form != "crr":
            advantage = self.statistics.normalised(advantage)
        targets = {
            "executed": batch.executed(),
            "advantage": advantage.masked_fill(~batch.alive, 0.0),
        }
        if self.settings.form == "ppo":
            targets["behaviour"] = torch.from_numpy(batch.arrays["steps/behaviour_logprob"])
        return targets

    def loss(
        self, students: StudentBatch, targets: Mapping[str, Tensor], heads: nn.Module | None
    ) -> Elements | None:
        """Return the objective of every decision, [S, N]; None where no critic was recorded."""
        if "advantage" not in targets:
            return None
        policy, advantage = students.policy, targets["advantage"]
        if self.settings.temperature == "kl":
            tau = KLSettings.model_validate(self.recipe.terms.get("kl", {})).temperature
            policy = policy.at(tau)
        log_prob = policy.log_prob(targets["executed"])
        if self.settings.form == "awr":
            objective = losses.advantage_weighted(
                log_prob, advantage, self.settings.awr_temperature
            )
        elif self.settings.form == "crr":
            objective = losses.positive_only(log_prob, advantage)
        else:
            behaviour = targets["behaviour"]
            if self.settings.ratio == "joint":
                masked_pair = (x * students.weight for x in (log_prob, behaviour))
                log_prob, behaviour = (side_sum(x, students.side_of) for x in masked_pair)
            objective = losses.ppo_clip(log_prob, behaviour, advantage, self.settings.clip)
        return Elements(objective, students.weight)


@dataclass(slots=True)
class Advantages:
    """Accumulates moments of every side's advantages, and the explained variance of its critic.

    :meth:`finish` raises a ``UsageError`` if a critic explains too little.
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
        """Add the estimates of a batch's decisions."""
        batch_estimates = estimates(batch.arrays, self.spec, self.critic, self.settings)
        expert_only = batch.played_by_expert()
        with np.errstate(over="ignore", invalid="ignore"):  # told by _check_critic
            for side in self.sides:
                _add_values(side, batch_estimates, batch.deciding, expert_only)

    def finish(self) -> Moments | None:
        """Return the moments of every agent's side; None where a side has no decision."""
        for side in self.sides:
            _check_critic(side, several=len(self.sides) > 1)
        return _by_agent(self.sides, self.spec.n_agents)


@dataclass(slots=True)
class _ExplainedVariance:
    """Share of the variance of returns that a critic explains."""

    returns: Deviation = field(default_factory=lambda: Deviation((0, 1, 2)))
    residual: float = 0.0

    def add(self, value: Array, error: Array, weight: Array) -> None:
        """Add values and the errors ``return - value``."""
        self.returns.add(error + value, weight)
        self.residual += float((np.square(error) * weight).sum())

    @property
    def explained(self) -> float:
        """Share of the variance of the returns that the values explain."""
        return 1 - self.residual / max(float(self.returns.squares), 1e-12)


@dataclass(slots=True)
class _Side:
    """Accumulated statistics of one side; sides differ in the units of rewards and values.

    A critic estimates the returns of the policy that it was trained with. Where noise or a partner
    acted, returns are those of another policy. The critic is therefore checked on episodes that the
    expert played alone, if there are any.
    """

    name: str
    agents: list[int]
    advantage: Deviation = field(default_factory=lambda: Deviation((0, 1, 2)))
    everywhere: _ExplainedVariance = field(default_factory=_ExplainedVariance)
    alone: _ExplainedVariance = field(default_factory=_ExplainedVariance)

    @property
    def fit(self) -> _ExplainedVariance:
        """Explained variance that the critic is checked by."""
        return self.alone if self.alone.returns.seen else self.everywhere


def _sides(spec: EnvironmentSpec) -> list[_Side]:
    side_of = np.array(spec.side_of)
    return [_Side(name, np.flatnonzero(side_of == k).tolist()) for k, name in enumerate(spec.sides)]


def _by_agent(sides: list[_Side], n_agents: int) -> Moments | None:
    """Return for every agent the moments of its side's advantages."""
    if not all(side.advantage.seen for side in sides):
        return None
    mean, std = np.zeros(n_agents), np.zeros(n_agents)
    for side in sides:
        mean[side.agents], std[side.agents] = side.advantage.mean, side.advantage.std
    return Moments(mean, std + 1e-8)


def _add_values(side: _Side, batch_estimates: Estimates, weight: Array, expert_only: Array) -> None:
    """Add the estimates of one side; entries outside ``weight`` are set to 0 and do not count."""
    side_weight = weight[..., side.agents]
    value, error, advantage = (
        torch.where(torch.from_numpy(side_weight), x[..., side.agents], 0.0).double().numpy()
        for x in batch_estimates
    )
    side.advantage.add(advantage, side_weight)
    side.everywhere.add(value, error, side_weight)
    side.alone.add(value, error, side_weight & expert_only[:, None, None])


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
        side_text = f" of side {side.name!r}" if several else ""
        msg = (
            f"the recorded critic explains {r2:.2f} of the variance of the returns{side_text}, and "
            f"the policy-gradient term needs at least {MINIMUM_R2}: set weights.policy to 0, "
            "or record an expert whose critic fits its rewards"
        )
        raise UsageError(msg)


class Estimates(NamedTuple):
    """Estimates of whole episodes, float [B, T, N]; arbitrary after an episode's end."""

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
    """Return values, errors and advantages of episodes, float [B, T, N]."""
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
