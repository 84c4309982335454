"""KL divergence from the expert's policy, averaged over steps that look alike to the student.

Under a mask one view of a student stands for many states, in which the expert acts differently. The
best that a student without memory can do is the mean of the expert's policies over these states.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from kd_offline.distillation.step_samples import StepSamples
from kd_offline.distillation.terms.base import Accumulator, TargetBatch, TrainingEpisodes
from kd_offline.distillation.terms.kl import KL, KLSettings
from kd_offline.errors import Remedy
from kd_offline.types import Array, FloatArray

SMALLEST = 1e-12  # probability whose logarithm is taken for that of 0


class NeighbourSettings(KLSettings):
    """Settings of targets averaged over neighbours."""

    temperature: float = Field(default=1.0, gt=0, description="tau, of expert and student")
    count: int = Field(default=8, ge=1, le=1024, description="k, neighbours that are averaged over")
    sample: int = Field(
        default=4096, ge=1, le=65_536, description="steps of each agent that are searched"
    )


class NeighbourKL(KL):
    """``KL(mean of pi_T over a step and its k nearest || pi_S)``, times tau squared.

    Neighbours are the nearest of an even sample of training steps, by what the student sees in one
    step: visible features in deviations. Of their policies only actions count that are legal in the
    step at hand.
    """

    description = "KL from the expert's policy averaged over what looks alike to the student"
    settings_type = NeighbourSettings
    settings: NeighbourSettings

    @property
    def criterion(self) -> str:
        """The divergence from the mean policy."""
        return "neighbours"

    def arrays(self, present: Iterable[str]) -> Sequence[str]:
        """Return the array of the expert's logits."""
        return ("steps/logits",)

    def recorded_by(self) -> Remedy:
        """Return how the arrays are recorded."""
        return Remedy(
            "record episodes of an expert that states logits, such as one of",
            operation="train_recipe",
            algorithm="mappo",
        )

    def fit(self, episodes: TrainingEpisodes) -> Accumulator:
        """Return an accumulator of a sample of decisions under the students' mask."""
        return StepSamples(episodes.spec, self.settings.sample, mask=self.recipe.mask)

    def targets(self, batch: TargetBatch) -> dict[str, Tensor]:
        """Return log probabilities of the mean policy at the temperature, [B, T, N, A]."""
        assert batch.expert_policy is not None  # noqa: S101 - its array is read
        policy = batch.expert_policy.kept().exp().numpy().copy()
        seen = batch.arrays[f"masks/{self.recipe.mask}"]
        deciding = batch.weight.numpy() > 0
        for agent, searched in enumerate(self.statistics.get(0, [])):
            episode, step = np.nonzero(deciding[..., agent])
            if searched is None or not len(episode):
                continue
            own = seen[agent] if seen.ndim == 2 else seen[episode, agent]
            views = searched.view(batch.arrays["steps/obs"][episode, step, agent], own)
            near = searched.nearest.find(views, self.settings.count).place
            legal = batch.available[..., agent, :].numpy()[episode, step]
            sums = policy[episode, step, agent] + searched.sample.policy[near].sum(1) * legal
            policy[episode, step, agent] = sums / sums.sum(-1, keepdims=True)
        return {"expert": log_targets(policy, batch, self.settings.temperature)}


def log_targets(policy: Array | FloatArray, batch: TargetBatch, temperature: float) -> Tensor:
    """Return the kept log probabilities of probabilities [B, T, N, A] at a temperature."""
    assert batch.expert_policy is not None  # noqa: S101 - its array is read
    logs = torch.from_numpy(np.log(np.maximum(policy, SMALLEST)).astype(np.float32))
    return type(batch.expert_policy)(logs, batch.available).at(temperature).kept()
