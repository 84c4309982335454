"""Regression of a teacher's embedding of the state: DDN's L_B, and the second stage of PTDE."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field
from torch import Tensor, nn

from kd_offline.distillation.terms.base import Elements, StudentBatch, TargetBatch
from kd_offline.distillation.terms.tap import TAP_NAME, TapSettings, TapTerm


class PrivilegedEmbeddingSettings(TapSettings):
    """Settings of the regression of a tap."""

    tap: str = Field(
        default="s_hat",
        pattern=TAP_NAME,
        description="inner layer of the expert by its name: s_hat of DDN, z of PTDE",
    )


class PrivilegedEmbedding(TapTerm[PrivilegedEmbeddingSettings]):
    """Mean squared difference between the expert's tap and the student's."""

    description = "regression of the expert's embedding of the state (DDN's L_B, PTDE)"
    settings_type = PrivilegedEmbeddingSettings

    def targets(self, batch: TargetBatch) -> dict[str, Tensor]:
        """Return the expert's values, [B, T, N, W]."""
        return {"tap": self.recorded(batch)}

    def loss(
        self, students: StudentBatch, targets: Mapping[str, Tensor], heads: nn.Module | None
    ) -> Elements:
        """Return the mean squared difference of every agent that is alive, [S, N]."""
        gaps = self.answers(students, heads) - targets["tap"]
        # L_B in Eq. 6 of DDN (Zhou et al., 2025), as a mean over the numbers of the layer.
        return Elements(gaps.square().mean(-1), students.alive)
