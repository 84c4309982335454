"""Collect the measurements of a team from its files, and play what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kd_offline.commands import command_text
from kd_offline.deployment.team import Team
from kd_offline.errors import Remedy, UsageError
from kd_offline.schemas.collaboration import (
    CrossPlayMatrix,
    Envelope,
    Latency,
    MixedTeam,
    Played,
    Robustness,
    SwappedAgent,
    TimedEngine,
)
from kd_offline.schemas.evaluation import CrossPlay, EvaluationReport, ModeScore
from kd_offline.schemas.latency import EngineLatency
from kd_offline.schemas.robustness import RobustnessReport
from kd_offline.tracking.base import Observer, Operation, observed

_TIMED = set(TimedEngine.model_fields) - {"kind"}


@dataclass(frozen=True, slots=True)
class PlaySettings:
    """How missing rollouts are played; ``episodes`` None: they are not."""

    episodes: int | None = None
    engine: str | None = None
    expert: str | Path | None = None
    expert_recipe: str | Path | None = None
    environment: str | None = None
    opponents: Sequence[str] = ()
    observers: Sequence[Observer] = ()


@dataclass(frozen=True, slots=True)
class Measurements:
    """Cost, returns, latency and mixed teams of a team; None where not measured."""

    envelope: Envelope
    cross_play: CrossPlayMatrix | None


def collect(team: Team, play: PlaySettings, earlier_matrix: CrossPlayMatrix | None) -> Measurements:
    """Return the measurements in the run's files, and play what they lack if episodes are given.

    ``earlier_matrix`` is that of a profile of the same team; it is used if the evaluation has none.
    """
    report = _evaluation(team, play)
    matrix = None
    if report is not None:
        matrix = _matrix(team, report.cross_play, report.greedy, report, report.episodes)
    matrix = matrix or _reusable_matrix(earlier_matrix, report)
    if matrix is None and report is not None and play.episodes is not None:
        matrix = _play_mixed_teams(team, play, report, play.episodes)
    return Measurements(_envelope(team, report), matrix)


def _evaluation(team: Team, play: PlaySettings) -> EvaluationReport | None:
    from kd_offline.evaluation.evaluate import evaluate

    report = team.evaluation()
    is_missing = report is None or (team.export is not None and report.export is None)
    if play.episodes is None or not is_missing:
        return report
    return evaluate(
        team.run.path,
        episodes=play.episodes,
        cross_play=True,
        expert=play.expert,
        expert_recipe=play.expert_recipe,
        export=team.folder,
        engine=play.engine,
        environment=play.environment,
        opponents=play.opponents,
        observers=play.observers,
    )


def _play_mixed_teams(
    team: Team, play: PlaySettings, report: EvaluationReport, episodes: int
) -> CrossPlayMatrix | None:
    """Play mixed teams for an evaluation without them, on the first of its episodes."""
    from kd_offline.evaluation.evaluate import Plan, measure
    from kd_offline.evaluation.evaluation_setup import load_evaluation_setup

    plan = Plan(episodes, report.evaluation_seed, ("greedy",), cross_play=True)
    setup = load_evaluation_setup(
        team.run,
        expert=play.expert,
        expert_recipe=play.expert_recipe,
        export=None if report.export is None else team.folder,
        engine=None if report.export is None else _engine(play, report.export),
        environment=play.environment,
        opponents=play.opponents,
    )
    operation = Operation("profile", {"episodes": episodes}, team.run.path)
    with setup, observed(operation, play.observers) as observer:
        measurements = measure(setup.environment, setup.policies, setup.seeds, plan, observer)
    return _matrix(
        team, measurements.cross_play, measurements.modes["greedy"], report, plan.episodes
    )


def _engine(play: PlaySettings, export: str) -> str:
    """Return the engine that played an export, as its evaluation states it.

    Raises
    ------
    UsageError
        The engine compiles code of the export, and the user did not name it.
    """
    from kd_offline.exports.engines import COMPILED

    stated_engine = export.rpartition(" ")[2]
    if stated_engine in COMPILED and play.engine != stated_engine:
        msg = f"the export was played in {stated_engine}, which compiles and runs the code in it"
        trust = Remedy("if you trust whoever made it, pass", engine=stated_engine)
        raise UsageError(msg, trust, Remedy("evaluate it in another engine first"))
    return stated_engine


def _reusable_matrix(
    matrix: CrossPlayMatrix | None, report: EvaluationReport | None
) -> CrossPlayMatrix | None:
    """Return an earlier matrix if the same policies played it from the same seed; else None."""
    if matrix is None or report is None:
        return None
    origin = (matrix.who, matrix.evaluation_seed)
    return matrix if origin == (_policy_name(report), report.evaluation_seed) else None


def _matrix(
    team: Team,
    cross_play: CrossPlay | None,
    score: ModeScore | None,
    report: EvaluationReport,
    episodes: int,
) -> CrossPlayMatrix | None:
    if cross_play is None or cross_play.returns is None:
        return None
    spec = team.student.card.environment
    side_of = {agent: side for side, members in spec.sides.items() for agent in members}
    return CrossPlayMatrix(
        who=_policy_name(report),
        episodes=episodes,
        evaluation_seed=report.evaluation_seed,
        agents=tuple(
            _row(cross_play, i, side_of[agent], score) for i, agent in enumerate(cross_play.agents)
        ),
    )


def _row(cross_play: CrossPlay, i: int, side: str, score: ModeScore | None) -> SwappedAgent:
    side_score = None if score is None else score.sides[side]
    return SwappedAgent(
        agent=cross_play.agents[i],
        side=side,
        experts=None if side_score is None else side_score.expert,
        students=None if side_score is None else side_score.student,
        student_among_experts=_mixed_team(cross_play, "student_among_experts", i),
        expert_among_students=_mixed_team(cross_play, "expert_among_students", i),
    )


def _mixed_team(cross_play: CrossPlay, kind: str, i: int) -> MixedTeam:
    return MixedTeam(
        returns=getattr(cross_play.returns, kind)[i],
        retention=getattr(cross_play, kind)[i],
        win_rate=None if cross_play.win_rates is None else getattr(cross_play.win_rates, kind)[i],
    )


def _envelope(team: Team, report: EvaluationReport | None) -> Envelope:
    return Envelope(
        played=None if report is None else _played(team, report),
        robustness=_robustness(team),
        cost=None if report is None else report.cost,
        latency=_latency(team),
        predictions=() if report is None else report.predictions,
    )


def _played(team: Team, report: EvaluationReport) -> Played:
    seeds = set(report.distillation_seeds)
    agreements = [r.held_out.get("agreement") for r in team.run.manifest.results if r.seed in seeds]
    measured_agreements = [share for share in agreements if share is not None]
    command = command_text(
        *("evaluate", "RUN"),
        episodes=report.episodes,
        seed=report.evaluation_seed,
        ceiling="CEILING" if report.ceiling_policy else None,
        cross_play=bool(report.cross_play),
        export="EXPORT" if report.export else None,
    )
    return Played(
        who=_policy_name(report),
        seeds=report.distillation_seeds,
        episodes=report.episodes,
        evaluation_seed=report.evaluation_seed,
        expert=report.expert,
        ceiling=report.ceiling_policy,
        greedy=report.greedy,
        sampled=report.sampled,
        agreement=report.agreement,
        joint_agreement=report.joint_agreement,
        held_out_agreement=sum(measured_agreements) / len(measured_agreements)
        if measured_agreements
        else None,
        intervals=report.intervals,
        command=command,
    )


def _robustness(team: Team) -> Robustness | None:
    """Return what a finished audit of the team found, greedy play first; None without one."""
    report = team.robustness()
    if report is None or report.status != "complete":
        return None
    mode, scores = next(iter(report.modes.items()))
    plays = ",".join(f"{play.perturbation}:{play.strength:g}" for play in scores.plays)
    seeds = ",".join(map(str, report.distillation_seeds))
    return Robustness(
        who=_policy_name(report),
        mode=mode,
        seeds=report.distillation_seeds,
        episodes=report.episodes,
        evaluation_seed=report.evaluation_seed,
        keep=report.keep,
        tolerances=scores.tolerances,
        failure=scores.failure,
        failures=scores.unperturbed.failures,
        command=command_text(
            *("audit", "RUN"),
            episodes=report.episodes,
            seed=report.evaluation_seed,
            modes=None if mode == "greedy" else mode,
            perturbations=plays,
            seeds=None if report.export else seeds,
            keep=report.keep,
            quantile=scores.failure.quantile,
            export="EXPORT" if report.export else None,
        ),
    )


def _policy_name(report: EvaluationReport | RobustnessReport) -> str:
    return report.export or "students"


def _latency(team: Team) -> Latency | None:
    report = team.latency()
    if report is None:
        return None
    rows = tuple(_timed(row) for row in report.rows)
    return Latency(machine=report.machine, compiler=report.compiler, engines=rows)


def _timed(row: EngineLatency) -> TimedEngine:
    return TimedEngine(**{name: getattr(row, name) for name in _TIMED})
