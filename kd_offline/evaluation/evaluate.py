"""``evaluate``: play the expert, the students, random play and the ceiling, and write it down."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kd_offline.commands import command_text
from kd_offline.environments.protocol import BatchedEnvironment
from kd_offline.errors import Remedy, UsageError
from kd_offline.evaluation import scores
from kd_offline.evaluation.cost import compare, team_cost, with_critic
from kd_offline.evaluation.evaluation_setup import EvaluationSetup, load_evaluation_setup
from kd_offline.evaluation.play import (
    EvaluationRunner,
    PolicySet,
    SidePlay,
    count_rollouts,
    play_sides,
)
from kd_offline.evaluation.rollout import DEFAULT_BATCH
from kd_offline.hardware import profiles as hardware
from kd_offline.hardware.teams import predictions
from kd_offline.networks.arithmetic import Shape
from kd_offline.networks.threads import computing_with
from kd_offline.runs.folder import RunFolder, open_run
from kd_offline.schemas.evaluation import (
    Cost,
    CrossPlay,
    EvaluationReport,
    ModeScore,
    TeamCost,
)
from kd_offline.seeding import episode_seeds
from kd_offline.tracking.base import SILENT, Observer, Operation, counting, observed
from kd_offline.user_code import close_all

MODES = ("greedy", "sampled")
INTERVALS = (
    "95 %, Student's t over distillation seeds crossed with evaluation episodes; quotients: "
    "Fieller, paired by episode; win rates: hull with Wilson"
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How an evaluation is played."""

    episodes: int = 4000
    seed: int = 0
    modes: tuple[str, ...] = MODES
    cross_play: bool = False
    batch: int = DEFAULT_BATCH

    def __post_init__(self) -> None:
        if self.episodes < 2 or self.seed < 0:
            msg = (
                f"cannot evaluate {self.episodes} episodes with seed {self.seed}: "
                "give 2 episodes or more, since one has no spread, and a seed of 0 or more"
            )
            raise UsageError(msg)
        if not self.modes or any(mode not in MODES for mode in self.modes):
            msg = f"cannot evaluate the modes {self.modes}: give one or both of {', '.join(MODES)}"
            raise UsageError(msg)


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything that an evaluation measured."""

    modes: dict[str, ModeScore]
    sides: dict[str, SidePlay]
    cross_play: CrossPlay | None


@computing_with(None)
def evaluate(
    run: str | Path,
    *,
    episodes: int = 4000,
    seed: int = 0,
    modes: Sequence[str] = MODES,
    expert: str | Path | None = None,
    expert_recipe: str | Path | None = None,
    ceiling: str | Path | None = None,
    cross_play: bool = False,
    batch: int = DEFAULT_BATCH,
    profiles: Sequence[str | Path] = (),
    export: str | Path | None = None,
    engine: str | None = None,
    environment: str | None = None,
    opponents: Sequence[str] = (),
    observers: Sequence[Observer] = (),
) -> EvaluationReport:
    """Measure what the students of a run keep and cost, and write ``evaluation.json`` there.

    Parameters
    ----------
    run : path
        A run folder made by ``kd-offline distill``.
    episodes : int
        Evaluation episodes, the same for every policy.
    seed : int
        They follow from it alone, in a stream apart from recording's.
    modes : sequence of str
        ``greedy``, ``sampled`` or both.
    expert : path or reference, optional
        Default: the one that was recorded.
    expert_recipe : path, optional
        TOML file that says how an expert of another library is asked.
    ceiling : path or reference, optional
        The best policy known under the students' mask, trained directly.
    cross_play : bool
        Also play teams mixed from experts and students; two rollouts more per agent and seed.
    batch : int
        Episodes played at once.
    profiles : sequence of str or path
        Hardware profiles to predict latency and energy of a decision for.
    export : path, optional
        An export of the run that plays instead of its students; ``evaluation.json`` is then written
        into that folder.
    engine : str, optional
        What runs the export: ``numpy``, ``torch``, ``onnx`` or ``c``, see
        :func:`~kd_offline.exports.engines.load_export`.
    environment : str, optional
        Name of the run's environment, to allow one that a file may not start by itself, see
        :mod:`kd_offline.code_guard`.
    opponents : sequence of str
        Experts that the file of an expert may name as its opponents, beside bundled ones.
    observers : sequence of Observer
        Told how many rollouts are done, and the figures.

    Raises
    ------
    UsageError, CheckpointError, MismatchError
        The run, the expert or the ceiling cannot be used.
    """
    started = time.perf_counter()
    plan = Plan(episodes, seed, tuple(modes), cross_play, batch)
    devices = [hardware.load(profile) for profile in profiles]
    folder = open_run(run)
    _check_engine(export, engine)
    asked = {
        "run": str(run),
        "episodes": episodes,
        "seed": seed,
        "modes": list(modes),
        "cross_play": cross_play,
        "expert": None if expert is None else str(expert),
        "ceiling": None if ceiling is None else str(ceiling),
        "export": None if export is None else str(export),
    }
    with observed(Operation("evaluate", asked, folder.path), observers) as observer:
        setup = load_evaluation_setup(
            folder,
            expert=expert,
            expert_recipe=expert_recipe,
            ceiling=ceiling,
            export=export,
            engine=engine,
            environment=environment,
            opponents=opponents,
        )
        try:
            figures = measure(setup.environment, setup.who, setup.seeds, plan, observer)
            cost = measure_cost(setup, figures)
        finally:
            close_all([setup.environment])
        report = _report(folder.path, setup, plan, figures, cost).model_copy(
            update={
                "predictions": predictions(cost, devices),
                "command": _command(
                    *(run, plan, expert, ceiling, expert_recipe, profiles, export, engine),
                    *(environment, opponents),
                ),
                "seconds": round(time.perf_counter() - started, 3),
            }
        )
        place = folder if setup.exported is None else RunFolder(setup.exported.folder)
        place.write_evaluation(report)
        observer.metrics(0, metrics_of(report))
        observer.result = report
    return report


def _check_engine(export: str | Path | None, engine: str | None) -> None:
    if engine is not None and export is None:
        msg = f"the engine {engine!r} runs an export, and none is given"
        raise UsageError(msg, Remedy("pass", "with one", export=...))


def _report(
    path: Path, setup: EvaluationSetup, plan: Plan, figures: Figures, cost: Cost
) -> EvaluationReport:
    spec, manifest = setup.environment.spec, setup.manifest
    agreement = next(iter(figures.modes.values())).agreement
    return EvaluationReport(
        run=path.resolve().name,
        environment=spec.id,
        method=manifest.method,
        mask=manifest.mask,
        dataset=manifest.dataset.id,
        expert=setup.expert_name,
        opponents=_opponents(setup),
        ceiling_policy=setup.ceiling_name,
        episodes=plan.episodes,
        evaluation_seed=plan.seed,
        distillation_seeds=setup.seeds,
        students={
            str(result.seed): result.digest
            for result in manifest.results
            if result.seed in setup.seeds
        },
        export=None if setup.exported is None else setup.exported.name,
        greedy=figures.modes.get("greedy"),
        sampled=figures.modes.get("sampled"),
        cost=cost,
        agreement=agreement and agreement.action,
        joint_agreement=agreement and agreement.joint,
        action_frequency=scores.action_heats(spec, list(figures.sides.values())),
        cross_play=figures.cross_play,
        intervals=INTERVALS,
        command="",
        seconds=0.0,
    )


def metrics_of(report: EvaluationReport) -> dict[str, float]:
    """Return the figures of an evaluation by the names that observers know."""
    named: dict[str, float | None] = {"evaluation/agreement": report.agreement}
    for mode, score in (("greedy", report.greedy), ("sampled", report.sampled)):
        if score is None:
            continue
        head = f"evaluation/{mode}"
        for who in ("expert", "ceiling", "student", "random"):
            for what, source in (("return", score), ("won", score.win_rate)):
                found = getattr(source, who, None)
                named[f"{head}/{what}/{who}"] = None if found is None else found.mean
        kept = score.retention.model_dump()
        named |= {f"{head}/retention/{name}": value for name, value in kept.items()}
    for who, cost in (("expert", report.cost.expert), ("student", report.cost.student)):
        named |= {f"evaluation/flops/{who}": cost.flops}
        named |= {f"evaluation/parameters/{who}": cost.parameters}
    return {name: value for name, value in named.items() if value is not None}


def measure(
    environment: BatchedEnvironment,
    who: PolicySet,
    distillation_seeds: Sequence[int],
    plan: Plan,
    observer: Observer = SILENT,
) -> Figures:
    """Play everything that ``plan`` asks for and return the figures.

    The sides of the first mode are returned whole: agreement, heat maps and episode costs are
    theirs.
    """
    seeds = episode_seeds(plan.seed, 0, plan.episodes, "evaluation")
    spec = environment.spec
    swaps = spec.n_agents if plan.cross_play else 0
    total = count_rollouts(spec.sides, who, len(plan.modes), swaps=swaps)
    played: dict[str, dict[str, SidePlay]] = {}
    runner = EvaluationRunner(environment, seeds, plan.batch, counting(observer, total, "rollouts"))
    for mode in plan.modes:
        played[mode] = play_sides(runner, who, greedy=mode == "greedy", compared=not played)
    swapped = None
    if plan.cross_play:
        base = played.get("greedy") or play_sides(runner, who, greedy=True, compared=False)
        swapped = scores.cross_play(runner, who, base)
    return Figures(
        modes={
            mode: scores.mode_score(spec, sides, distillation_seeds)
            for mode, sides in played.items()
        },
        sides=played[plan.modes[0]],
        cross_play=swapped,
    )


def measure_cost(setup: EvaluationSetup, figures: Figures) -> Cost:
    """Return the closed-form costs, per episode at the measured lengths."""
    spec = setup.environment.spec
    acted = {"expert": np.zeros(spec.n_agents), "student": np.zeros(spec.n_agents)}
    for play in figures.sides.values():
        mine = list(play.agents)
        acted["expert"][mine] = play.expert.alive_steps.mean(axis=0)[mine]
        students = np.mean([r.alive_steps.mean(axis=0) for r in play.students], axis=0)
        acted["student"][mine] = students[mine]
    length = next(iter(figures.modes.values())).length

    def team(name: str, shapes: Sequence[Shape]) -> TeamCost:
        return team_cost(
            spec.agents, shapes, acted[name].tolist(), length[name], spec.episode_limit
        )

    expert = team("expert", setup.expert_shapes)
    if 0 < setup.expert_parameters < expert.parameters:
        expert = expert.model_copy(update={"parameters_once": setup.expert_parameters})
    valued = with_critic(expert, setup.critics, limit=spec.episode_limit)
    return compare(expert, team("student", setup.student_shapes), valued)


def _opponents(setup: EvaluationSetup) -> dict[str, str]:
    sides = setup.environment.spec.sides
    return dict.fromkeys(sides, setup.expert_name) if len(sides) > 1 else {}


def _command(
    run: str | Path,
    plan: Plan,
    expert: str | Path | None,
    ceiling: str | Path | None,
    recipe: str | Path | None = None,
    profiles: Sequence[str | Path] = (),
    export: str | Path | None = None,
    engine: str | None = None,
    environment: str | None = None,
    opponents: Sequence[str] = (),
) -> str:
    return command_text(
        *("evaluate", run),
        episodes=plan.episodes,
        seed=plan.seed,
        modes=None if plan.modes == MODES else ",".join(plan.modes),
        expert=expert,
        expert_recipe=recipe,
        ceiling=ceiling,
        cross_play=plan.cross_play,
        device=list(profiles),
        export=export,
        engine=engine,
        environment=environment,
        opponents=list(opponents),
    )
