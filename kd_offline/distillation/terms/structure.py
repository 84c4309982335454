"""Structure relation: cosines between the embeddings of a team's agents (KD-MARL, Eq. 9)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from kd_offline.distillation import losses
from kd_offline.distillation.auxiliary_heads import projector
from kd_offline.distillation.dataset_statistics import AliveMoments
from kd_offline.distillation.terms.base import (
    Accumulator,
    Elements,
    LossTerm,
    StudentBatch,
    TargetBatch,
    TermSettings,
    TrainingEpisodes,
)
from kd_offline.schemas.bounds import Width
from kd_offline.schemas.environment import EnvironmentSpec


class StructureSettings(TermSettings):
    """Settings of the structure relation."""

    relation: Literal["auto", "linear", "mlp", "zero_pad", "none"] = Field(
        default="auto", description="how student embeddings are mapped to a common width"
    )
    relation_width: Width = Field(default=32, description="common width of the mapped embeddings")
    pairs: Literal["mean", "sum"] = Field(
        default="mean", description="how the pairs of agents are combined"
    )
    centre: bool = Field(
        default=False, description="subtract the mean over the dataset from the expert's embeddings"
    )


class Structure(LossTerm[StructureSettings]):
    """Squared difference between the expert's and the students' cosines of each pair of agents.

    The cosine of two student embeddings needs equal widths, so projectors ``P_i`` map each to a
    common width. Agents of opposing sides are not paired.
    """

    description = "cosines between the embeddings of agents (Eq. 9)"
    settings_type = StructureSettings
    any_axes = True

    def arrays(self, present: Iterable[str]) -> Sequence[str]:
        """Return the array of embeddings."""
        return ("steps/embedding",)

    def fit(self, episodes: TrainingEpisodes) -> Accumulator | None:
        """Return an accumulator of the mean embedding, where it is subtracted."""
        if not self.settings.centre:
            return None
        return AliveMoments("steps/embedding", attrgetter("mean"))

    def targets(self, batch: TargetBatch) -> dict[str, Tensor]:
        """Return the cosines of the expert's embeddings, [B, T, 1, P]."""
        embedding, centre = batch.arrays["steps/embedding"], self.statistics
        parts = np.array_split(embedding, 1 + len(embedding) // 1024)
        shifted = (part if centre is None else part - centre for part in parts)
        side_of = batch.spec.side_of
        cosines = [
            losses.cosine_relations(torch.from_numpy(p.astype(np.float32)).unbind(-2), side_of)
            for p in shifted
        ]
        return {"cosines": torch.cat(cosines).unsqueeze(-2)}

    def auxiliary_heads(
        self, widths: Sequence[int], spec: EnvironmentSpec, rng: np.random.Generator
    ) -> nn.Module | None:
        """Return a projector on each agent's embedding; None where cosines need none."""
        kind = self.settings.relation
        if kind == "auto":  # gates leave unequal widths
            equal = len(set(widths)) == 1 and self.recipe.first_settled is None
            kind = "none" if equal else "linear"
        if kind in ("zero_pad", "none"):
            return None
        common = self.settings.relation_width
        hidden = kind == "mlp"
        return nn.ModuleList(projector(width, common, rng, hidden=hidden) for width in widths)

    def loss(
        self, students: StudentBatch, targets: Mapping[str, Tensor], heads: nn.Module | None
    ) -> Elements:
        """Return the squared difference of every pair, [S, P], where both agents are alive."""
        cosines = losses.cosine_relations(_comparable(students.embeddings, heads), students.side_of)
        values = losses.structure(targets["cosines"].squeeze(-2), cosines)
        both_alive = losses.stack_pairs(students.alive.unbind(-1), torch.mul, students.side_of)
        return Elements(
            values, both_alive, cosines.shape[-1] if self.settings.pairs == "sum" else 1.0
        )


def _comparable(embeddings: Sequence[Tensor], heads: nn.Module | None) -> list[Tensor]:
    """Return the embeddings [..., H_i] of all agents in one space: N of [..., d]."""
    if isinstance(heads, nn.ModuleList):
        return [project(e) for project, e in zip(heads, embeddings, strict=True)]
    widest = max(e.shape[-1] for e in embeddings)
    return [nn.functional.pad(e, (0, widest - e.shape[-1])) for e in embeddings]
