"""What was measured, from the files that are there, or played now."""

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
    SwappedAgent,
    TimedEngine,
)
from kd_offline.schemas.evaluation import CrossPlay, EvaluationReport, ModeScore
from kd_offline.schemas.latency import EngineLatency
from kd_offline.tracking.base import Observer, Operation, observed

_TIMED = set(TimedEngine.model_fields) - {"kind"}


@dataclass(frozen=True, slots=True)
class Play:
    """How what is missing is played; None episodes: it is not."""

    episodes: int | None = None
    engine: str | None = None
    expert: str | Path | None = None
    expert_recipe: str | Path | None = None
    environment: str | None = None
    opponents: Sequence[str] = ()
    observers: Sequence[Observer] = ()


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything that is known of how a team does."""

    envelope: Envelope
    cross_play: CrossPlayMatrix | None


def measured(team: Team, play: Play, earlier: CrossPlayMatrix | None) -> Measured:
    """Return what the run's files say, and play what they lack where episodes are given.

    ``earlier`` is the matrix of a profile of the same team, used where the evaluation has none.
    """
    report = _evaluation(team, play)
    matrix = None
    if report is not None:
        matrix = _matrix(team, report.cross_play, report.greedy, report, report.episodes)
    matrix = matrix or _same_play(earlier, report)
    if matrix is None and report is not None and play.episodes is not None:
        matrix = _mixed_alone(team, play, report, play.episodes)
    return Measured(_envelope(team, report), matrix)


def _evaluation(team: Team, play: Play) -> EvaluationReport | None:
    from kd_offline.evaluation.evaluate import evaluate

    report = team.evaluation()
    unplayed = report is None or (team.export is not None and report.export is None)
    if play.episodes is None or not unplayed:
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


def _mixed_alone(
    team: Team, play: Play, report: EvaluationReport, episodes: int
) -> CrossPlayMatrix | None:
    """Play mixed teams beside an evaluation that has none, on the first of its episodes."""
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
    asked = Operation("profile", {"episodes": episodes}, team.run.path)
    try:
        with observed(asked, play.observers) as observer:
            figures = measure(setup.environment, setup.policies, setup.seeds, plan, observer)
    finally:
        setup.environment.close()
    return _matrix(team, figures.cross_play, figures.modes["greedy"], report, plan.episodes)


def _engine(play: Play, export: str) -> str:
    """Return what ran an export, as its evaluation states; what compiles is the user's to name."""
    from kd_offline.exports.engines import COMPILED

    before = export.rpartition(" ")[2]
    if before in COMPILED and play.engine != before:
        msg = f"the export was played in {before}, which compiles and runs the code in it"
        trust = Remedy("if you trust whoever made it, pass", engine=before)
        raise UsageError(msg, trust, Remedy("evaluate it in another engine first"))
    return before


def _same_play(
    matrix: CrossPlayMatrix | None, report: EvaluationReport | None
) -> CrossPlayMatrix | None:
    """Return an earlier matrix where the same teams played it from the same seed."""
    if matrix is None or report is None:
        return None
    found = (matrix.who, matrix.evaluation_seed)
    return matrix if found == (_who(report), report.evaluation_seed) else None


def _matrix(
    team: Team,
    mixed: CrossPlay | None,
    score: ModeScore | None,
    report: EvaluationReport,
    episodes: int,
) -> CrossPlayMatrix | None:
    if mixed is None or mixed.returns is None:
        return None
    spec = team.student.card.environment
    side_of = {agent: side for side, members in spec.sides.items() for agent in members}
    return CrossPlayMatrix(
        who=_who(report),
        episodes=episodes,
        evaluation_seed=report.evaluation_seed,
        agents=tuple(_row(mixed, i, side_of[agent], score) for i, agent in enumerate(mixed.agents)),
    )


def _row(mixed: CrossPlay, i: int, side: str, score: ModeScore | None) -> SwappedAgent:
    base = None if score is None else score.sides[side]
    return SwappedAgent(
        agent=mixed.agents[i],
        side=side,
        experts=None if base is None else base.expert,
        students=None if base is None else base.student,
        student_among_experts=_mixed_team(mixed, "student_among_experts", i),
        expert_among_students=_mixed_team(mixed, "expert_among_students", i),
    )


def _mixed_team(mixed: CrossPlay, which: str, i: int) -> MixedTeam:
    return MixedTeam(
        returns=getattr(mixed.returns, which)[i],
        retention=getattr(mixed, which)[i],
        win_rate=None if mixed.win_rates is None else getattr(mixed.win_rates, which)[i],
    )


def _envelope(team: Team, report: EvaluationReport | None) -> Envelope:
    return Envelope(
        played=None if report is None else _played(team, report),
        cost=None if report is None else report.cost,
        latency=_latency(team),
        predictions=() if report is None else report.predictions,
    )


def _played(team: Team, report: EvaluationReport) -> Played:
    seeds = set(report.distillation_seeds)
    held = [r.held_out.get("agreement") for r in team.manifest.results if r.seed in seeds]
    known = [share for share in held if share is not None]
    command = command_text(
        *("evaluate", "RUN"),
        episodes=report.episodes,
        seed=report.evaluation_seed,
        ceiling="CEILING" if report.ceiling_policy else None,
        cross_play=bool(report.cross_play),
        export="EXPORT" if report.export else None,
    )
    return Played(
        who=_who(report),
        seeds=report.distillation_seeds,
        episodes=report.episodes,
        evaluation_seed=report.evaluation_seed,
        expert=report.expert,
        ceiling=report.ceiling_policy,
        greedy=report.greedy,
        sampled=report.sampled,
        agreement=report.agreement,
        joint_agreement=report.joint_agreement,
        held_out_agreement=sum(known) / len(known) if known else None,
        intervals=report.intervals,
        command=command,
    )


def _who(report: EvaluationReport) -> str:
    return report.export or "students"


def _latency(team: Team) -> Latency | None:
    report = team.latency()
    if report is None:
        return None
    rows = tuple(_timed(row) for row in report.rows)
    return Latency(machine=report.machine, compiler=report.compiler, engines=rows)


def _timed(row: EngineLatency) -> TimedEngine:
    return TimedEngine(**{name: getattr(row, name) for name in _TIMED})
