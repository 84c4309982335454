"""Behaviour cloning of IGM-DA (Hong et al., 2022): outputs become the one-hot of an action."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from kd_offline.distillation import values
from kd_offline.distillation.terms.base import (
    Elements,
    LossTerm,
    StudentBatch,
    TargetBatch,
    TermSettings,
)
from kd_offline.distillation.values import policy_array


class OneHot(LossTerm[TermSettings]):
    """Mean squared difference between the outputs and the one-hot of the expert's greedy action."""

    description = "squared error of the outputs to the one-hot of the expert's action (IGM-DA)"
    any_axes = True

    def arrays(self, present: Iterable[str]) -> Sequence[str]:
        """Return the array of the expert's logits or Q-values."""
        return (policy_array(present),)

    def targets(self, batch: TargetBatch) -> dict[str, Tensor]:
        """Return the expert's most probable legal action, [B, T, N]."""
        expert = batch.expert_policy
        return {} if expert is None else {"action": expert.mode()}

    def loss(
        self, students: StudentBatch, targets: Mapping[str, Tensor], heads: nn.Module | None
    ) -> Elements | None:
        """Return the mean over the legal actions of every decision, [S, N]."""
        if "action" not in targets:
            return None
        available, outputs = students.policy.available, students.policy.parameters
        number = torch.arange(outputs.shape[-1], device=outputs.device)
        wanted = targets["action"].unsqueeze(-1) == number
        errors = (outputs - wanted.to(outputs.dtype)).square()
        return Elements(values.legal_mean(errors, available), students.weight)
