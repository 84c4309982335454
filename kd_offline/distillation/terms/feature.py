"""Distillation of the layer before the memory: the Double Distillation Network's L_F."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from kd_offline.distillation import losses
from kd_offline.distillation.terms.base import Elements, StudentBatch, TargetBatch
from kd_offline.distillation.terms.tap import TAP_NAME, TapSettings, TapTerm
from kd_offline.distributions.categorical_tensors import log_softmax


class FeatureSettings(TapSettings):
    """Settings of the distillation of features."""

    tap: str = Field(
        default="feature", pattern=TAP_NAME, description="inner layer of the expert by its name"
    )
    scale: Literal["dataset", "none"] = Field(
        default="none",
        description="dataset: subtract the mean of the recorded values and divide by the standard "
        "deviation of each agent over the dataset; none: use them as recorded",
    )
    loss: Literal["kl", "mse"] = Field(
        default="kl",
        description="KL divergence between softmaxes over the numbers of the layer, or the mean "
        "squared difference",
    )


class Feature(TapTerm[FeatureSettings]):
    """``KL(softmax(f_T) || softmax(f_S))`` over the numbers of a layer, or their squared error.

    The paper takes the KL of the features themselves, which are not distributions.
    """

    description = "distillation of the layer before the memory (DDN's L_F)"
    settings_type = FeatureSettings

    def targets(self, batch: TargetBatch) -> dict[str, Tensor]:
        """Return the expert's values or their log softmax, [B, T, N, W]."""
        values = self.recorded(batch)
        return {"tap": log_softmax(values) if self.settings.loss == "kl" else values}

    def loss(
        self, students: StudentBatch, targets: Mapping[str, Tensor], heads: nn.Module | None
    ) -> Elements:
        """Return the divergence of every agent that is alive, [S, N]."""
        own = self.answers(students, heads)
        if self.settings.loss == "kl":
            values = losses.divergence(targets["tap"], log_softmax(own))
        else:
            values = (own - targets["tap"]).square().mean(-1)
        return Elements(values, students.alive)
