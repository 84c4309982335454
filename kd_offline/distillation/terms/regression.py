"""Regression of a value-based expert's Q-values, and of the state value for dueling students.

A constant added to all Q-values of a state does not change the policy, so centred values are
compared. CTDS (Zhao et al., 2022) compares the values themselves, see
:mod:`~kd_offline.distillation.terms.q_values`. Dueling students (Wang et al., 2016) also learn the
value of the state, with a head that exists in training only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from kd_offline.distillation import values
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
from kd_offline.schemas.environment import EnvironmentSpec


class RegressionSettings(TermSettings):
    """Settings of the regression."""

    loss: Literal["mse", "huber"] = "mse"


class Regression(LossTerm[RegressionSettings]):
    """Half the squared difference of scaled, centred Q-values; with the state value if dueling."""

    description = "regression of a value-based expert's centred Q-values"
    settings_type = RegressionSettings
    any_axes = True

    @property
    def _dueling(self) -> bool:
        return self.recipe.student.dueling

    def arrays(self, present: Iterable[str]) -> Sequence[str]:
        """Return the array of Q-values."""
        return ("steps/q_values",)

    def fit(self, episodes: TrainingEpisodes) -> Accumulator | None:
        """Return an accumulator of the moments of state values; None unless dueling."""
        return StateValues() if self._dueling else None

    def targets(self, batch: TargetBatch) -> dict[str, Tensor]:
        """Return the normalised state value of each agent, [B, T, N]; empty unless dueling."""
        if self.statistics is None:
            return {}
        q = torch.from_numpy(batch.arrays["steps/q_values"])
        return {"value": self.statistics.normalised(values.state_value(q, batch.available))}

    def auxiliary_heads(
        self, widths: Sequence[int], spec: EnvironmentSpec, rng: np.random.Generator
    ) -> nn.Module | None:
        """Return a linear state-value head on each agent's embedding; None unless dueling."""
        return nn.ModuleList(map(_value_head, widths)) if self._dueling else None

    def loss(
        self, students: StudentBatch, targets: Mapping[str, Tensor], heads: nn.Module | None
    ) -> Mapping[str, Elements]:
        """Return the loss of centred values, and as ``value`` that of the state value: [S, N]."""
        kind, weight = self.settings.loss, students.weight
        assert students.expert_policy is not None  # noqa: S101 - Q-values are read
        # In units of scaled Q-values, so that the temperature does not weigh the loss.
        tau = self.recipe.objective.q_temperature
        # Centred, an expert's log probabilities are its scaled Q-values.
        student_values, expert_values = (
            students.policy.parameters * tau,
            students.expert_policy.kept() * tau,
        )
        errors = values.regression(student_values, expert_values, students.policy.available, kind)
        losses = {"regression": Elements(errors, weight)}
        if "value" in targets:
            assert isinstance(heads, nn.ModuleList)  # noqa: S101 - made above
            pairs = zip(heads, students.embeddings, strict=True)
            estimate = torch.cat([head(embedding) for head, embedding in pairs], -1)
            losses["value"] = Elements(values.error(estimate - targets["value"], kind), weight)
        return losses


class StateValues:
    """Accumulates, for each agent, moments of the mean Q-value of the legal actions."""

    arrays = ("steps/q_values",)

    def __init__(self) -> None:
        self._moments = Deviation((0, 1))

    def add(self, batch: RecordedBatch) -> None:
        """Add the state values of decisions; elsewhere there may be no legal action."""
        legal = torch.from_numpy(batch.arrays["steps/available_actions"])
        q = torch.from_numpy(batch.arrays["steps/q_values"]).double()
        self._moments.add(values.state_value(q, legal).numpy(), batch.deciding)

    def finish(self) -> Any:
        """Return the moments; None where there is no decision."""
        return Moments.of(self._moments) if self._moments.seen else None


def _value_head(width: int) -> nn.Module:
    head = nn.Linear(width, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head
