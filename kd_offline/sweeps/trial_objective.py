"""The quality of a trial: retention in the environment, or agreement on recorded episodes."""

from __future__ import annotations

import importlib.util
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kd_offline.datasets import ExpertBuffer
from kd_offline.errors import KdOfflineError, Remedy, UsageError
from kd_offline.evaluation.play import Baselines
from kd_offline.exports import parity_check
from kd_offline.exports.prepared_export import prepare_export
from kd_offline.runs.complete import complete_run
from kd_offline.schemas.run import RunManifest
from kd_offline.schemas.sweep import Judge, SweepPlan
from kd_offline.types import IntArray


@dataclass(frozen=True, slots=True)
class Allowed:
    """Environment and expert that the user allowed; a dataset may not start them by itself."""

    environment: str | None = None
    expert: str | Path | None = None
    expert_recipe: str | Path | None = None


NOTHING = Allowed()


def judge_for(buffer: ExpertBuffer, judge: str, allowed: Allowed) -> Judge:
    """Return the quality measure: retention where environment and expert are installed.

    Raises
    ------
    UsageError
        ``retention`` was requested, and the environment or the expert cannot be loaded.
    """
    if judge == "agreement":
        return "agreement"
    if judge not in ("auto", "retention"):
        msg = f"unknown judge {judge!r}: allowed are auto, retention, agreement"
        raise UsageError(msg)
    try:
        _require_loadable(buffer, allowed)
    except (KdOfflineError, ImportError, LookupError) as error:
        if judge == "retention":
            instead = Remedy("judge by what the file holds with", judge="agreement")
            if not isinstance(error, KdOfflineError):
                msg = f"retention cannot be measured: {error}"
                raise UsageError(msg, instead) from error
            msg = f"retention cannot be measured: {error.args[0]}"
            raise UsageError(msg, *error.remedies, instead) from error
        return "agreement"
    return "retention"


def _require_loadable(buffer: ExpertBuffer, allowed: Allowed) -> None:
    """Load environment and expert of a dataset once, so that errors precede the first trial."""
    from kd_offline import environments
    from kd_offline.evaluation.evaluation_setup import check_reference
    from kd_offline.experts.load import load as load_expert

    spec, dataset_text = buffer.spec, f"the dataset {buffer.manifest.name!r}"
    environment = environments.load_recorded(
        *(spec.id, spec.kwargs),
        asked_by=dataset_text,
        allowed=allowed.environment,
        parts=buffer.manifest.environment_parts,
    )
    with closing(environment):
        record = buffer.manifest.sole_expert
        reference = "" if record is None else record.reference
        if allowed.expert is None:
            digest = "" if record is None else record.digest or ""
            check_reference(reference, digest, buffer.manifest.name)
        load_expert(allowed.expert or reference, environment.spec, allowed.expert_recipe)


def quality(
    run: Path,
    buffer: ExpertBuffer,
    plan: SweepPlan,
    precision: str,
    allowed: Allowed,
    baselines: Baselines,
) -> float:
    """Return the quality of the students of a run at a precision, by the plan's measure.

    ``baselines``: what trials of this process have in common, see
    :func:`~kd_offline.evaluation.evaluate.evaluate`.
    """
    if plan.judge == "retention":
        return _retention(run, buffer, plan, precision, allowed, baselines)
    return _agreement(run, buffer, plan, precision)


def _retention(
    run: Path,
    buffer: ExpertBuffer,
    plan: SweepPlan,
    precision: str,
    allowed: Allowed,
    baselines: Baselines,
) -> float:
    from kd_offline.evaluation.evaluate import evaluate
    from kd_offline.exports.export import export, place

    export_folder = None
    if precision != "fp32":
        export_folder = place(run, None, precision)
        export(
            *(run, export_folder),
            to="torch",
            precision=precision,
            dataset=buffer,
            least_agreement=0.0,
            overwrite=True,
        )
    report = evaluate(
        run,
        episodes=plan.episodes,
        seed=plan.seed,
        modes=("greedy",),
        export=export_folder,
        environment=allowed.environment,
        expert=allowed.expert,
        expert_recipe=allowed.expert_recipe,
        baselines=baselines,
    )
    retention = None if report.greedy is None else report.greedy.retention.normalised
    if retention is None:
        msg = (
            "retention is undefined, as the expert is no better than random play: judge by "
            "agreement instead"
        )
        raise UsageError(msg)
    return retention


def _agreement(run: Path, buffer: ExpertBuffer, plan: SweepPlan, precision: str) -> float:
    """Return how often greedy students choose the expert's action, over decisions with a choice."""
    if precision == "fp32":
        recorded = parity_check.recorded(buffer, plan.episodes, plan.recipe.judge_by)
        students_logits = parity_check.replay(complete_run(run).team(), recorded)
    else:
        prepared = prepare_export(
            complete_run(run),
            "int8",
            dataset=buffer,
            episodes=plan.episodes,
            least_agreement=0.0,
        )
        recorded, students_logits = prepared.episodes, prepared.expected
    deciding = recorded.deciding()
    if not deciding.any():
        msg = (
            f"agreement is undefined, as nobody has two or more legal actions in the part "
            f"{recorded.part!r} of {buffer.where!r}: judge by retention instead"
        )
        raise UsageError(msg)
    agrees = parity_check.greedy(students_logits, recorded) == _expert(buffer, recorded)
    return float(agrees[deciding].mean())


def _expert(buffer: ExpertBuffer, recorded: parity_check.Recorded) -> IntArray:
    """Return the expert's greedy actions; the recorded ones where logits are missing: [E, T, N]."""
    names = [name for name in ("steps/logits", "steps/q_values") if buffer.has(name)]
    if not names:
        return recorded.arrays["actions"].astype(np.int64)
    scores, _ = buffer.padded(names[:1], recorded.episodes)
    return parity_check.greedy(scores[names[0]], recorded)


def held_out_kl(manifest: RunManifest) -> float | None:
    """Return the held-out KL of the first seed; None if nothing was held out."""
    return manifest.results[0].held_out.get("kl")


def has_optuna() -> bool:
    """Return whether Optuna is installed."""
    return importlib.util.find_spec("optuna") is not None
