"""Angles between the mapped embeddings of a team's agents (Tseng et al., NeurIPS 2022)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from kd_offline.distillation import losses
from kd_offline.distillation.auxiliary_heads import projector
from kd_offline.distillation.terms.base import (
    Elements,
    LossTerm,
    StudentBatch,
    TargetBatch,
    TermSettings,
    TrainingEpisodes,
)
from kd_offline.distillation.values import error
from kd_offline.schemas.bounds import Width
from kd_offline.schemas.environment import EnvironmentSpec


class AngleSettings(TermSettings):
    """Settings of the angle relations."""

    width: Width = Field(default=32, description="width that embeddings are mapped to")
    expert_every: int = Field(
        default=4, ge=1, description="updates for each step of the expert's mapping network"
    )


class Angle(LossTerm[AngleSettings]):
    """``Huber(angle(M f_T^i, M f_T^j) - angle(N_i f_S^i, N_j f_S^j))`` of each pair of agents.

    The mapping networks, M for the expert's embeddings and N_i for those of student i, have two
    layers, share no weights and are trained with the students. M is updated once in
    ``expert_every`` updates. Agents of opposing sides are not paired.
    """

    description = "angles between mapped embeddings of agents (Tseng et al., 2022)"
    settings_type = AngleSettings
    any_axes = True

    def arrays(self, present: Iterable[str]) -> Sequence[str]:
        """Return the array of embeddings."""
        return ("steps/embedding",)

    def fit(self, episodes: TrainingEpisodes) -> None:
        """Read the width of the expert's embeddings; no statistics are needed."""
        self._expert_width = episodes.buffer.array("steps/embedding").spec.shape[-1]

    def targets(self, batch: TargetBatch) -> dict[str, Tensor]:
        """Return the expert's embeddings as they are recorded, [B, T, N, H]."""
        return {"embedding": torch.from_numpy(batch.arrays["steps/embedding"])}

    def auxiliary_heads(
        self, widths: Sequence[int], spec: EnvironmentSpec, rng: np.random.Generator
    ) -> nn.Module:
        """Return N_i of every agent, and behind them M."""
        inputs, width = (*widths, self._expert_width), self.settings.width
        return nn.ModuleList(projector(each, width, rng, hidden=True) for each in inputs)

    def frozen(self, heads: nn.Module, update: int) -> Iterable[Tensor]:
        """Return the parameters of M in all updates but one of ``expert_every``."""
        assert isinstance(heads, nn.ModuleList)  # noqa: S101 - made above
        return () if update % self.settings.expert_every == 0 else heads[-1].parameters()

    def loss(
        self, students: StudentBatch, targets: Mapping[str, Tensor], heads: nn.Module | None
    ) -> Elements:
        """Return the Huber loss of every pair, [S, P], where both agents are alive."""
        assert isinstance(heads, nn.ModuleList)  # noqa: S101 - made above
        *own_maps, expert_map = heads
        own = [mapped(e) for mapped, e in zip(own_maps, students.embeddings, strict=True)]
        expert = [expert_map(e.float()) for e in targets["embedding"].unbind(-2)]
        gaps = losses.angle_relations(expert, students.side_of) - losses.angle_relations(
            own, students.side_of
        )
        both_alive = losses.stack_pairs(students.alive.unbind(-1), torch.mul, students.side_of)
        return Elements(error(gaps, "huber"), both_alive)
