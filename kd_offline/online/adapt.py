"""Continue students on another task, and measure what they forget of the former one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from kd_offline.datasets import ExpertBuffer
from kd_offline.distillation.distill import distill
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.evaluation.evaluate import Plan
from kd_offline.online.task import NOTHING, Allowed, Task
from kd_offline.runs.complete import CompleteRun, complete_run
from kd_offline.schemas.online import AdaptationReport, TaskScores
from kd_offline.sealed_json import write_document
from kd_offline.tracking.base import Observer, Operation, observed
from kd_offline.user_code import close_all

REPORT = "adaptation.json"


def adapt(
    run: str | Path,
    dataset: str | Path | ExpertBuffer,
    output: str | Path,
    *,
    mask: str | None = None,
    settings: Mapping[str, Any] | None = None,
    episodes: int = 1000,
    seed: int = 0,
    former: Allowed = NOTHING,
    new: Allowed = NOTHING,
    resume: bool = False,
    overwrite: bool = False,
    command: str = "",
    observers: Sequence[Observer] = (),
) -> AdaptationReport:
    """Continue the students of a run on the dataset of another task, and evaluate both on both.

    Parameters
    ----------
    run : path
        A complete run.
    dataset : path
        A recording of the new task: other settings of the environment, another environment with
        the same agents, observation widths and actions, or the same one under another mask.
    output : path
        Run folder of the adapted students; ``adaptation.json`` is written there.
    mask : str, optional
        What they see from now on; default: the run's mask.
    settings : mapping, optional
        Other settings of the distillation, by dotted path.
    episodes, seed : int
        Evaluation episodes of each task, the same before and after.
    former, new : Allowed
        What the user allows to run, and the experts, of both tasks.
    resume, overwrite, command, observers
        As for :func:`~kd_offline.distillation.distill.distill`.

    Returns
    -------
    AdaptationReport
        ``former.after.change`` is what was forgotten, ``new.after.change`` what was learned.

    Raises
    ------
    UsageError, MismatchError, CheckpointError, DatasetError, StorageError
        See the message. Finished seeds and epochs are kept for ``resume``.
    """
    began = complete_run(run)
    stated = dict(settings or {}) if mask is None else {"mask": mask, **dict(settings or {})}
    recipe = distill_recipe(start=run, settings=stated)
    asked = {"run": str(run), "recipe": recipe.model_dump(mode="json"), "episodes": episodes}
    plan = Plan(episodes, seed)
    with (
        observed(Operation("adapt", asked, Path(output)), observers) as observer,
        ExitStack() as tasks,
    ):
        # What cannot be used of the former task is refused before anything is learned.
        former_task = _task(began, former, plan, tasks)
        distill(
            *(dataset, output, recipe),
            resume=resume,
            overwrite=overwrite,
            command=command,
            observers=observers,
        )
        adapted = complete_run(output)
        new_task = _task(adapted, new, plan, tasks)
        report = AdaptationReport(
            former=_scores(former_task, began, adapted, observer),
            new=_scores(new_task, began, adapted, observer),
            episodes=episodes,
            evaluation_seed=seed,
            command=command,
        )
        write_document(adapted.path / REPORT, report)
        observer.result = report
    return report


def _task(run: CompleteRun, allowed: Allowed, plan: Plan, tasks: ExitStack) -> Task:
    """Return the task of a run; its environment is closed with ``tasks``."""
    task = Task.of(run.manifest, f"the run in {str(run.path)!r}", allowed, plan)
    tasks.callback(close_all, [task.environment])
    return task


def _scores(task: Task, began: CompleteRun, adapted: CompleteRun, observer: Observer) -> TaskScores:
    """Play the students of both runs on a task."""
    spec = task.environment.spec
    return TaskScores(
        environment=spec.id,
        environment_kwargs=dict(spec.kwargs),
        expert=task.expert.digest,
        before=task.students(began, str(began.path), observer),
        after=task.students(adapted, str(adapted.path), observer),
    )
