"""One trial of a sweep: choose a student, distil it, measure its quality and count its costs.

Several processes may share a sweep. They share a journal, write it one at a time, and detect
processes that died.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from optuna.storages.journal import BaseJournalBackend

from kd_offline.datasets import ExpertBuffer
from kd_offline.distillation.distill import distill
from kd_offline.errors import StorageError, UnknownNameError
from kd_offline.file_locks import dead, in_turn, living
from kd_offline.files import append_file, make_subfolder, remove_tree, require_folder
from kd_offline.hardware import profiles
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


def run_trial(
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
    card = complete_run(run).students.card
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
    """Return the predicted needs of a step of the team, summed over its agents."""
    budget = Budget.model_validate({"profile": profile, "precision": precision})
    device = profiles.load(profile)
    shapes = [card_shape(card, i, width) for i, width in enumerate(card.widths)]
    return added([figures(shape, budget, device) for shape in shapes])


def objectives(point: SweepPoint) -> tuple[float, ...]:
    """Return quality (higher is better) and the costs (lower is better) of a point."""
    return (point.quality, *(point.figures[name].value for name in COSTS))


WORKERS = "workers"
_NAME = re.compile(r"[0-9a-f]{16}")


class Journal(BaseJournalBackend):
    """Optuna's journal: a line of JSON for each change, written by one process at a time.

    A line that a killed process did not finish is removed by the next process that writes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turns = make_subfolder(path.parent, WORKERS)
        self._ends = [0]  # byte offsets of the ends of the lines read so far
        append_file(path, "")

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the changes from a number on; those written meanwhile come with the next call.

        Raises
        ------
        StorageError
            A line is no JSON document.
        """
        start = min(log_number_from, len(self._ends) - 1)
        with self._path.open("rb") as file:
            file.seek(self._ends[start])
            for number, line in enumerate(file, start):
                if not line.endswith(b"\n"):
                    return
                if number + 1 == len(self._ends):
                    self._ends.append(self._ends[number] + len(line))
                if number >= log_number_from:
                    yield self._document(line, number)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append changes and flush them to disk."""
        lines = [json.dumps(log, separators=(",", ":")) + "\n" for log in logs]
        with in_turn(self._turns):
            append_file(self._path, "".join(lines), whole_lines=True, durable=True)

    def _document(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            document = json.loads(line)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise damaged(self._path, f"line {number + 1} is no JSON document")
        return document


def damaged(journal: Path, what: str) -> StorageError:
    """Return the error for a journal that cannot be read."""
    return StorageError(
        f"{str(journal)!r} is damaged ({what}): restore it, or begin the sweep in another folder"
    )


@contextmanager
def registered_worker(folder: Path) -> Iterator[str]:
    """Register this process in the sweep while the body runs; yield its name.

    Other processes can detect by the name whether this one is alive.
    """
    name = secrets.token_hex(8)
    file = make_subfolder(folder, WORKERS) / name
    with living(file):
        yield name
    remove_tree(file)


def worker_died(folder: Path, name: object) -> bool:
    """Return whether the process of this name has ended; False where that is unknown."""
    if os.name == "nt":
        return False
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return True  # a running trial always has the name of its worker
    return dead(folder / WORKERS / name)
