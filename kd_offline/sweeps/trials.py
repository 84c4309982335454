"""One trial of a sweep: choose a student, distil it, measure its quality and count its costs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kd_offline.datasets import ExpertBuffer
from kd_offline.distillation.distill import distill
from kd_offline.errors import UnknownNameError
from kd_offline.evaluation.play import Baselines
from kd_offline.files import make_subfolder, require_folder
from kd_offline.hardware import profiles
from kd_offline.networks.threads import computing_with
from kd_offline.runs.complete import complete_run
from kd_offline.schemas.budget import Budget, BudgetFigure, Quantity
from kd_offline.schemas.recipes import DistillRecipe, StudentArchitecture
from kd_offline.schemas.student import StudentCard
from kd_offline.schemas.sweep import SweepPlan, SweepPoint
from kd_offline.students.cost_bounds import added, card_shape, figures
from kd_offline.students.families import FAMILIES, family_of
from kd_offline.sweeps.trial_objective import Allowed, held_out_kl, quality

COSTS: tuple[Quantity, ...] = ("macs", "flash_kb", "latency_us")
"""The costs in the Pareto front; lower is better."""

VARIANTS: dict[str, dict[str, Any]] = {"low-rank": {"family": "gru", "rank_share": 0.25}}
"""Architectures that are a student family with other than its default settings."""


class Suggests(Protocol):
    """The part of Optuna's trial that is used here."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """Return one of ``choices``."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Architecture, precision and widths of the student of a trial."""

    architecture: str
    precision: str
    widths: tuple[int, ...]

    @classmethod
    def of(cls, point: SweepPoint) -> Choice:
        """Return the choice of a point."""
        return cls(point.architecture, point.precision, point.widths)

    def recipe(self, base: DistillRecipe) -> DistillRecipe:
        """Return the recipe of this student, with one seed."""
        student = architecture_of(self.architecture, base.student)
        student = student.model_copy(update={"hidden": self.widths})
        return base.model_copy(update={"student": student, "seeds": base.seeds[:1], "budget": None})


@dataclass(frozen=True, slots=True)
class TrialTask:
    """A trial to run: the chosen student, and the number of its run folder."""

    choice: Choice
    number: int


def architecture_of(name: str, base: StudentArchitecture) -> StudentArchitecture:
    """Return the settings of an architecture: its own, and those of ``base`` that its family has.

    Raises
    ------
    UnknownNameError
        There is no such architecture.
    """
    if name not in FAMILIES and name not in VARIANTS:
        raise UnknownNameError(what="architecture", got=name, allowed=(*FAMILIES, *VARIANTS))
    own_settings = VARIANTS.get(name, {"family": name})
    variant_settings = {setting for variant in VARIANTS.values() for setting in variant}
    family = family_of(StudentArchitecture.model_validate(own_settings)).settings
    base_settings = base.model_dump(
        mode="json", include=family.model_fields.keys() - variant_settings
    )
    return StudentArchitecture.model_validate(base_settings | own_settings)


def choose(trial: Suggests, plan: SweepPlan, agents: tuple[str, ...]) -> Choice:
    """Return the choice that a sampler makes for a trial."""
    architecture = trial.suggest_categorical("architecture", plan.architectures)
    widths = tuple(trial.suggest_categorical(f"width.{agent}", plan.widths) for agent in agents)
    precision = trial.suggest_categorical("precision", plan.precisions)
    return Choice(architecture, precision, widths)


@computing_with(1)  # bits do not depend on where a trial runs
def run_trial(
    choice: Choice,
    number: int,
    folder: Path,
    buffer: ExpertBuffer,
    plan: SweepPlan,
    allowed: Allowed,
    baselines: Baselines,
) -> SweepPoint:
    """Distil and judge one choice; an interrupted run of the same trial is continued.

    ``baselines``: those of earlier trials in this process.
    """
    run = make_subfolder(folder, "runs") / f"{number:04d}"
    if run.is_symlink():
        require_folder(run)
    recipe = choice.recipe(plan.recipe)
    manifest = distill(buffer, run, recipe, resume=True)
    card = complete_run(run).students.card
    return SweepPoint(
        trial=number,
        run=f"runs/{number:04d}",
        architecture=choice.architecture,
        precision=choice.precision,
        widths=choice.widths,
        quality=quality(run, buffer, plan, choice.precision, allowed, baselines),
        held_out_kl=held_out_kl(manifest),
        figures=team_figures(card, plan.profile, choice.precision),
        front=False,
    )


def team_figures(card: StudentCard, profile: str, precision: str) -> dict[Quantity, BudgetFigure]:
    """Return the predicted needs of a step of the team, summed over its agents."""
    budget = Budget.model_validate({"profile": profile, "precision": precision})
    device = profiles.load(profile)
    shapes = [card_shape(card, i, width) for i, width in enumerate(card.widths)]
    return added([figures(shape, budget, device) for shape in shapes])


def objectives(point: SweepPoint) -> tuple[float, ...]:
    """Return quality (higher is better) and the costs (lower is better) of a point."""
    return (point.quality, *(point.figures[name].value for name in COSTS))
