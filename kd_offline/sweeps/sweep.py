"""``sweep``: students of many sizes, and the ones among them that no other beats (Pareto, 1906)."""

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
from kd_offline.sweeps.trials import COSTS, Choice, architecture_of, carry_out, choose, objectives
from kd_offline.tracking.base import SILENT, Observer, Operation, counting, observed

PLAN, REPORT, JOURNAL, PAGE = "plan.json", "sweep.json", "trials.journal", "sweep.html"
ORIGIN = "dataset.txt"
FIRST_WIDTH = 32
# What a trial knows of itself: who carries it out, and the trial whose run folder it goes on with.
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
    """Search for students that keep much and cost little, and write ``sweep.json`` in a folder.

    Parameters
    ----------
    dataset : path
        An expert buffer.
    output : path
        Folder of the sweep. Where one was begun with the same plan it is continued, also by
        several processes at once, on one machine or over a shared file system.
    trials : int
        How many there are to be in the end, those of other processes included.
    workers : int
        Processes to start here.
    seed : int
        Of the sampler. One process that is not interrupted repeats its choices.
    recipe : DistillRecipe, optional
        Of every student, but for its architecture; only the first seed is used.
    architectures, widths, precisions : sequences
        What is chosen from, widths for each agent.
    profile : str
        Device that the time is predicted for.
    judge : str
        ``retention`` in the environment, ``agreement`` on held-out episodes (on training episodes,
        and said so, where nothing is held out), or ``auto``: retention where environment and
        expert are here.
    episodes : int
        To judge on.
    environment : str, optional
        Name of the recorded environment, to allow one that a dataset may not start by itself.
    expert, expert_recipe : path or reference, optional
        The recorded expert, where it is not bundled.
    executor : str
        Name of what the other workers run in, see :data:`kd_offline.execution.EXECUTORS`; not
        ``threads``, since whose turn it is rests on locks of processes.
    observers : sequence of Observer
        Told every point that this process made.

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
    asked_for = {
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
    plan = build(SweepPlan, [asked_for], "sweep")
    _check(plan, buffer)
    folder = _begin(Path(output), plan, buffer)
    asked = plan.model_dump(mode="json")
    with observed(Operation("sweep", asked, folder), observers) as observer:
        with EXECUTORS.load(executor)(max(workers - 1, 1)) as others:
            join = partial(_join, str(dataset), folder, trials, allowed)
            joined = others.map(join, range(1, workers))
            work(buffer, folder, trials, allowed=allowed, observer=observer)
            _await(joined, observer)
        observer.result = report = finish(folder, buffer, str(dataset), plan)
    return report


def _part(buffer: ExpertBuffer, recipe: DistillRecipe) -> str:
    """Return the part that agreement and KL are measured on."""
    unseen = held_out(buffer, recipe.judge_by)
    return "train" if unseen is None else unseen.part


def work(
    dataset: str | Path | ExpertBuffer,
    folder: Path,
    trials: int,
    worker: int = 0,
    allowed: Allowed = NOTHING,
    observer: Observer = SILENT,
) -> None:
    """Carry out trials of a sweep that was begun, until ``trials`` of them are complete.

    Trials of processes that died are taken over; where enough others run, they are waited for.
    """
    from kd_offline.sweeps.trials import at_work

    buffer = dataset if isinstance(dataset, ExpertBuffer) else ExpertBuffer.open(dataset)
    if read_file(folder / ORIGIN, MAX_DOCUMENT_BYTES).strip() != buffer.id.encode():
        msg = (
            f"the dataset at {buffer.where!r} is not the one that the sweep in {str(folder)!r} was "
            "begun with: it was replaced, so give that one"
        )
        raise MismatchError(msg)
    plan = read_document(SweepPlan, folder / PLAN, _AGAIN)
    study = _study(folder, plan, buffer.spec.agents, worker)
    tick = counting(observer, trials, "trials")

    def objective(trial: Any) -> tuple[float, ...]:
        choice = choose(trial, plan, buffer.spec.agents)
        known = [p for p in _done(study, plan, buffer.id) if choice == Choice.of(p)]
        number = _first_number(trial)
        point = known[0] if known else carry_out(choice, number, folder, buffer, plan, allowed)
        trial.set_user_attr("point", _sealed(point, plan, buffer.id))
        observer.metrics(trial.number, _metrics(point), series=point.architecture)
        tick()
        return objectives(point)

    with at_work(folder) as name:
        while (trial := _next(study, folder, trials, name)) is not None:
            _carry_out(study, trial, objective)


def _metrics(point: SweepPoint) -> dict[str, float]:
    """Return what a trial came to, by the names that observers know."""
    costs = {f"trial/{name}": figure.value for name, figure in point.figures.items()}
    return {"trial/quality": point.quality, **costs}


def _carry_out(study: Any, trial: Any, objective: Callable[[Any], tuple[float, ...]]) -> None:
    """Carry out a trial; one that is interrupted is left to whoever continues the sweep."""
    from optuna.trial import TrialState

    try:
        values = objective(trial)
    except Exception:
        study.tell(trial, state=TrialState.FAIL)
        raise
    study.tell(trial, values)


def _next(study: Any, folder: Path, trials: int, worker: str) -> Any:
    """Return a trial to carry out, None where ``trials`` are complete."""
    from optuna.trial import TrialState

    while True:
        with in_turn(folder):
            _take_over(study, folder)
            states = [trial.state for trial in study.get_trials(deepcopy=False)]
            left = trials - states.count(TrialState.COMPLETE)
            if left <= 0:
                return None
            if left > states.count(TrialState.RUNNING):
                trial = study.ask()
                trial.set_user_attr(_WORKER, worker)
                return trial
        time.sleep(_WAIT_S)


def _take_over(study: Any, folder: Path) -> None:
    """Give up the trials of processes that died, and put each in the queue again."""
    from optuna.trial import TrialState

    from kd_offline.sweeps.trials import died

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if died(folder, trial.user_attrs.get(_WORKER)):
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params, user_attrs={_CONTINUES: _first_number(trial)})


def _first_number(trial: Any) -> int:
    """Return the number of the trial that this one goes on with, or its own."""
    number = trial.user_attrs.get(_CONTINUES)
    return number if type(number) is int and number >= 0 else int(trial.number)


def finish(folder: Path, buffer: ExpertBuffer, path: str, plan: SweepPlan) -> SweepReport:
    """Mark the front, and write table and page."""
    from kd_offline.reports.sweep import sweep_html

    points, failed = _points(folder, plan, buffer.id)
    _require_all(folder, points)
    costs = [(-(q := objectives(p))[0], *q[1:]) for p in points]
    marked = [
        point.model_copy(update={"front": best})
        for point, best in zip(points, front(costs), strict=True)
    ]
    report = SweepReport(
        plan=plan,
        dataset=DatasetReference(id=buffer.id, name=buffer.manifest.name, path=path),
        environment=buffer.spec.id,
        objectives=(plan.judge, *COSTS),
        points=tuple(sorted(marked, key=lambda p: (-p.quality, p.figures["macs"].value))),
        failed=failed,
    )
    write_document(folder / REPORT, report, nulls=False)
    write_file(folder / PAGE, sweep_html(report))
    return report


def _require_all(folder: Path, points: Sequence[SweepPoint]) -> None:
    """Refuse a journal that has lost trials which an earlier report of the sweep has.

    Raises
    ------
    CheckpointError
        It was damaged, or the report was.
    """
    if not (folder / REPORT).is_file():
        return
    before = read_document(SweepReport, folder / REPORT, "remove it, and it is made again")
    if lost := sorted({point.run for point in before.points} - {point.run for point in points}):
        msg = (
            f"this sweep's {JOURNAL} has lost the trial of {lost[0]!r}, which its {REPORT} has: it "
            f"was damaged; {_AGAIN}"
        )
        raise CheckpointError(msg)


def _check(plan: SweepPlan, buffer: ExpertBuffer) -> None:
    """Refuse what every trial would refuse."""
    buffer.mask(plan.recipe.mask)
    check_arrays(plan.recipe, list(buffer.names))
    profiles.load(plan.profile)
    needed = ("c", "int8") if "int8" in plan.precisions else ("c",)  # what costs are predicted of
    for name in plan.architectures:
        require_offer(architecture_of(name, plan.recipe.student), *needed)


def _begin(folder: Path, plan: SweepPlan, buffer: ExpertBuffer) -> Path:
    """Make the folder, or check that it holds the same sweep."""
    place, origin = folder / PLAN, folder / ORIGIN
    if not folder.exists() or not any(folder.iterdir()):
        make_folder(folder)
        write_file(origin, buffer.id + "\n")
        write_document(place, plan)
        return folder
    if not place.is_file():
        msg = f"{folder} exists and is not a sweep: remove it yourself or give another path"
        raise StorageError(msg)
    begun = read_document(SweepPlan, place, _AGAIN)
    if begun.version < SWEEP_FORMAT:
        msg = (
            f"the sweep in {str(folder)!r} was begun by an older version of kd-offline, whose "
            "trials this one does not continue: choose another folder"
        )
        raise StorageError(msg)
    if begun != plan or read_file(origin, MAX_DOCUMENT_BYTES).strip() != buffer.id.encode():
        msg = (
            f"the sweep in {str(folder)!r} was begun with another plan or dataset: repeat its "
            f"options, as its {PLAN} states them, or choose another folder"
        )
        raise StorageError(msg)
    return folder


def _join(dataset: str, folder: Path, trials: int, allowed: Allowed, worker: int) -> None:
    """Work in another process."""
    work(dataset, folder, trials, worker, allowed)


def _await(joined: Iterator[None], observer: Observer) -> None:
    """Wait for the other workers; of one that died or failed, others took over the trial."""
    try:
        for _ in joined:
            pass
    except KdOfflineError as error:
        observer.message(f"one of the other workers of this sweep is gone: {error}")


def _study(folder: Path, plan: SweepPlan, agents: Sequence[str], worker: int) -> Any:
    """Open the study; the first process that comes also says what is tried first."""
    import optuna

    from kd_offline.sweeps.trials import damaged

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # errors are told by us
    with in_turn(folder):
        try:
            study = _open_study(folder / JOURNAL)
            known = len(study.get_trials(deepcopy=False))
        except (LookupError, ValueError, TypeError, AttributeError, AssertionError) as error:
            raise damaged(folder / JOURNAL, f"Optuna cannot follow it: {error!r}") from error
        state = derive(plan.seed, "sweep", worker, known) % 2**32
        study.sampler = optuna.samplers.TPESampler(seed=state, n_startup_trials=8)
        if not known and agents:
            for first in _first(plan, agents):
                study.enqueue_trial(first, skip_if_exists=True)
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


def _first(plan: SweepPlan, agents: Sequence[str]) -> list[dict[str, Any]]:
    """Return one student of each architecture and precision, of a width in the middle."""
    near = min(plan.widths, key=lambda width: abs(width - FIRST_WIDTH))
    every = {f"width.{agent}": near for agent in agents}
    return [
        {"architecture": kind, "precision": precision, **every}
        for kind in plan.architectures
        for precision in plan.precisions
    ]


def _points(folder: Path, plan: SweepPlan, dataset: str) -> tuple[list[SweepPoint], int]:
    """Return the points of all finished trials, and how many trials did not finish."""
    from optuna.trial import TrialState

    study = _study(folder, plan, (), 0)
    failed = len(study.get_trials(deepcopy=False, states=(TrialState.FAIL,)))
    done = _done(study, plan, dataset)
    return list({point.run: point for point in done}.values()), failed


def _sealed(point: SweepPoint, plan: SweepPlan, dataset: str) -> str:
    """Return a point as the sweep's journal keeps it: sealed, and tied to this sweep."""
    document = {"sweep": _identity(plan, dataset), "point": point.model_dump(mode="json")}
    return seal(document, DIGEST).decode()


