"""KL divergence from several experts: the one that played, or a weighted mean of all of them.

An expert's policy in a step that another one played is the one it had in its own nearest step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from kd_offline.distillation.step_samples import SampledAgent, StepSamples
from kd_offline.distillation.terms.base import Accumulator, TargetBatch, TrainingEpisodes
from kd_offline.distillation.terms.kl import KL, KLSettings
from kd_offline.distillation.terms.neighbours import log_targets
from kd_offline.distillation.values import policy_array
from kd_offline.errors import Remedy
from kd_offline.types import Array, FloatArray

_EXPERT_ID = "episodes/expert_id"


class TeacherSettings(KLSettings):
    """Settings of targets of several experts."""

    temperature: float = Field(
        default=1.0, gt=0, description="temperature tau of experts and student"
    )
    rule: Literal["own", "value", "validation"] = Field(
        default="own",
        description="target policy: that of the expert that played (own), or the mean of all, "
        "weighted by their values of the state (value) or by their mean returns without noise "
        "(validation)",
    )
    spread: float = Field(
        default=0.5,
        gt=0,
        description="deviations of values or returns by which a weight falls to 1 / e",
    )
    radius: float = Field(
        default=0.5,
        gt=0,
        description="distance, in deviations of the mean feature, beyond which an expert is left "
        "out of the mean in a step",
    )
    sample: int = Field(
        default=4096, ge=1, le=65_536, description="steps of each agent and expert to search"
    )


class TeacherKL(KL):
    """``KL(sum_k w_k pi_k / sum_k w_k || pi_S)``, times tau squared.

    The weights are ``exp(V_k / spread)`` of the experts' values of the state, or ``exp(R_k /
    spread)`` of their mean returns, in deviations of all. Distances are between whole observations.
    """

    description = "KL from the expert that played, or from a weighted mean of several experts"
    settings_type = TeacherSettings
    settings: TeacherSettings

    def arrays(self, present: Iterable[str]) -> Sequence[str]:
        """Return the arrays of policies, and for a mean also of experts and values."""
        names = list(present)
        if self.settings.rule == "own":
            return (policy_array(names),)
        return (_EXPERT_ID, "steps/logits", *(["steps/value"] * (self.settings.rule == "value")))

    def recorded_by(self) -> Remedy:
        """Return how the arrays are recorded."""
        states = "logits and values" if self.settings.rule == "value" else "logits"
        return Remedy(f"merge recordings of several experts that state {states}")

    @property
    def criterion(self) -> str:
        """The divergence from the mean; none where the expert that played is the target."""
        return "" if self.settings.rule == "own" else "teachers"

    def fit(self, episodes: TrainingEpisodes) -> Accumulator | None:
        """Return an accumulator of a sample of every expert's decisions; None for its own."""
        rule = self.settings.rule
        if rule == "own":
            return None
        self._earned = _mean_returns(episodes) if rule == "validation" else {}
        by_value = rule == "value"
        size = self.settings.sample
        return _Experts(StepSamples(episodes.spec, size, by_expert=True, values=by_value))

    def targets(self, batch: TargetBatch) -> dict[str, Tensor]:
        """Return log probabilities of the mean policy at the temperature, [B, T, N, A]."""
        if self.statistics is None:
            return super().targets(batch)
        assert batch.expert_policy is not None  # noqa: S101 - its array is read
        policy = batch.expert_policy.kept().exp().numpy().astype(np.float64)
        deciding = batch.weight.numpy() > 0
        for agent in range(batch.spec.n_agents):
            at: Any = (*np.nonzero(deciding[..., agent]), agent)
            if len(at[0]):
                policy[at] = self._mean(batch, at, policy[at])
        return {"expert": log_targets(policy, batch, self.settings.temperature)}

    def _mean(self, batch: TargetBatch, at: Any, own: FloatArray) -> FloatArray:
        """Return the weighted mean of all experts' policies, [Q, A].

        ``at``: episodes [Q], steps [Q] and the agent; ``own``: policy of the one that played.
        """
        settings, agent = self.settings, at[-1]
        player, legal = batch.arrays[_EXPERT_ID][at[0]], batch.available.numpy()[at]
        logs, policies = [], []
        for expert, agents in self.statistics.samples.items():
            near = _nearest(agents[agent], batch.arrays["steps/obs"][at])
            score, policy = near.value, near.policy * legal
            played = player == expert
            policy[played] = own[played]
            if settings.rule == "value":
                score = np.where(played, batch.arrays["steps/value"][at], score)
                score = score / self.statistics.value_deviation[agent]
            else:
                score = np.full(len(own), self._earned.get(expert, -np.inf))
            heard = played | ((near.distance <= settings.radius) & (policy.sum(-1) > 0))
            logs.append(np.where(heard, score / settings.spread, -np.inf))
            policies.append(policy / policy.sum(-1, keepdims=True).clip(1e-12))
        score = np.stack(logs)
        best = score.max(0)
        # A player without an episode free of noise has no return: its own policy stays.
        weight = np.where(
            np.isfinite(best), np.exp(score - np.where(np.isfinite(best), best, 0)), 0
        )
        total = weight.sum(0)[:, None]
        mean = (weight[..., None] * np.stack(policies)).sum(0) / total.clip(1e-12)
        return np.where(total > 0, mean, own)


@dataclass(frozen=True, slots=True)
class _Near:
    """What an expert did nearest to some steps; ``distance``: deviations of the mean feature."""

    distance: FloatArray
    policy: FloatArray
    value: FloatArray


def _nearest(searched: SampledAgent | None, obs: Array) -> _Near:
    if searched is None:
        far = np.full(len(obs), np.inf)
        return _Near(far, np.zeros((len(obs), 1)), np.zeros(len(obs)))
    everything = np.ones(obs.shape[-1], bool)
    found = searched.nearest.find(searched.view(obs, everything), 1)
    place, sample = found.place[:, 0], searched.sample
    distance = np.sqrt(found.distance[:, 0] / obs.shape[-1])
    return _Near(distance, sample.policy[place].astype(np.float64), sample.value[place])


@dataclass(frozen=True, slots=True)
class _Statistics:
    samples: dict[int, list[SampledAgent | None]]
    value_deviation: FloatArray  # [N], of all experts' values


@dataclass(slots=True)
class _Experts:
    """Accumulates samples; the deviation of values is theirs."""

    sampled: StepSamples

    @property
    def arrays(self) -> Sequence[str]:
        return self.sampled.arrays

    def add(self, batch: Any) -> None:
        self.sampled.add(batch)

    def finish(self) -> _Statistics:
        samples = self.sampled.finish()
        deviation = []
        for agent in range(self.sampled.spec.n_agents):
            each = [agents[agent] for agents in samples.values()]
            values = [s.sample.value for s in each if s is not None]
            found = float(np.concatenate(values).std(dtype=np.float64)) if values else 0.0
            deviation.append(found if found > 1e-8 else 1.0)
        return _Statistics(samples, np.array(deviation))


def _mean_returns(episodes: TrainingEpisodes) -> dict[int, float]:
    """Return every expert's mean return without noise, in deviations of all such episodes."""
    buffer, chosen = episodes.buffer, episodes.indices
    if buffer.has("episodes/noise_level"):
        chosen = chosen[buffer.episodes("noise_level")[chosen] == 0]
    returns = buffer.episodes("return")[chosen].astype(np.float64)
    experts = buffer.episodes("expert_id")[chosen]
    deviation = max(float(returns.std()), 1e-8) if len(returns) else 1.0
    return {
        int(one): float(returns[experts == one].mean()) / deviation for one in np.unique(experts)
    }
