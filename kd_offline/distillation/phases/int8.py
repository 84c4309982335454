"""Training with the rounded weights of an int8 export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kd_offline.distillation.phases.base import Phase
from kd_offline.students.folding import RoundedPass
from kd_offline.students.policy import fixed_mask
from kd_offline.types import BoolArray

if TYPE_CHECKING:
    from kd_offline.distillation.design import StudentDesign
    from kd_offline.distillation.train import Training


@dataclass(slots=True)
class Int8Weights(Phase):
    """Forward passes with rounded weights, to the end of the training.

    Only rounded weights are compared with each other then: what was best before is forgotten.
    """

    mask: BoolArray | None  # what students see, [N, O]; None where that is drawn by episode

    @classmethod
    def of(cls, design: StudentDesign) -> Int8Weights | None:
        """Return the phase of a recipe; None if the recipe does not round weights."""
        schedule = design.recipe.optimisation
        if schedule.first_rounded is None:
            return None
        return cls(schedule.first_rounded, schedule.epochs, fixed_mask(design.card))

    def begin(self, state: Training) -> None:
        """Round from here on."""
        state.team.stand_in = RoundedPass(self.mask)
        state.forget_best()

    def leave(self, state: Training) -> None:
        """Compute with the unrounded weights again."""
        state.team.stand_in = None