def _unsealed(kept: Any, plan: SweepPlan, dataset: str) -> SweepPoint:
    """Return the point that :func:`_sealed` kept.

    Raises
    ------
    CheckpointError
        It was altered, or is of another sweep.
    """
    if isinstance(kept, dict):  # of sweeps of before
        msg = f"this sweep's {JOURNAL} was begun before points had digests: begin another sweep"
        warnings.warn(msg, UnsealedWarning, stacklevel=2)
        return SweepPoint.model_validate(kept)
    document = unseal(str(kept).encode("utf-8", "replace"), DIGEST)
    if document is None or document.get("sweep") != _identity(plan, dataset):
        msg = f"a point in this sweep's {JOURNAL} was damaged, or is of another sweep; {_AGAIN}"
        raise CheckpointError(msg)
    return SweepPoint.model_validate(document["point"])


def _identity(plan: SweepPlan, dataset: str) -> str:
    stated = plan.model_dump(mode="json", exclude={"version"})
    return digest(canonical_json({"plan": stated, "dataset": dataset}))


def _done(study: Any, plan: SweepPlan, dataset: str) -> list[SweepPoint]:
    """Return the points of finished trials; one that chose a known student repeats its point."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [_unsealed(trial.user_attrs.get("point"), plan, dataset) for trial in trials]


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Tell whether ``a`` is nowhere worse than ``b`` and somewhere better; less is better."""
    pairs = list(zip(a, b, strict=True))
    return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)


def front(costs: Sequence[Sequence[float]]) -> list[bool]:
    """Return for every point whether none dominates it; equal points stay together."""
    return [not any(dominates(other, mine) for other in costs) for mine in costs]
