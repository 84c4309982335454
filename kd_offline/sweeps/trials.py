"""One trial: a student is chosen, distilled by the one training loop, judged and counted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kd_offline.datasets import ExpertBuffer
from kd_offline.distillation.distill import distill
from kd_offline.files import make_subfolder, require_folder
from kd_offline.hardware import profiles
from kd_offline.runs.folder import open_run
from kd_offline.runs.teams import checked_students
from kd_offline.schemas.budget import Budget, BudgetFigure, Quantity
from kd_offline.schemas.recipes import DistillRecipe
from kd_offline.schemas.student import StudentCard
from kd_offline.schemas.sweep import Architecture, SweepPlan, SweepPoint
from kd_offline.students.cost_bounds import added, card_shape, figures
from kd_offline.sweeps.trial_objective import Allowed, held_out_kl, quality

COSTS: tuple[Quantity, ...] = ("macs", "flash_kb", "latency_us")
"""What is weighed against quality, less being better."""

RANK_SHARE = 0.25
"""Of low-rank GRUs: rank by width."""


class Suggests(Protocol):
    """What a sampler offers a trial."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """Return one of ``choices``."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The student that a trial distils."""

    architecture: Architecture
    precision: str
    widths: tuple[int, ...]

    @classmethod
    def of(cls, point: SweepPoint) -> Choice:
        """Return the choice that a point was made of."""
        return cls(point.architecture, point.precision, point.widths)

    def recipe(self, base: DistillRecipe) -> DistillRecipe:
        """Return the recipe of this student, with one seed."""
        student = base.student.model_copy(
            update={
                "kind": "mlp" if self.architecture == "mlp" else "gru",
                "rank_share": RANK_SHARE if self.architecture == "low-rank" else None,
                "hidden": self.widths,
            }
        )
        return base.model_copy(update={"student": student, "seeds": base.seeds[:1], "budget": None})


def choose(trial: Suggests, plan: SweepPlan, agents: tuple[str, ...]) -> Choice:
    """Return what a sampler chooses for a trial."""
    kind = trial.suggest_categorical("architecture", plan.architectures)
    widths = tuple(trial.suggest_categorical(f"width.{agent}", plan.widths) for agent in agents)
    precision = trial.suggest_categorical("precision", plan.precisions)
    return Choice(kind, precision, widths)


def carry_out(
    choice: Choice,
    number: int,
    folder: Path,
    buffer: ExpertBuffer,
    plan: SweepPlan,
    allowed: Allowed,
) -> SweepPoint:
    """Distil and judge one choice; an interrupted run of the same trial is continued."""
    run = make_subfolder(folder, "runs") / f"{number:04d}"
    if run.is_symlink():
        require_folder(run)
    recipe = choice.recipe(plan.recipe)
    manifest = distill(buffer, run, recipe, resume=True)
    card = checked_students(open_run(run), manifest).card
    return SweepPoint(
        trial=number,
        run=f"runs/{number:04d}",
        architecture=choice.architecture,
        precision=choice.precision,
        widths=choice.widths,
        quality=quality(run, buffer, plan, choice.precision, allowed),
        held_out_kl=held_out_kl(manifest),
        figures=team_figures(card, plan.profile, choice.precision),
        front=False,
    )


def team_figures(card: StudentCard, profile: str, precision: str) -> dict[Quantity, BudgetFigure]:
    """Return what a step of the team needs, summed over its agents."""
    budget = Budget.model_validate({"profile": profile, "precision": precision})
    device = profiles.load(profile)
    shapes = [card_shape(card, i, width) for i, width in enumerate(card.widths)]
    return added([figures(shape, budget, device) for shape in shapes])


def objectives(point: SweepPoint) -> tuple[float, ...]:
    """Return quality and the costs of a point; the first is better when more, the others less."""
    return (point.quality, *(point.figures[name].value for name in COSTS))
