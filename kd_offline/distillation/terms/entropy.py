"""Entropy of the student's policy, as a bonus (KD-MARL, Eq. 5)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from kd_offline.distillation.terms.base import Elements, LossTerm, StudentBatch, TermSettings


class Entropy(LossTerm[TermSettings]):
    """``H(pi_S)`` over the legal actions."""

    description = "entropy of the student's policy, a bonus (Eq. 5)"
    any_axes = True
    maximised = True

    def loss(
        self, students: StudentBatch, targets: Mapping[str, Tensor], heads: nn.Module | None
    ) -> Elements:
        """Return the entropy of every decision in nats, [S, N]."""
        return Elements(students.policy.entropy(), students.weight)
