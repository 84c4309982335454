"""Regression of uncentred Q-values (CTDS, Zhao et al., 2022).

:mod:`~kd_offline.distillation.terms.regression` compares differences between actions; here students
also learn the value of the state. The unit is the same: the standard deviation of an agent's
Q-values between legal actions, over the dataset.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from kd_offline.distillation import values
from kd_offline.distillation.dataset_statistics import Deviation
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
from kd_offline.types import FloatArray


class QValuesSettings(TermSettings):
    """Settings of the regression of Q-values."""

    loss: Literal["mse", "huber"] = "mse"
    actions: Literal["legal", "all"] = Field(
        default="legal",
        description="actions over which the mean is taken; all: illegal actions too, as in the "
        "authors' code",
    )


class QValues(LossTerm[QValuesSettings]):
    """Half the squared difference of the expert's Q-values and of the student's outputs."""

    description = "regression of a value-based expert's uncentred Q-values (CTDS)"
    settings_type = QValuesSettings
    any_axes = True

    def arrays(self, present: Iterable[str]) -> Sequence[str]:
        """Return the array of Q-values."""
        return ("steps/q_values",)

    def fit(self, episodes: TrainingEpisodes) -> Accumulator:
        """Return an accumulator of the level and of the unit of Q-values."""
        return QMoments()

    def targets(self, batch: TargetBatch) -> dict[str, Tensor]:
        """Return the Q-values in their unit, [B, T, N, A], and which of them count."""
        q = self.statistics.scaled(torch.from_numpy(batch.arrays["steps/q_values"]))
        counted = batch.available
        if self.settings.actions == "all":
            own = np.arange(q.shape[-1]) < np.array(batch.spec.action_counts)[:, None]
            counted = torch.from_numpy(own).expand_as(q)
        # Where nothing counts any number may be there, whose square may be infinite.
        counted = counted & (batch.weight > 0).unsqueeze(-1)
        targets = {"q": q.masked_fill(~counted, 0.0)}
        return targets if self.settings.actions == "legal" else targets | {"counted": counted}

    def loss(
        self, students: StudentBatch, targets: Mapping[str, Tensor], heads: nn.Module | None
    ) -> Elements:
        """Return the mean over the actions of every decision, [S, N]."""
        # In units of scaled Q-values, as a student's outputs are logits at the temperature.
        own = students.policy.parameters * self.recipe.objective.q_temperature
        errors = values.error(own - targets["q"], self.settings.loss)
        counted = targets.get("counted", students.policy.available)
        return Elements(values.legal_mean(errors, counted), students.weight)


@dataclass(frozen=True, slots=True)
class QScale:
    """Level and unit by which the Q-values of each agent are scaled."""

    level: FloatArray  # [N], mean value of states
    unit: FloatArray  # [N], root mean variance between legal actions; 1 where there is none

    def scaled(self, q: Tensor) -> Tensor:
        """Return ``(q - level) / unit`` of ``q`` [..., N, A], float32."""
        level, unit = (
            torch.from_numpy(x.astype(np.float32)).unsqueeze(-1) for x in (self.level, self.unit)
        )
        return (q - level) / unit


class QMoments:
    """Accumulates, for each agent, the values of states and the variance between actions."""

    arrays = ("steps/q_values",)

    def __init__(self) -> None:
        self._level, self._variance = Deviation((0, 1)), Deviation((0, 1))

    def add(self, batch: RecordedBatch) -> None:
        """Add the decisions of a batch; elsewhere there may be no legal action."""
        legal = torch.from_numpy(batch.arrays["steps/available_actions"])
        q = torch.from_numpy(batch.arrays["steps/q_values"]).double()
        self._level.add(values.state_value(q, legal).numpy(), batch.deciding)
        variance = values.variance(values.centred(q, legal), legal)
        self._variance.add(variance.numpy(), batch.deciding)

    def finish(self) -> Any:
        """Return the scale."""
        unit = np.sqrt(self._variance.mean)
        return QScale(self._level.mean, np.where(unit > 1e-8, unit, 1.0))
