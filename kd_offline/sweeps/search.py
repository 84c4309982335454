"""The search of a sweep: Optuna chooses trials, an executor runs them, points are reported."""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from kd_offline.datasets import ExpertBuffer
from kd_offline.errors import CheckpointError, StorageError, UnsealedWarning, WorkerError
from kd_offline.execution.base import Executor
from kd_offline.file_locks import in_turn
from kd_offline.schemas.document import DIGEST
from kd_offline.schemas.sweep import SweepPlan, SweepPoint
from kd_offline.sealed_json import canonical_json, digest, seal, unseal
from kd_offline.seeding import derive
from kd_offline.sweeps.studies import TrialStore, ask, first_number, requeue
from kd_offline.sweeps.trials import COSTS, Choice, TrialTask, choose, objectives
from kd_offline.tracking.base import Observer

FIRST_WIDTH = 32
_WAIT_S = 0.5


@dataclass
class Search:
    """A running sweep: this process requests trials from Optuna and reports their results."""

    store: TrialStore
    study: Any
    folder: Path
    buffer: ExpertBuffer
    plan: SweepPlan
    trials: int
    observer: Observer
    asked: deque[Any] = field(default_factory=deque)  # trials that run now, in order

    def run(self, executor: Executor, task: Callable[[TrialTask], SweepPoint]) -> None:
        """Run trials until as many as wanted are complete, also those of processes that died.

        If enough run in other processes, this waits for them.
        """
        with self.store.working():
            self._report_progress()
            while self._missing() > 0:
                before = self._count(TrialState.COMPLETE)
                try:
                    for point in executor.map(task, self._tasks()):
                        self._tell(self.asked.popleft(), point)
                except BaseException as error:
                    self._give_up(error)
                    raise
                if self._count(TrialState.COMPLETE) == before:
                    time.sleep(_WAIT_S)

    def _tasks(self) -> Iterator[TrialTask]:
        """Yield trials to run, while there are too few; what is known already is told at once."""
        agents = self.buffer.spec.agents
        while (trial := self._next_trial()) is not None:
            choice = choose(trial, self.plan, agents)
            points = _completed_points(self.study, self.plan, self.buffer.id)
            known = next((point for point in points if choice == Choice.of(point)), None)
            if known is not None:
                self._tell(trial, known)
                continue
            self.asked.append(trial)
            yield TrialTask(choice, first_number(self.study, trial.number))

    def _next_trial(self) -> Any:
        """Return a trial to run; None when enough are complete or run already."""
        with in_turn(self.folder):
            self.store.requeue_abandoned(self.study)
            if self._missing() <= self._count(TrialState.RUNNING):
                return None
            self.study.sampler = self._sampler()
            trial = ask(self.study)
            self.store.claim(trial)
        return trial

    def _sampler(self) -> Any:
        """Return a sampler for the next trial; one that is run again counts once."""
        trials = self.study.get_trials(deepcopy=False)
        failed = self._count(TrialState.FAIL)
        seed = derive(self.plan.seed, "sweep", 0, len(trials) - failed) % 2**32
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=8)

    def _tell(self, trial: Any, point: SweepPoint) -> None:
        """Report the point of a trial to Optuna and to observers."""
        try:
            trial.set_user_attr("point", _sealed(point, self.plan, self.buffer.id))
            self.study.tell(trial, objectives(point))
        except optuna.exceptions.UpdateFinishedTrialError:
            self.observer.message(f"trial {trial.number} was taken over by another process")
        finally:
            self.store.release(trial.number)
        self.observer.metrics(trial.number, _metrics(point), series=point.architecture)
        self._report_progress()

    def _give_up(self, error: BaseException) -> None:
        """Mark the trial that failed, and queue those that were interrupted for a later process.

        One whose machine failed rather than the trial is found by that process.
        """
        if isinstance(error, StorageError | WorkerError) or (
            isinstance(error, Exception) and self.store.failure(error)
        ):
            return
        if isinstance(error, Exception) and self.asked:
            self.study.tell(self.asked.popleft(), state=TrialState.FAIL)
        with suppress(Exception):  # a database that is gone: its heartbeats end
            for trial in self.asked:
                requeue(self.study, trial.number, died=False)

    def _count(self, state: Any) -> int:
        return len(self.study.get_trials(deepcopy=False, states=(state,)))

    def _missing(self) -> int:
        return self.trials - self._count(TrialState.COMPLETE)

    def _report_progress(self) -> None:
        self.observer.progress(self.trials - max(0, self._missing()), self.trials, "trials")


def _metrics(point: SweepPoint) -> dict[str, float]:
    """Return quality and costs of a trial by the names of metrics."""
    costs = {f"trial/{name}": figure.value for name, figure in point.figures.items()}
    return {"trial/quality": point.quality, **costs}


def open_and_seed_study(
    store: TrialStore, folder: Path, plan: SweepPlan, agents: Sequence[str]
) -> Any:
    """Open the study; the first process also enqueues the first trials."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # errors are told by us
    with in_turn(folder):
        study = store.open(["maximize", *["minimize"] * len(COSTS)])
        if agents and not study.get_trials(deepcopy=False):
            for choice in _first_choices(plan, agents):
                study.enqueue_trial(choice, skip_if_exists=True)
    return study


def _first_choices(plan: SweepPlan, agents: Sequence[str]) -> list[dict[str, Any]]:
    """Return one student of each architecture and precision, with a width close to 32."""
    near = min(plan.widths, key=lambda width: abs(width - FIRST_WIDTH))
    widths = {f"width.{agent}": near for agent in agents}
    return [
        {"architecture": architecture, "precision": precision, **widths}
        for architecture in plan.architectures
        for precision in plan.precisions
    ]


def finished_points(
    store: TrialStore, folder: Path, plan: SweepPlan, dataset: str
) -> tuple[list[SweepPoint], int]:
    """Return the points of all finished trials, and the number of failed trials."""
    study = open_and_seed_study(store, folder, plan, ())
    failed = len(study.get_trials(deepcopy=False, states=(TrialState.FAIL,)))
    points = _completed_points(study, plan, dataset)
    return list({point.run: point for point in points}.values()), failed


def _sealed(point: SweepPoint, plan: SweepPlan, dataset: str) -> str:
    """Return a point as sealed text for the store, with the identity of its sweep."""
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
        msg = "this sweep's trials were begun before points had digests: begin another sweep"
        warnings.warn(msg, UnsealedWarning, stacklevel=2)
        return SweepPoint.model_validate(text)
    document = unseal(str(text).encode("utf-8", "replace"), DIGEST)
    if document is None or document.get("sweep") != _identity(plan, dataset):
        msg = (
            "a point among this sweep's trials was damaged, or is of another sweep; begin the "
            "sweep in another folder"
        )
        raise CheckpointError(msg)
    return SweepPoint.model_validate(document["point"])


def _identity(plan: SweepPlan, dataset: str) -> str:
    stated = plan.model_dump(mode="json", exclude={"version"})
    return digest(canonical_json({"plan": stated, "dataset": dataset}))


def _completed_points(study: Any, plan: SweepPlan, dataset: str) -> list[SweepPoint]:
    """Return the points of complete trials; a trial that repeats a choice repeats its point."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [_unsealed(trial.user_attrs.get("point"), plan, dataset) for trial in trials]
