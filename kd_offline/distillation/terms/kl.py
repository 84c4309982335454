"""KL divergence from the expert's policy to the student's (KD-MARL, Eq. 7)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pydantic import Field
from torch import Tensor, nn

from kd_offline.distillation.terms.base import (
    Elements,
    LossTerm,
    StudentBatch,
    TargetBatch,
    TermSettings,
)
from kd_offline.distillation.values import policy_array


class KLSettings(TermSettings):
    """Settings of the KL divergence."""

    temperature: float = Field(
        default=2.0, gt=0, description="temperature tau of expert and student"
    )
    scale_by_temperature: bool = Field(
        default=True, description="multiply the KL by tau squared (Hinton et al., 2015)"
    )


class KL(LossTerm[KLSettings]):
    """``KL(softmax(z_T / tau) || softmax(z_S / tau))``, times tau squared."""

    description = "KL divergence from the expert's policy to the student's (Eq. 7)"
    settings_type = KLSettings
    any_axes = True

    def arrays(self, present: Iterable[str]) -> Sequence[str]:
        """Return the array of the expert's logits or Q-values."""
        return (policy_array(present),)

    def targets(self, batch: TargetBatch) -> dict[str, Tensor]:
        """Return the expert's log probabilities at the temperature."""
        if batch.expert_policy is None:
            return {}
        return {"expert": batch.expert_policy.at(self.settings.temperature).kept()}

    def loss(
        self, students: StudentBatch, targets: Mapping[str, Tensor], heads: nn.Module | None
    ) -> Elements:
        """Return the divergence of every decision, [S, N]."""
        tau = self.settings.temperature
        own = students.policy.at(tau)
        values = own.restored(targets["expert"], own.available).kl(own)  # Eq. 7
        scale = tau**2 if self.settings.scale_by_temperature else 1.0
        return Elements(values, students.weight, scale)

    def validation(
        self, students: StudentBatch, targets: Mapping[str, Tensor], counted: Tensor
    ) -> Mapping[str, Elements]:
        """Return the divergence as a held-out metric, if the target is not the recorded policy."""
        if not self.criterion:
            return {}
        return {self.criterion: Elements(self.loss(students, targets, None).values, counted)}
