"""``sweep``: distil students of many sizes and find the Pareto front (Pareto, 1906) among them."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kd_offline.datasets import ExpertBuffer
from kd_offline.datasets.reading.held_out import held_out
from kd_offline.distillation.recipe import completed
from kd_offline.distillation.terms.active import check_arrays
from kd_offline.errors import (
    CheckpointError,
    KdOfflineError,
    MismatchError,
    MissingExtraError,
    StorageError,
    UnsealedWarning,
    UsageError,
)
from kd_offline.execution import EXECUTORS
from kd_offline.file_locks import in_turn
from kd_offline.files import MAX_DOCUMENT_BYTES, make_folder, read_file, write_file
from kd_offline.hardware import profiles
from kd_offline.networks.accelerator import device_named
from kd_offline.recipes import build
from kd_offline.schemas.document import DIGEST
from kd_offline.schemas.recipes import DistillRecipe
from kd_offline.schemas.run import DatasetReference
from kd_offline.schemas.sweep import SWEEP_FORMAT, SweepPlan, SweepPoint, SweepReport
from kd_offline.sealed_json import (
    canonical_json,
    digest,
    read_document,
    seal,
    unseal,
    write_document,
)
from kd_offline.seeding import derive
from kd_offline.students.families import require_offer
from kd_offline.sweeps.trial_objective import NOTHING, Allowed, has_optuna, judge_for
from kd_offline.sweeps.trials import COSTS, Choice, architecture_of, choose, objectives, run_trial
from kd_offline.tracking.base import SILENT, Observer, Operation, counting, observed

PLAN, REPORT, JOURNAL, PAGE = "plan.json", "sweep.json", "trials.journal", "sweep.html"
ORIGIN = "dataset.txt"
FIRST_WIDTH = 32
# Attributes of a trial: the worker that runs it, and the trial whose run folder it continues.
_WORKER, _CONTINUES = "worker", "continues"
_WAIT_S = 0.5
_AGAIN = "begin the sweep in another folder"


def sweep(
    dataset: str | Path,
    output: str | Path,
    *,
    trials: int = 24,
    workers: int = 1,
    seed: int = 0,
    recipe: DistillRecipe | None = None,
    architectures: Sequence[str] = ("gru", "mlp", "low-rank"),
    widths: Sequence[int] = (8, 16, 24, 32, 48, 64),
    precisions: Sequence[str] = ("fp32", "int8"),
    profile: str = "stm32f4",
    judge: str = "auto",
    episodes: int = 1000,
    environment: str | None = None,
    expert: str | Path | None = None,
    expert_recipe: str | Path | None = None,
    executor: str = "processes",
    observers: Sequence[Observer] = (),
) -> SweepReport:
    """Search for students of high quality and low cost, and write ``sweep.json`` in a folder.

    Parameters
    ----------
    dataset : path
        An expert buffer.
    output : path
        Folder of the sweep. A sweep with the same plan is continued there, also by several
        processes at once, on one machine or over a shared file system.
    trials : int
        Total number of trials at the end, including those of other processes.
    workers : int
        Number of processes to start here.
    seed : int
        Of the sampler. One process that is not interrupted repeats its choices.
    recipe : DistillRecipe, optional
        Of every student, except for its architecture; only the first seed is used.
    architectures, widths, precisions : sequences
        The values to choose from; a width is chosen for each agent.
    profile : str
        Device for which the time is predicted.
    judge : str
        ``retention`` in the environment; ``agreement`` on held-out episodes (on training episodes
        where nothing is held out, which the report states); or ``auto``: retention where
        environment and expert are installed.
    episodes : int
        Number of episodes to judge on.
    environment : str, optional
        Name of the recorded environment, to allow one that a dataset may not start by itself.
    expert, expert_recipe : path or reference, optional
        The recorded expert, where it is not bundled.
    executor : str
        Name of the executor of the other workers, see :data:`kd_offline.execution.EXECUTORS`. Not
        ``threads``, because the processes of a sweep exclude each other by file locks.
    observers : sequence of Observer
        They receive every point that this process completes.

    Raises
    ------
    UsageError
        A setting is impossible, or retention cannot be measured.
    StorageError
        The folder holds a sweep with another plan or dataset, or something else.
    MissingExtraError
        Optuna is not installed.
    """
    if not has_optuna():
        raise MissingExtraError(library="optuna", extra="sweep", purpose="a sweep")
    if trials < 1 or workers < 1:
        msg = f"cannot make {trials} trials with {workers} workers: give 1 or more of each"
        raise UsageError(msg)
    recipe = completed(recipe or DistillRecipe())
    buffer = ExpertBuffer.open(dataset)
    allowed = Allowed(environment, expert, expert_recipe)
    settings = {
        "recipe": recipe,
        "architectures": tuple(architectures),
        "widths": tuple(widths),
        "precisions": tuple(precisions),
        "profile": profile,
        "judge": judge_for(buffer, judge, allowed),
        "part": _part(buffer, recipe),
        "episodes": episodes,
        "seed": seed,
    }
    plan = build(SweepPlan, [settings], "sweep")
    _check(plan, buffer)
    folder = _open_folder(Path(output), plan, buffer)
    plan_values = plan.model_dump(mode="json")
    with observed(Operation("sweep", plan_values, folder), observers) as observer:
        with EXECUTORS.load(executor)(max(workers - 1, 1)) as others:
            join = partial(_work_in_process, str(dataset), folder, trials, allowed)
            finished_workers = others.map(join, range(1, workers))
            work(buffer, folder, trials, allowed=allowed, observer=observer)
            _await_workers(finished_workers, observer)
        observer.result = report = finish(folder, buffer, str(dataset), plan)
    return report


def _part(buffer: ExpertBuffer, recipe: DistillRecipe) -> str:
    """Return the part of the dataset on which agreement and KL are measured."""
    part = held_out(buffer, recipe.judge_by)
    return "train" if part is None else part.part


def work(
    dataset: str | Path | ExpertBuffer,
    folder: Path,
    trials: int,
    worker: int = 0,
    allowed: Allowed = NOTHING,
    observer: Observer = SILENT,
) -> None:
    """Run trials of a sweep until ``trials`` of them are complete.

    Trials of processes that died are continued here. If enough trials run elsewhere, this waits for
    them.
    """
    from kd_offline.sweeps.trials import registered_worker

    buffer = dataset if isinstance(dataset, ExpertBuffer) else ExpertBuffer.open(dataset)
    if read_file(folder / ORIGIN, MAX_DOCUMENT_BYTES).strip() != buffer.id.encode():
        msg = (
            f"the dataset at {buffer.where!r} is not the one that the sweep in {str(folder)!r} was "
            "begun with: it was replaced, so give that one"
        )
        raise MismatchError(msg)
    plan = read_document(SweepPlan, folder / PLAN, _AGAIN)
    study = _open_and_seed_study(folder, plan, buffer.spec.agents, worker)
    tick = counting(observer, trials, "trials")

    def objective(trial: Any) -> tuple[float, ...]:
        choice = choose(trial, plan, buffer.spec.agents)
        known_points = [
            p for p in _completed_points(study, plan, buffer.id) if choice == Choice.of(p)
        ]
        number = _original_number(trial)
        point = (
            known_points[0]
            if known_points
            else run_trial(choice, number, folder, buffer, plan, allowed)
        )
        trial.set_user_attr("point", _sealed(point, plan, buffer.id))
        observer.metrics(trial.number, _metrics(point), series=point.architecture)
        tick()
        return objectives(point)

    with registered_worker(folder) as name:
        while (trial := _next_trial(study, folder, trials, name)) is not None:
            _run_and_tell(study, trial, objective)


def _metrics(point: SweepPoint) -> dict[str, float]:
    """Return quality and costs of a trial by the names of metrics."""
    costs = {f"trial/{name}": figure.value for name, figure in point.figures.items()}
    return {"trial/quality": point.quality, **costs}


def _run_and_tell(study: Any, trial: Any, objective: Callable[[Any], tuple[float, ...]]) -> None:
    """Run a trial and report its values; one that is interrupted stays for a later process."""
    from optuna.trial import TrialState

    try:
        values = objective(trial)
    except Exception:
        study.tell(trial, state=TrialState.FAIL)
        raise
    study.tell(trial, values)


def _next_trial(study: Any, folder: Path, trials: int, worker: str) -> Any:
    """Return a trial to run; None when ``trials`` are complete."""
    from optuna.trial import TrialState

    while True:
        with in_turn(folder):
            _requeue_abandoned(study, folder)
            states = [trial.state for trial in study.get_trials(deepcopy=False)]
            remaining = trials - states.count(TrialState.COMPLETE)
            if remaining <= 0:
                return None
            if remaining > states.count(TrialState.RUNNING):
                trial = study.ask()
                trial.set_user_attr(_WORKER, worker)
                return trial
        time.sleep(_WAIT_S)


def _requeue_abandoned(study: Any, folder: Path) -> None:
    """Mark the trials of processes that died as failed, and put each in the queue again."""
    from optuna.trial import TrialState

    from kd_offline.sweeps.trials import worker_died

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if worker_died(folder, trial.user_attrs.get(_WORKER)):
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params, user_attrs={_CONTINUES: _original_number(trial)})


def _original_number(trial: Any) -> int:
    """Return the number of the trial that this one continues, or its own."""
    number = trial.user_attrs.get(_CONTINUES)
    return number if type(number) is int and number >= 0 else int(trial.number)


def finish(folder: Path, buffer: ExpertBuffer, path: str, plan: SweepPlan) -> SweepReport:
    """Compute the Pareto front and write report and page."""
    from kd_offline.reports.sweep import sweep_html

    points, failed = _finished_points(folder, plan, buffer.id)
    _require_no_loss(folder, points)
    costs = [(-(values := objectives(p))[0], *values[1:]) for p in points]
    points_with_front = [
        point.model_copy(update={"front": on_front})
        for point, on_front in zip(points, front(costs), strict=True)
    ]
    report = SweepReport(
        plan=plan,
        dataset=DatasetReference(id=buffer.id, name=buffer.manifest.name, path=path),
        environment=buffer.spec.id,
        objectives=(plan.judge, *COSTS),
        points=tuple(
            sorted(points_with_front, key=lambda p: (-p.quality, p.figures["macs"].value))
        ),
        failed=failed,
    )
    write_document(folder / REPORT, report, nulls=False)
    write_file(folder / PAGE, sweep_html(report))
    return report


def _require_no_loss(folder: Path, points: Sequence[SweepPoint]) -> None:
    """Raise a ``CheckpointError`` if the journal lacks trials that an earlier report has."""
    if not (folder / REPORT).is_file():
        return
    former_report = read_document(SweepReport, folder / REPORT, "remove it, and it is made again")
    if lost_runs := sorted(
        {point.run for point in former_report.points} - {point.run for point in points}
    ):
        msg = (
            f"this sweep's {JOURNAL} has lost the trial of {lost_runs[0]!r}, which its {REPORT} "
            f"has: it was damaged; {_AGAIN}"
        )
        raise CheckpointError(msg)


def _check(plan: SweepPlan, buffer: ExpertBuffer) -> None:
    """Raise the errors that every trial would raise."""
    device_named(plan.recipe.accelerator)
    buffer.mask(plan.recipe.mask)
    check_arrays(plan.recipe, list(buffer.names))
    profiles.load(plan.profile)
    engines = ("c", "int8") if "int8" in plan.precisions else ("c",)  # what costs are predicted of
    for name in plan.architectures:
        require_offer(architecture_of(name, plan.recipe.student), *engines)


def _open_folder(folder: Path, plan: SweepPlan, buffer: ExpertBuffer) -> Path:
    """Create the folder, or check that it holds the same sweep."""
    plan_file, origin = folder / PLAN, folder / ORIGIN
    if not folder.exists() or not any(folder.iterdir()):
        make_folder(folder)
        write_file(origin, buffer.id + "\n")
        write_document(plan_file, plan)
        return folder
    if not plan_file.is_file():
        msg = f"{folder} exists and is not a sweep: remove it yourself or give another path"
        raise StorageError(msg)
    stored_plan = read_document(SweepPlan, plan_file, _AGAIN)
    if stored_plan.version < SWEEP_FORMAT:
        msg = (
            f"the sweep in {str(folder)!r} was begun by an older version of kd-offline, whose "
            "trials this one does not continue: choose another folder"
        )
        raise StorageError(msg)
    if stored_plan != plan or read_file(origin, MAX_DOCUMENT_BYTES).strip() != buffer.id.encode():
        msg = (
            f"the sweep in {str(folder)!r} was begun with another plan or dataset: repeat its "
            f"options, as its {PLAN} states them, or choose another folder"
        )
        raise StorageError(msg)
    return folder


def _work_in_process(
    dataset: str, folder: Path, trials: int, allowed: Allowed, worker: int
) -> None:
    """Run :func:`work` in another process."""
    work(dataset, folder, trials, worker, allowed)


def _await_workers(finished_workers: Iterator[None], observer: Observer) -> None:
    """Wait for the other workers. The trial of one that died or failed is continued by others."""
    try:
        for _ in finished_workers:
            pass
    except KdOfflineError as error:
        observer.message(f"one of the other workers of this sweep is gone: {error}")


def _open_and_seed_study(folder: Path, plan: SweepPlan, agents: Sequence[str], worker: int) -> Any:
    """Open the study; the first process also enqueues the first trials."""
    import optuna

    from kd_offline.sweeps.trials import damaged

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # errors are told by us
    with in_turn(folder):
        try:
            study = _open_study(folder / JOURNAL)
            known_trials = len(study.get_trials(deepcopy=False))
        except (LookupError, ValueError, TypeError, AttributeError, AssertionError) as error:
            raise damaged(folder / JOURNAL, f"Optuna cannot follow it: {error!r}") from error
        sampler_seed = derive(plan.seed, "sweep", worker, known_trials) % 2**32
        study.sampler = optuna.samplers.TPESampler(seed=sampler_seed, n_startup_trials=8)
        if not known_trials and agents:
            for choice in _first_choices(plan, agents):
                study.enqueue_trial(choice, skip_if_exists=True)
    return study


def _open_study(journal: Path) -> Any:
    import optuna
    from optuna.storages import JournalStorage

    from kd_offline.sweeps.trials import Journal

    directions: list[Any] = ["maximize", *["minimize"] * len(COSTS)]
    return optuna.create_study(
        storage=JournalStorage(Journal(journal)),
        study_name="sweep",
        directions=directions,
        load_if_exists=True,
    )


def _first_choices(plan: SweepPlan, agents: Sequence[str]) -> list[dict[str, Any]]:
    """Return one student of each architecture and precision, with a width close to 32."""
    near = min(plan.widths, key=lambda width: abs(width - FIRST_WIDTH))
    widths = {f"width.{agent}": near for agent in agents}
    return [
        {"architecture": architecture, "precision": precision, **widths}
        for architecture in plan.architectures
        for precision in plan.precisions
    ]


def _finished_points(folder: Path, plan: SweepPlan, dataset: str) -> tuple[list[SweepPoint], int]:
    """Return the points of all finished trials, and the number of failed trials."""
    from optuna.trial import TrialState

    study = _open_and_seed_study(folder, plan, (), 0)
    failed = len(study.get_trials(deepcopy=False, states=(TrialState.FAIL,)))
    points = _completed_points(study, plan, dataset)
    return list({point.run: point for point in points}.values()), failed


def _sealed(point: SweepPoint, plan: SweepPlan, dataset: str) -> str:
    """Return a point as sealed text for the journal, with the identity of its sweep."""
    document = {"sweep": _identity(plan, dataset), "point": point.model_dump(mode="json")}
    return seal(document, DIGEST).decode()


def _unsealed(text: Any, plan: SweepPlan, dataset: str) -> SweepPoint:
    """Return the point in a text of :func:`_sealed`.

    Raises
    ------
    CheckpointError
        It was altered, or is of another sweep.
    """
    if isinstance(text, dict):  # written by older versions
        msg = f"this sweep's {JOURNAL} was begun before points had digests: begin another sweep"
        warnings.warn(msg, UnsealedWarning, stacklevel=2)
        return SweepPoint.model_validate(text)
    document = unseal(str(text).encode("utf-8", "replace"), DIGEST)
    if document is None or document.get("sweep") != _identity(plan, dataset):
        msg = f"a point in this sweep's {JOURNAL} was damaged, or is of another sweep; {_AGAIN}"
        raise CheckpointError(msg)
    return SweepPoint.model_validate(document["point"])


def _identity(plan: SweepPlan, dataset: str) -> str:
    stated = plan.model_dump(mode="json", exclude={"version"})
    return digest(canonical_json({"plan": stated, "dataset": dataset}))


def _completed_points(study: Any, plan: SweepPlan, dataset: str) -> list[SweepPoint]:
    """Return the points of complete trials; a trial that repeats a choice repeats its point."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [_unsealed(trial.user_attrs.get("point"), plan, dataset) for trial in trials]


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Return whether ``a`` is nowhere above ``b`` and somewhere below; lower is better."""
    pairs = list(zip(a, b, strict=True))
    return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)


def front(costs: Sequence[Sequence[float]]) -> list[bool]:
    """Return for every point whether none dominates it; equal points are treated alike."""
    return [not any(dominates(other, own) for other in costs) for own in costs]
