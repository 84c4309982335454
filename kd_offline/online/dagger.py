"""DAgger (Ross et al., 2011): students play, the expert labels, students learn from everything.

A round records episodes that the students of the first seed play while the expert labels every
step, adds them to the dataset, lets the students go on learning from all episodes, and plays them.
Each of these is an operation of the toolkit with a result on disk, so a loop that was interrupted
continues from the last of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd_offline.datasets import ExpertBuffer
from kd_offline.datasets.edit.merge import merge
from kd_offline.distillation.distill import distill
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.errors import Remedy, StorageError, UsageError
from kd_offline.evaluation.evaluate import Plan
from kd_offline.file_locks import only_writer
from kd_offline.files import make_folder
from kd_offline.online.task import Allowed, Task
from kd_offline.recording.record import record
from kd_offline.runs.complete import CompleteRun, complete_run
from kd_offline.runs.folder import digests, recipe_of
from kd_offline.runs.source import open_dataset
from kd_offline.schemas.online import DaggerReport, DaggerRound, Students
from kd_offline.schemas.run import DatasetReference, RunManifest
from kd_offline.sealed_json import read_document, write_document
from kd_offline.seeding import derive
from kd_offline.tracking.base import Observer, Operation, observed
from kd_offline.user_code import close_all

REPORT = "dagger.json"
RECORDED, DATASET, RUN = "students.zarr", "dataset.zarr", "run"
_AGAIN = "begin the loop in another folder"


@dataclass(frozen=True, slots=True)
class _Loop:
    """A loop under way: what it was asked for, and what was read once."""

    folder: Path
    plan: Mapping[str, Any]
    manifest: RunManifest
    buffer: ExpertBuffer
    task: Task
    allowed: Allowed
    observers: Sequence[Observer]
    settings: Mapping[str, Any]


def dagger(
    run: str | Path,
    output: str | Path,
    *,
    rounds: int = 3,
    episodes: int = 2000,
    epochs: int | None = None,
    settings: Mapping[str, Any] | None = None,
    dataset: str | Path | None = None,
    seed: int = 0,
    evaluation_episodes: int = 1000,
    evaluation_seed: int = 0,
    expert: str | Path | None = None,
    expert_recipe: str | Path | None = None,
    environment: str | None = None,
    opponents: Sequence[str] = (),
    resume: bool = False,
    command: str = "",
    observers: Sequence[Observer] = (),
) -> DaggerReport:
    """Train the students of a run on states of their own play (DAgger); write ``dagger.json``.

    Round ``k`` has a folder ``round-<k>`` in ``output``: ``students.zarr`` is what the students
    played and the expert labelled, ``dataset.zarr`` all episodes so far, ``run`` the students.

    Parameters
    ----------
    run : path
        A complete run. The play of its first seed's students is recorded; all seeds learn from it.
    output : path
        Folder to make.
    rounds, episodes : int
        Number of rounds, and of episodes that are added in each.
    epochs : int, optional
        Passes over all episodes in each round. Default: half as many as the run's.
    settings : mapping, optional
        Other settings of the distillations, by dotted path.
    dataset : path, optional
        The run's dataset, where it is not at the place that the run states.
    seed : int
        Of the episodes that are recorded.
    evaluation_episodes, evaluation_seed : int
        Episodes in which the students of every round are played, the same for all of them.
    expert, expert_recipe, environment, opponents
        As for :func:`~kd_offline.evaluation.evaluate.evaluate`.
    resume
        Continue a loop that was interrupted, or begin one where there is none.
    command
        Kept in ``dagger.json``.
    observers
        They receive the events of every recording, merge and distillation, and of the loop itself.

    Returns
    -------
    DaggerReport
        Scores of the students after each round. ``change`` compares them with the first ones.

    Raises
    ------
    UsageError, MismatchError, CheckpointError, DatasetError, StorageError
        See the message. Finished steps are kept for ``resume``.
    """
    began = complete_run(run)
    manifest = began.manifest
    if rounds < 1 or episodes < 1:
        msg = f"cannot add {episodes} episodes in each of {rounds} rounds: give 1 or more of each"
        raise UsageError(msg)
    if epochs is None:
        epochs = max(1, recipe_of(manifest).optimisation.epochs // 2)
    plan = {
        "students": digests(manifest),
        "episodes": episodes,
        "epochs": epochs,
        "settings": dict(settings or {}),
        "seed": seed,
        "evaluation_episodes": evaluation_episodes,
        "evaluation_seed": evaluation_seed,
    }
    folder = Path(output)
    before = _before(folder, plan, resume)
    buffer = open_dataset(manifest, began.path, dataset)
    allowed = Allowed(environment, expert, expert_recipe, opponents)
    evaluations = Plan(evaluation_episodes, evaluation_seed)
    make_folder(folder)
    asked = {"run": str(run), "rounds": rounds, **plan}
    with (
        only_writer(folder, "running a loop"),
        observed(Operation("dagger", asked, folder), observers) as observer,
    ):
        task = Task.of(manifest, f"the run in {str(run)!r}", allowed, evaluations)
        try:
            loop = _Loop(
                *(folder, plan, manifest, buffer, task, allowed, observers),
                {"optimisation.epochs": epochs, **dict(settings or {})},
            )
            first = task.students(began, str(run), observer)
            report = _report(loop, first, before, command)
            observer.result = _rounds(loop, began, rounds, report, observer)
        finally:
            close_all([task.environment])
        return observer.result


def _rounds(
    loop: _Loop, began: CompleteRun, rounds: int, report: DaggerReport, observer: Observer
) -> DaggerReport:
    """Make the rounds that are missing and return the report, which is written after each.

    Rounds that a former call finished stay in the report, also those beyond ``rounds``.
    """
    for number in range(1, rounds + 1):
        students_of = began if number == 1 else _round_run(loop.folder, number - 1)
        done = _round(loop, number, students_of, report, observer)
        others = report.rounds[: number - 1], report.rounds[number:]
        report = report.model_copy(update={"rounds": (*others[0], done, *others[1])})
        write_document(loop.folder / REPORT, report)
        observer.metrics(number, _metrics(done.students), series="round")
        observer.progress(number, rounds, "rounds")
    report = report.model_copy(update={"status": "complete"})
    write_document(loop.folder / REPORT, report)
    return report


def _before(folder: Path, plan: Mapping[str, Any], resume: bool) -> DaggerReport | None:
    """Return the report of a loop that is to be continued; None where there is none.

    Raises
    ------
    StorageError
        The folder holds something else, or a loop that was begun otherwise.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    if not resume:
        msg = f"{folder} already exists"
        raise StorageError(
            msg, Remedy("give another path"), Remedy("continue it with", resume=True)
        )
    if not (folder / REPORT).is_file():
        msg = f"{folder} exists and holds no {REPORT}: remove it yourself or give another path"
        raise StorageError(msg)
    report = read_document(DaggerReport, folder / REPORT, _AGAIN)
    if report.plan != plan:
        changed = [name for name in plan if report.plan.get(name) != plan[name]]
        msg = (
            f"the loop in {str(folder)!r} was begun with another {' and '.join(changed)}: repeat "
            "what its dagger.json states, or choose another folder"
        )
        raise StorageError(msg)
    return report


