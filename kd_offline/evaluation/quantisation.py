"""``bench quantisation``: compare float, int8 after training and int8 in training.

All teams play the same evaluation seeds, so that quantisation is judged by returns and actions,
and not only by its error in logits.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kd_offline.commands import command_text
from kd_offline.errors import MismatchError
from kd_offline.evaluation import scores
from kd_offline.evaluation.evaluate import INTERVALS, Plan
from kd_offline.evaluation.evaluation_setup import load_evaluation_setup
from kd_offline.evaluation.play import (
    EvaluationRunner,
    PolicySet,
    SidePlay,
    count_rollouts,
    play_sides,
)
from kd_offline.runs.complete import CompleteRun, complete_run
from kd_offline.runs.folder import digests, recipe_of
from kd_offline.schemas.evaluation import ModeScore
from kd_offline.schemas.export import Precision
from kd_offline.schemas.quantisation import QuantisationReport, QuantisedTeams, Rounding
from kd_offline.schemas.recipes import DistillRecipe
from kd_offline.schemas.run import RunManifest
from kd_offline.seeding import episode_seeds
from kd_offline.tracking.base import Observer, Operation, counting, observed

if TYPE_CHECKING:
    from kd_offline.exports.prepared_export import PreparedExport


def bench_quantisation(
    run: str | Path,
    *,
    qat: str | Path | None = None,
    episodes: int = 4000,
    seed: int = 0,
    expert: str | Path | None = None,
    expert_recipe: str | Path | None = None,
    dataset: str | Path | None = None,
    environment: str | None = None,
    opponents: Sequence[str] = (),
    observers: Sequence[Observer] = (),
) -> QuantisationReport:
    """Play a run's students as floats and as int8, and write ``quantisation.json`` there.

    Parameters
    ----------
    run : path
        A complete run folder.
    qat : path, optional
        The same run, distilled with int8 weights at the end: its students are played as int8
        beside them.
    episodes, seed : int
        Evaluation episodes, those of ``evaluate``.
    expert, expert_recipe, environment, opponents : optional
        As :func:`~kd_offline.evaluation.evaluate.evaluate` takes them.
    dataset : path, optional
        Where the run's dataset is, if not where the run says.
    observers : sequence of Observer
        They receive the number of finished rollouts.

    Raises
    ------
    MismatchError
        The two runs differ in more than the rounding.
    UsageError, CheckpointError
        A run, its dataset or its expert cannot be used.
    """
    started, plan = time.perf_counter(), Plan(episodes, seed, ("greedy",))
    complete = complete_run(run)
    with load_evaluation_setup(
        complete,
        expert=expert,
        expert_recipe=expert_recipe,
        environment=environment,
        opponents=opponents,
    ) as setup:
        prepared = _prepared_teams(complete, None if qat is None else complete_run(qat), dataset)
        all_students = tuple(team.reference for teams in prepared.values() for team in teams)
        runner = EvaluationRunner(
            setup.environment, episode_seeds(seed, 0, episodes, "evaluation"), plan.batch
        )
        policies = PolicySet(setup.policies.expert, all_students)
        total = count_rollouts(runner.environment.spec.sides, policies, 1)
        operation = Operation(
            "bench quantisation", {"episodes": episodes, "seed": seed}, complete.path
        )
        with observed(operation, observers) as observer:
            tick = counting(observer, total, "rollouts")
            sides = play_sides(replace(runner, tick=tick), policies, greedy=True, compared=True)
        scores_by_rounding = _scores(runner, plan, sides, setup.manifest.seeds, list(prepared))
    names = {"int8 in training": Path(qat or run).resolve().name}
    rows = tuple(
        _row(
            name,
            names.get(name, complete.path.resolve().name),
            scores_by_rounding[name],
            prepared[name],
        )
        for name in prepared
    )
    command = command_text(
        *("bench", "quantisation", run),
        qat=qat,
        expert=expert,
        expert_recipe=expert_recipe,
        dataset=dataset,
        environment=environment,
        opponents=list(opponents),
        episodes=plan.episodes,
        seed=plan.seed,
    )
    elapsed = round(time.perf_counter() - started, 3)
    report = _report(complete, plan, scores_by_rounding["fp32"], rows, command, elapsed)
    complete.folder.write_quantisation(report)
    return report


def _prepared_teams(
    plain: CompleteRun, aware: CompleteRun | None, dataset: str | Path | None
) -> dict[Rounding, list[PreparedExport]]:
    """Return the prepared exports of every seed, by kind of rounding."""
    from kd_offline.exports.prepared_export import prepare_export

    if aware is not None:
        _check_pair(plain.manifest, aware.manifest)

    def prepare(run: CompleteRun, precision: Precision) -> list[PreparedExport]:
        return [
            prepare_export(run, precision, seed=seed, dataset=dataset, least_agreement=0.0)
            for seed in plain.manifest.seeds
        ]

    prepared: dict[Rounding, list[PreparedExport]] = {
        "fp32": prepare(plain, "fp32"),
        "int8 after training": prepare(plain, "int8"),
    }
    if aware is not None:
        prepared["int8 in training"] = prepare(aware, "int8")
    return prepared


def _check_pair(plain: RunManifest, aware: RunManifest) -> None:
    """Raise a ``MismatchError`` if two runs differ in more than the rounding."""
    recipes = [_without_rounding(recipe_of(m)) for m in (plain, aware)]
    rounds = recipe_of(aware).optimisation.quantise_from is not None
    if recipes[0] != recipes[1] or plain.dataset.id != aware.dataset.id or not rounds:
        msg = (
            "the two runs cannot be compared: the second one has to be made by the command of the "
            "first one with int8 weights at the end, from the same dataset, and it has another "
            "recipe or dataset"
        )
        raise MismatchError(msg)


def _without_rounding(recipe: DistillRecipe) -> DistillRecipe:
    schedule = recipe.optimisation.model_copy(update={"quantise_from": None})
    return recipe.model_copy(update={"optimisation": schedule, "threads": 1})


def _scores(
    runner: EvaluationRunner,
    plan: Plan,
    sides: dict[str, SidePlay],
    seeds: tuple[int, ...],
    names: Sequence[Rounding],
) -> dict[Rounding, ModeScore]:
    """Return the scores of each kind of rounding from the common play."""
    scores_by_rounding: dict[Rounding, ModeScore] = {}
    for k, name in enumerate(names):
        positions = slice(k * len(seeds), (k + 1) * len(seeds))
        sides_of_rounding = {
            side: replace(play, students=play.students[positions]) for side, play in sides.items()
        }
        scores_by_rounding[name] = scores.mode_score(
            runner.environment.spec, sides_of_rounding, seeds
        )
    return scores_by_rounding


def _row(
    name: Rounding, run: str, score: ModeScore, prepared: Sequence[PreparedExport]
) -> QuantisedTeams:
    agreement = score.agreement
    return QuantisedTeams(
        name=name,
        run=run,
        student=score.student,
        retention=score.retention_intervals.normalised,
        win_rate=None if score.win_rate is None else score.win_rate.student,
        agreement=agreement and agreement.action,
        joint_agreement=agreement and agreement.joint,
        rounding=tuple(team.cost for team in prepared),
        parameter_bytes=sum(agent.parameter_bytes for agent in prepared[0].agents),
    )


def _report(
    run: CompleteRun,
    plan: Plan,
    score: ModeScore,
    rows: tuple[QuantisedTeams, ...],
    command: str,
    seconds: float,
) -> QuantisationReport:
    manifest = run.manifest
    return QuantisationReport(
        run=run.path.resolve().name,
        environment=manifest.environment,
        method=manifest.method,
        mask=manifest.mask,
        dataset=manifest.dataset.id,
        distillation_seeds=manifest.seeds,
        students=digests(manifest),
        episodes=plan.episodes,
        evaluation_seed=plan.seed,
        expert=score.expert,
        random=score.random,
        rows=rows,
        intervals=INTERVALS,
        command=command,
        seconds=seconds,
    )
