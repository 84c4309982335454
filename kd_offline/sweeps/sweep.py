"""``sweep``: distil students of many sizes and find the Pareto front (Pareto, 1906) among them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kd_offline.datasets import ExpertBuffer
from kd_offline.datasets.reading.held_out import held_out
from kd_offline.distillation.recipe import completed
from kd_offline.distillation.terms.active import check_arrays
from kd_offline.errors import (
    CheckpointError,
    MismatchError,
    MissingExtraError,
    Remedy,
    StorageError,
    UsageError,
)
from kd_offline.evaluation.play import Baselines
from kd_offline.execution import executor_on
from kd_offline.execution.base import Executor, Resources, Serial
from kd_offline.execution.lending import close_lent, lent
from kd_offline.execution.processes import OPTIMISING
from kd_offline.files import MAX_DOCUMENT_BYTES, make_folder, read_file, write_file
from kd_offline.hardware import profiles
from kd_offline.networks.accelerator import device_named
from kd_offline.recipes import build
from kd_offline.schemas.recipes import DistillRecipe
from kd_offline.schemas.run import DatasetReference
from kd_offline.schemas.sweep import SWEEP_FORMAT, SweepPlan, SweepPoint, SweepReport
from kd_offline.sealed_json import read_document, write_document
from kd_offline.students.families import require_offer
from kd_offline.sweeps.trial_objective import Allowed, has_optuna, judge_for
from kd_offline.sweeps.trials import COSTS, TrialTask, architecture_of, objectives, run_trial
from kd_offline.tracking.base import Observer, Operation, observed

if TYPE_CHECKING:
    from kd_offline.sweeps.studies import TrialStore

PLAN, REPORT, PAGE = "plan.json", "sweep.json", "sweep.html"
ORIGIN = "dataset.txt"
_AGAIN = "begin the sweep in another folder"


def sweep(
    dataset: str | Path,
    output: str | Path,
    *,
    trials: int = 24,
    on: str | None = None,
    storage: str | None = None,
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
    observers: Sequence[Observer] = (),
) -> SweepReport:
    """Search for students of high quality and low cost, and write ``sweep.json`` in a folder.

    Parameters
    ----------
    dataset : path
        An expert buffer.
    output : path
        Folder of the sweep. A sweep with the same plan is continued there, also by several
        processes at once, on one machine or, with ``storage``, on any that see the folder.
    trials : int
        Total number of trials at the end, including those of other processes.
    on : str, optional
        Run trials in parallel: ``processes:4``, ``ray`` or ``ray://HOST:PORT``, see
        :func:`kd_offline.execution.executor_on`. None: one after another in this process. Ray on
        several machines needs ``storage``.
    storage : str, optional
        Database of the trials, ``sqlite:///FILE`` or ``postgresql://USER@HOST/DATABASE``, by
        Optuna's tables. None: a journal in the folder.
    seed : int
        Of the sampler. A sweep one trial after another repeats its choices, also after
        interruptions.
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
    observers : sequence of Observer
        They receive every point that this process completes.

    Raises
    ------
    UsageError
        A setting is impossible, retention cannot be measured, or several machines would share a
        journal.
    StorageError
        The folder holds a sweep with another plan or dataset, or something else, or the database
        cannot be used.
    MissingExtraError
        Optuna is not installed.
    """
    if not has_optuna():
        raise MissingExtraError(library="optuna", extra="sweep", purpose="a sweep")
    if trials < 1:
        msg = f"cannot make {trials} trials: give 1 or more"
        raise UsageError(msg)
    recipe = completed(recipe or DistillRecipe())
    if recipe.sparsity is not None:
        msg = (
            "trials are compared by predicted times, and those of sparse matrices are not known: "
            "leave out sparsity"
        )
        raise UsageError(msg)
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
    if on is None:  # other machines may have other devices
        device_named(recipe.accelerator)
    from kd_offline.sweeps.search import Search, open_and_seed_study
    from kd_offline.sweeps.studies import DatabaseStore, JournalStore

    folder = Path(output)
    executor: Executor = Serial()
    store = JournalStore(folder) if storage is None else DatabaseStore(folder, storage)
    with ExitStack() as stack:
        stack.enter_context(_sentences_of(store))
        if on is not None:
            executor = stack.enter_context(_workers(on, folder, plan, str(dataset), allowed))
            _require_database(executor, storage, on)
        _open_folder(folder, plan, buffer)
        plan_values = plan.model_dump(mode="json")
        operation = Operation("sweep", plan_values, folder)
        observer = stack.enter_context(observed(operation, observers))
        study = open_and_seed_study(store, folder, plan, buffer.spec.agents)
        stack.callback(close_lent)  # of trials in this process
        opened = buffer if on is None else str(dataset)
        task = partial(_run_task, secrets.token_hex(8), opened, folder, plan, allowed)
        search = Search(store, study, folder, buffer, plan, trials, observer)
        search.run(executor, task)
        observer.result = report = finish(store, folder, buffer, str(dataset), plan)
    return report


def _workers(on: str, folder: Path, plan: SweepPlan, dataset: str, allowed: Allowed) -> Executor:
    """Return the executor of a place, whose machines see the folder and what is read."""
    make_folder(folder)
    start = None if plan.recipe.start is None else plan.recipe.start.run
    named = (dataset, allowed.expert, allowed.expert_recipe, start)
    files = [Path(name) for name in named if name is not None and Path(name).exists()]
    needs = Resources.of(plan.recipe.threads, plan.recipe.accelerator)
    return executor_on(
        on,
        needs=needs,
        folders=(folder,),
        files=files,
        logs=folder,
        modules=(OPTIMISING, __name__),
        check=partial(ExpertBuffer.open, dataset),
    )


def _require_database(executor: Executor, storage: str | None, on: str) -> None:
    """Raise a ``UsageError`` where several machines would share a journal."""
    if storage is None and executor.several_machines:
        msg = (
            f"the trials of a sweep on {on!r}, which several machines may run and continue, are "
            "not kept in a journal in its folder, which is for one machine"
        )
        raise UsageError(msg, Remedy("keep its trials in a database with", storage=...))


def _part(buffer: ExpertBuffer, recipe: DistillRecipe) -> str:
    """Return the part of the dataset on which agreement and KL are measured."""
    part = held_out(buffer, recipe.judge_by)
    return "train" if part is None else part.part


@contextmanager
def _sentences_of(store: TrialStore) -> Iterator[None]:
    """Raise errors of a store as ours; what they come from may name secrets, so it is dropped."""
    try:
        yield
    except Exception as error:
        if (failure := store.failure(error)) is None:
            raise
        raise failure from None


def _require_same_dataset(buffer: ExpertBuffer, folder: Path) -> None:
    """Raise a ``MismatchError`` if a dataset is not the one that a sweep was begun with."""
    if read_file(folder / ORIGIN, MAX_DOCUMENT_BYTES).strip() != buffer.id.encode():
        msg = (
            f"the dataset at {buffer.where!r} is not the one that the sweep in {str(folder)!r} was "
            "begun with: it was replaced, so give that one"
        )
        raise MismatchError(msg)


def _run_task(
    command: str,
    dataset: str | ExpertBuffer,
    folder: Path,
    plan: SweepPlan,
    allowed: Allowed,
    task: TrialTask,
) -> SweepPoint:
    """Run a trial, here or in a worker, which keeps what the trials of a command share."""
    with lent(command, partial(_shared, dataset)) as (buffer, baselines):
        _require_same_dataset(buffer, folder)
        return run_trial(task.choice, task.number, folder, buffer, plan, allowed, baselines)


def _shared(
    dataset: str | ExpertBuffer,
) -> AbstractContextManager[tuple[ExpertBuffer, Baselines]]:
    """Return the opened dataset, and room for rollouts of the expert."""
    buffer = dataset if isinstance(dataset, ExpertBuffer) else ExpertBuffer.open(dataset)
    return nullcontext((buffer, {}))


def finish(
    store: TrialStore, folder: Path, buffer: ExpertBuffer, path: str, plan: SweepPlan
) -> SweepReport:
    """Compute the Pareto front and write report and page."""
    from kd_offline.reports.sweep import sweep_html
    from kd_offline.sweeps.search import finished_points

    points, failed = finished_points(store, folder, plan, buffer.id)
    _require_no_loss(store, folder, points)
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


def _require_no_loss(store: TrialStore, folder: Path, points: Sequence[SweepPoint]) -> None:
    """Raise a ``CheckpointError`` if the store lacks trials that an earlier report has."""
    if not (folder / REPORT).is_file():
        return
    former_report = read_document(SweepReport, folder / REPORT, "remove it, and it is made again")
    if lost_runs := sorted(
        {point.run for point in former_report.points} - {point.run for point in points}
    ):
        msg = (
            f"{store.where!r} has lost the trial of {lost_runs[0]!r}, which the sweep's {REPORT} "
            f"has: it was damaged; {_AGAIN}"
        )
        raise CheckpointError(msg)


def _check(plan: SweepPlan, buffer: ExpertBuffer) -> None:
    """Raise the errors that every trial would raise."""
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


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Return whether ``a`` is nowhere above ``b`` and somewhere below; lower is better."""
    pairs = list(zip(a, b, strict=True))
    return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)


def front(costs: Sequence[Sequence[float]]) -> list[bool]:
    """Return for every point whether none dominates it; equal points are treated alike."""
    return [not any(dominates(other, own) for other in costs) for own in costs]
