"""Attention between students whose rows match the expert's relations between agents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from kd_offline.distillation import losses
from kd_offline.distillation.auxiliary_heads import linear, orthogonal
from kd_offline.distillation.terms.base import (
    Elements,
    LossTerm,
    StudentBatch,
    TargetBatch,
    TermSettings,
)
from kd_offline.distillation.values import policy_array
from kd_offline.distributions.categorical_tensors import last_axis_outermost, log_softmax
from kd_offline.schemas.bounds import Width
from kd_offline.schemas.environment import EnvironmentSpec

_ABSENT = -1e9  # finite: -inf would give NaN gradients through log-softmax


class RelationAttentionSettings(TermSettings):
    """Settings of the relation by attention."""

    relation: Literal["cosine", "policy"] = Field(
        default="cosine",
        description="the expert's relation of two agents: cosine of embeddings, or 1 minus the "
        "square root of the Jensen-Shannon divergence of policies",
    )
    temperature: float = Field(
        default=0.5, gt=0, description="temperature of the softmax over the expert's rows"
    )
    width: Width = Field(default=16, description="width of the students' queries and keys")


class RelationAttention(LossTerm[RelationAttentionSettings]):
    """``KL(softmax_j(R_ij / temperature) || softmax_j(q_i k_j / sqrt(d)))`` of each agent's row.

    R is the expert's relation. Queries and keys are linear in the students' embeddings and exist in
    training only. A row is over the agents of one side that are alive, the agent itself included.
    """

    description = "rows of attention between students against the expert's relations"
    settings_type = RelationAttentionSettings
    any_axes = True

    def arrays(self, present: Iterable[str]) -> Sequence[str]:
        """Return the array that relations are computed from."""
        by_policy = self.settings.relation == "policy"
        return (policy_array(present) if by_policy else "steps/embedding",)

    def targets(self, batch: TargetBatch) -> dict[str, Tensor]:
        """Return the logarithms of the expert's rows, [B, T, N, N]."""
        if self.settings.relation == "policy":
            assert batch.expert_policy is not None  # noqa: S101 - its array is read
            # In float64, as the root of a small rounding error is a large one.
            policies = batch.expert_policy.kept().double().exp()
            relation = (1 - _root_divergence(policies)).float()
        else:
            embedding = torch.from_numpy(batch.arrays["steps/embedding"].astype(np.float32))
            unit = embedding / embedding.norm(dim=-1, keepdim=True).clamp(min=1e-8)
            relation = unit @ unit.transpose(-1, -2)
        related = _related(batch.alive.float(), batch.spec.side_of)
        return {"rows": _log_rows(relation / self.settings.temperature, related)}

    def auxiliary_heads(
        self, widths: Sequence[int], spec: EnvironmentSpec, rng: np.random.Generator
    ) -> nn.Module:
        """Return a linear layer to query and key on each agent's embedding."""
        outputs = 2 * self.settings.width
        return nn.ModuleList(
            linear(orthogonal(outputs, width, rng), bias=False) for width in widths
        )

    def loss(
        self, students: StudentBatch, targets: Mapping[str, Tensor], heads: nn.Module | None
    ) -> Elements:
        """Return the divergence of the row of every agent that is alive, [S, N]."""
        assert isinstance(heads, nn.ModuleList)  # noqa: S101 - made above
        pairs = zip(heads, students.embeddings, strict=True)
        both = torch.stack([head(embedding) for head, embedding in pairs], -2)
        query, key = both.chunk(2, -1)
        scores = query @ key.transpose(-1, -2) / self.settings.width**0.5
        related = _related(students.alive, students.side_of)
        own = last_axis_outermost(_log_rows(scores, related))
        divergence = losses.divergence(targets["rows"], own)
        return Elements(divergence, students.alive)


def _related(alive: Tensor, side_of: Sequence[int]) -> Tensor:
    """Return which agents j a row i is over, bool [..., N, N]; an agent always itself."""
    sides = torch.tensor(side_of, device=alive.device)
    same = sides.unsqueeze(-1) == sides
    itself = torch.eye(len(side_of), dtype=torch.bool, device=alive.device)
    return same & ((alive > 0).unsqueeze(-2) & (alive > 0).unsqueeze(-1)) | itself


def _log_rows(scores: Tensor, related: Tensor) -> Tensor:
    """Return log-softmax of the rows of ``scores`` over what is related, [..., N, N]."""
    return log_softmax(scores.masked_fill(~related, _ABSENT), outermost=False)


def _root_divergence(policies: Tensor) -> Tensor:
    """Return the root of the Jensen-Shannon divergence of each two policies, to the base 2.

    ``policies``: probabilities [..., N, A]. The root is a metric, from 0 to 1: [..., N, N].
    """
    one, other = policies.unsqueeze(-2), policies.unsqueeze(-3)
    middle = (one + other) / 2

    def entropy(p: Tensor) -> Tensor:
        return -torch.xlogy(p, p).sum(-1)

    divergence = entropy(middle) - (entropy(one) + entropy(other)) / 2
    root: Tensor = (divergence / np.log(2)).clamp(0, 1).sqrt()
    return root
