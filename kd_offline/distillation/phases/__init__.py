"""Phases of a training: ranges of epochs in which hooks change the plain training loop."""

from __future__ import annotations

from kd_offline.distillation.design import StudentDesign
from kd_offline.distillation.phases.base import Phase
from kd_offline.distillation.phases.int8 import Int8Weights
from kd_offline.distillation.phases.sparsity import SparseTraining
from kd_offline.distillation.phases.unit_gates import UnitGating
from kd_offline.students.networks import StudentTeam


def phases_of(design: StudentDesign, team: StudentTeam) -> list[Phase]:
    """Return the phases that the recipe of ``design`` asks for, to train ``team`` with."""
    asked = (UnitGating.of(design, team), SparseTraining.of(design), Int8Weights.of(design))
    return [phase for phase in asked if phase is not None]
