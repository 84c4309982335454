"""Learned gates on hidden units, until units are chosen and the others removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kd_offline.distillation.auxiliary_heads import AuxiliaryHeads
from kd_offline.distillation.phases.base import Phase
from kd_offline.distillation.phases.resources import Resources
from kd_offline.networks.packed import Remnant
from kd_offline.schemas.layers import LayerWidths
from kd_offline.students import policy as students
from kd_offline.students.cost_bounds import Bounds
from kd_offline.students.l0_gates import GatedPass, Gates
from kd_offline.students.networks import StudentTeam
from kd_offline.students.structured_pruning import settle

if TYPE_CHECKING:
    from kd_offline.distillation.design import StudentDesign
    from kd_offline.distillation.train import Training


@dataclass(slots=True)
class UnitGating(Phase):
    """A gate on every unit and a penalty on the expected cost; at the end a smaller team."""

    name = "unit gates"
    saved_as = "gates"

    resources: Resources

    @classmethod
    def of(cls, design: StudentDesign, team: StudentTeam) -> UnitGating | None:
        """Return the phase of a recipe; None where it has no gates."""
        recipe = design.recipe
        if recipe.budget is None or recipe.first_settled is None:
            return None
        gates = Gates(team.shapes, recipe.gates.start).to(team.mean.device)
        bounds = Bounds.of(design.card, recipe.budget)
        return cls(0, recipe.first_settled, Resources(gates, bounds, recipe.gates))

    def begin(self, state: Training) -> None:
        """Put the gates on the team's units; Adam trains them."""
        rate = self.resources.settings.learning_rate
        gates = self.resources.gates
        state.optimisers.append(torch.optim.Adam(gates.parameters(), rate, fused=True))
        state.team.stand_in = GatedPass(gates)

    def draw(self, rng: np.random.Generator) -> None:
        """Draw the noise of the gates."""
        self.resources.gates.draw(rng)

    def losses(self, loss: Tensor, progress: float) -> dict[str, Tensor]:
        """Add the penalty on what the team is expected to cost."""
        return self.resources.priced(loss, progress)

    def leave(self, state: Training) -> None:
        """Go on without the units whose gates are closed or beyond the budget, and all gates."""
        (team,) = state.teams
        small = settle(team.cpu(), self.resources.gates.cpu(), self.resources.bounds)
        self._go_on(state, small.team, small.embeddings)

    def skip(self, state: Training, layers: Sequence[LayerWidths] | None) -> None:
        """Go on with a team of the widths that were chosen."""
        small = students.build(self.resources.bounds.card, None, layers)
        widths = [shape.embedding for shape in small.shapes]
        first = [Remnant(torch.arange(width), torch.ones(width)) for width in widths]
        self._go_on(state, small, first)

    def _go_on(self, state: Training, team: StudentTeam, embeddings: Sequence[Remnant]) -> None:
        assert isinstance(state.heads, AuxiliaryHeads)  # noqa: S101 - gates are of one seed
        state.go_on_with(team, state.heads.cpu().narrowed(embeddings), self.end)

    def tensors(self) -> dict[str, Tensor]:
        """Return the gates' parameters."""
        return self.resources.gates.state_dict()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put the gates' parameters back."""
        self.resources.gates.load_state_dict(dict(tensors))
