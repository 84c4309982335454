"""Regression of a value-based expert's Q-values, and of the value of the state beside it.

Levels of Q-values are no part of a policy, so the first compares centred values, as CTDS (Zhao et
al., 2022) compares whole ones. Dueling students (Wang et al., 2016) learn the level too, by a head
that exists in training only.
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
    """Half the squared difference of scaled, centred Q-values; of dueling students two losses."""

    description = "regression of a value-based expert's centred Q-values (CTDS)"
    settings_type = RegressionSettings
    any_axes = True

    @property
    def _dueling(self) -> bool:
        return self.recipe.student.dueling

    def arrays(self, present: Iterable[str]) -> Sequence[str]:
        """Return the Q-values."""
        return ("steps/q_values",)

    def fit(self, episodes: TrainingEpisodes) -> Accumulator | None:
        """Collect the moments of state values, which only dueling students learn."""
        return StateValues() if self._dueling else None

    def targets(self, batch: TargetBatch) -> dict[str, Tensor]:
        """Return the value of every state for each agent, in deviations; of dueling students."""
        if self.statistics is None:
            return {}
        q = torch.from_numpy(batch.arrays["steps/q_values"])
        return {"value": self.statistics.normalised(values.state_value(q, batch.available))}

    def auxiliary_heads(
        self, widths: Sequence[int], spec: EnvironmentSpec, rng: np.random.Generator
    ) -> nn.Module | None:
        """Return a linear head for the state's value on each agent's embedding."""
        return nn.ModuleList(map(_value_head, widths)) if self._dueling else None

    def loss(
        self, students: StudentBatch, targets: Mapping[str, Tensor], heads: nn.Module | None
    ) -> Mapping[str, Elements]:
        """Return the regression of centred values, and as ``value`` that of the state's, [S, N]."""
        kind, weight = self.settings.loss, students.weight
        assert students.expert_policy is not None  # noqa: S101 - Q-values are read
        # In the unit of the scaled Q-values, so that the temperature weighs nothing.
        tau = self.recipe.objective.q_temperature
        # Centred, an expert's log probabilities are its scaled Q-values.
        own, expert = students.policy.parameters * tau, students.expert_policy.kept() * tau
        gaps = values.regression(own, expert, students.policy.available, kind)
        found = {"regression": Elements(gaps, weight)}
        if "value" in targets:
            assert isinstance(heads, nn.ModuleList)  # noqa: S101 - made above
            each = zip(heads, students.embeddings, strict=True)
            estimate = torch.cat([head(embedding) for head, embedding in each], -1)
            found["value"] = Elements(values.error(estimate - targets["value"], kind), weight)
        return found


class StateValues:
    """Collects the moments of the mean Q-value of the legal actions, of every agent."""

    arrays = ("steps/q_values",)

    def __init__(self) -> None:
        self._found = Deviation((0, 1))

    def add(self, batch: RecordedBatch) -> None:
        """Count in decisions; elsewhere there may be no legal action."""
        legal = torch.from_numpy(batch.arrays["steps/available_actions"])
        q = torch.from_numpy(batch.arrays["steps/q_values"]).double()
        self._found.add(values.state_value(q, legal).numpy(), batch.deciding)

    def finish(self) -> Any:
        """Return the moments; None where nobody decides anything."""
        return Moments.of(self._found) if self._found.seen else None


def _value_head(width: int) -> nn.Module:
    head = nn.Linear(width, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head
