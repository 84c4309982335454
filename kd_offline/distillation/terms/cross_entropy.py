"""Cross entropy of the student with an action or the policy of the expert (KD-MARL, Eq. 8)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from kd_offline import distributions
from kd_offline.datasets.format.layout import ACTION_SOURCES
from kd_offline.distillation.terms.base import (
    Elements,
    LossTerm,
    StudentBatch,
    TargetBatch,
    TermSettings,
)
from kd_offline.distillation.values import policy_array
from kd_offline.seeding import uniforms


class CrossEntropySettings(TermSettings):
    """Settings of the cross entropy."""

    target: Literal["argmax", "soft", "executed", "sampled"] = Field(
        default="argmax",
        description="label: the expert's most probable action, its whole policy, the executed "
        "action if the expert chose it, or an action that is drawn from the policy",
    )


class CrossEntropy(LossTerm[CrossEntropySettings]):
    """``-log pi_S(a)`` of one action, or its mean under the expert's policy."""

    description = "cross entropy with the expert's action or policy (Eq. 8)"
    settings_type = CrossEntropySettings
    any_axes = True

    def arrays(self, present: Iterable[str]) -> Sequence[str]:
        """Return the arrays of the label, and of the source of executed actions."""
        if self.settings.target != "executed":
            seed_arrays = ("episodes/seed",) * (self.settings.target == "sampled")
            return (policy_array(present), *seed_arrays)
        return ("steps/actions", *(n for n in present if n == "steps/action_source"))

    def targets(self, batch: TargetBatch) -> dict[str, Tensor]:
        """Return the action of every decision and where it counts; empty for soft labels."""
        if self.settings.target == "executed":
            return {"action": batch.executed(), **_expert_choices(batch)}
        expert = batch.expert_policy
        if expert is None or self.settings.target == "soft":
            return {}
        if self.settings.target == "argmax":
            return {"action": expert.mode()}
        seeds = batch.arrays["episodes/seed"].astype(np.uint64)
        shape = (*batch.alive.shape[1:], *distributions.played(batch.spec).numbers)
        numbers = uniforms(seeds, 0, shape, "distillation label")
        return {"action": expert.sample(torch.from_numpy(numbers))}

    def loss(
        self, students: StudentBatch, targets: Mapping[str, Tensor], heads: nn.Module | None
    ) -> Elements:
        """Return the cross entropy of every decision, [S, N]."""
        if "action" in targets:
            values = -students.policy.log_prob(targets["action"])  # Eq. 8 with a hard label
            return Elements(values, targets.get("counted", students.weight))
        expert = students.expert_policy
        assert expert is not None  # noqa: S101 - its array is read for soft labels
        return Elements(expert.cross_entropy(students.policy), students.weight)

    def validation(
        self, students: StudentBatch, targets: Mapping[str, Tensor], counted: Tensor
    ) -> Mapping[str, Elements]:
        """Return the cross entropy of held-out actions as ``ce``."""
        if "action" not in targets:
            return {}
        if "counted" in targets:
            counted = counted * targets["counted"]
        return {"ce": Elements(-students.policy.log_prob(targets["action"]), counted)}


def _expert_choices(batch: TargetBatch) -> dict[str, Tensor]:
    """Return the weights of executed actions: 0 where noise or a partner chose the action."""
    if "steps/action_source" not in batch.arrays:
        return {}
    by_expert = torch.from_numpy(batch.arrays["steps/action_source"] == ACTION_SOURCES["expert"])
    return {"counted": batch.weight * by_expert}