def _report(
    loop: _Loop, first: Students, before: DaggerReport | None, command: str
) -> DaggerReport:
    """Return the report before the next round, and write it."""
    reference = loop.manifest.dataset.model_copy(update={"path": loop.buffer.where})
    report = DaggerReport(
        status="running",
        plan=dict(loop.plan),
        environment=loop.manifest.environment,
        expert=loop.task.expert.digest,
        dataset=reference,
        first=first,
        rounds=() if before is None else before.rounds,
        command=command,
    )
    write_document(loop.folder / REPORT, report)
    return report


def _round_run(folder: Path, number: int) -> CompleteRun:
    return complete_run(folder / f"round-{number}" / RUN)


def _round(
    loop: _Loop, number: int, students: CompleteRun, report: DaggerReport, observer: Observer
) -> DaggerRound:
    """Record, merge, distil and play one round; what is finished is not made again."""
    folder = loop.folder / f"round-{number}"
    make_folder(folder)
    observer.message(f"round {number}: the students of {students.path} play")
    recorded = record(
        loop.manifest.environment,
        folder / RECORDED,
        resume=True,
        observers=loop.observers,
        environment_kwargs=loop.manifest.environment_kwargs,
        expert=_expert_reference(loop),
        expert_recipe=loop.allowed.expert_recipe,
        opponents=tuple(loop.allowed.opponents),
        episodes=loop.plan["episodes"],
        seed=derive(loop.plan["seed"], "dagger", number),
        noise_mixture=(),
        partner=str(students.path),
        partner_share=1.0,
        partner_agents=1.0,
        masks=tuple(loop.buffer.manifest.masks),
        embedding_dtype=_embedding_dtype(loop.buffer),
        licence=loop.buffer.manifest.licence,
    )
    former = loop.buffer.where if number == 1 else loop.folder / f"round-{number - 1}" / DATASET
    merged = merge(
        [former, folder / RECORDED],
        folder / DATASET,
        arrays="common",
        name=loop.buffer.manifest.name,
        resume=True,
        observers=loop.observers,
    )
    recipe = distill_recipe(start=students.path, settings=loop.settings)
    distill(folder / DATASET, folder / RUN, recipe, resume=True, observers=loop.observers)
    place = f"{folder.name}/{RUN}"
    return DaggerRound(
        number=number,
        recorded=recorded.id,
        dataset=DatasetReference(id=merged.id, name=merged.name, path=f"{folder.name}/{DATASET}"),
        episodes=merged.statistics.episodes,
        students=_played(loop, number, place, report, observer),
    )


def _played(
    loop: _Loop, number: int, place: str, report: DaggerReport, observer: Observer
) -> Students:
    """Return the scores of a round's students; those of an interrupted loop are kept."""
    run = _round_run(loop.folder, number)
    if number <= len(report.rounds):
        known = report.rounds[number - 1].students
        if known.digests == digests(run.manifest):
            return known
    return loop.task.students(run, place, observer)


def _expert_reference(loop: _Loop) -> str:
    given = loop.allowed.expert
    return loop.manifest.expert_reference if given is None else str(given)


def _embedding_dtype(buffer: ExpertBuffer) -> str:
    array = buffer.manifest.arrays.get("steps/embedding")
    return "float16" if array is None else array.dtype


def _metrics(students: Students) -> dict[str, float]:
    """Return what is drawn of a round, by the names of metrics."""
    figures = {
        "dagger/greedy/return": students.greedy.student.mean,
        "dagger/sampled/return": students.sampled.student.mean,
        "dagger/greedy/retention": students.greedy.retention.normalised,
        "dagger/change": None if students.change is None else students.change.mean,
    }
    return {name: value for name, value in figures.items() if value is not None}
