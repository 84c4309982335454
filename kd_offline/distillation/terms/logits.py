"""Regression of the expert's logits, centred over the legal actions (after KnowRU, 2021)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from torch import Tensor, nn

from kd_offline.distillation.terms.base import Elements, LossTerm, StudentBatch, TermSettings
from kd_offline.distillation.values import policy_array, regression


class LogitsSettings(TermSettings):
    """Settings of the regression of logits."""

    loss: Literal["mse", "huber"] = "mse"


class Logits(LossTerm[LogitsSettings]):
    """Half the mean squared difference of centred logits over the legal actions.

    KnowRU compares the logits themselves. A softmax does not change when a constant is added to all
    logits, so the mean over the legal actions is subtracted first. The logits of a value-based
    expert are its scaled Q-values divided by ``objective.q_temperature``.
    """

    description = "regression of the expert's centred logits (KnowRU)"
    settings_type = LogitsSettings
    any_axes = True

    def arrays(self, present: Iterable[str]) -> Sequence[str]:
        """Return the array of the expert's logits or Q-values."""
        return (policy_array(present),)

    def loss(
        self, students: StudentBatch, targets: Mapping[str, Tensor], heads: nn.Module | None
    ) -> Elements:
        """Return the loss of every decision, [S, N]."""
        expert, own = students.expert_policy, students.policy
        assert expert is not None  # noqa: S101 - its array is read
        # Centred, log probabilities are centred logits.
        errors = regression(own.parameters, expert.kept(), own.available, self.settings.loss)
        return Elements(errors, students.weight)
