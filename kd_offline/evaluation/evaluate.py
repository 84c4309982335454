"""``evaluate``: play expert, students, random policy and ceiling, and write ``evaluation.json``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from kd_offline.commands import command_text
from kd_offline.environments.protocol import BatchedEnvironment
from kd_offline.errors import UsageError
from kd_offline.evaluation import scores
from kd_offline.evaluation.cost import compare, team_cost, with_critic
from kd_offline.evaluation.evaluation_setup import Contestants, EvaluationSetup
from kd_offline.evaluation.play import (
    Baselines,
    EvaluationRunner,
    PolicySet,
    SidePlay,
    SwapPlay,
    count_rollouts,
    play_sides,
    play_swaps,
    played_by_workers,
    workers_on,
)
from kd_offline.evaluation.rollout import DEFAULT_BATCH, Rollout
from kd_offline.execution.base import Executor
from kd_offline.execution.parts import parts_of
from kd_offline.hardware import profiles as hardware
from kd_offline.hardware.teams import predictions
from kd_offline.networks.accelerator import device_named
from kd_offline.networks.arithmetic import Shape
from kd_offline.networks.threads import computing_with
from kd_offline.runs.complete import complete_run
from kd_offline.runs.folder import RunFolder, digests
from kd_offline.schemas.evaluation import (
    Cost,
    CrossPlay,
    EvaluationReport,
    ModeScore,
    TeamCost,
)
from kd_offline.seeding import episode_seeds
from kd_offline.students.cost_bounds import require_predicted
from kd_offline.tracking.base import SILENT, Observer, Operation, counting, observed

MODES = ("greedy", "sampled")
INTERVALS = (
    "95 %, Student's t over distillation seeds crossed with evaluation episodes; quotients: "
    "Fieller, paired by episode; win rates: hull with Wilson"
)


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings of an evaluation: episodes, seed, modes and batch size."""

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

    @property
    def greedy(self) -> bool:
        """Whether the first mode is greedy play."""
        return self.modes[0] == MODES[0]


@dataclass(frozen=True, slots=True)
class Measurements:
    """Results of an evaluation."""

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
    expert: str | Path | Sequence[str | Path] | None = None,
    expert_recipe: str | Path | None = None,
    ceiling: str | Path | None = None,
    cross_play: bool = False,
    batch: int = DEFAULT_BATCH,
    profiles: Sequence[str | Path] = (),
    export: str | Path | None = None,
    engine: str | None = None,
    environment: str | None = None,
    opponents: Sequence[str] = (),
    accelerator: str = "cpu",
    on: str | None = None,
    baselines: Baselines | None = None,
    observers: Sequence[Observer] = (),
) -> EvaluationReport:
    """Measure retention and cost of the students of a run, and write ``evaluation.json`` there.

    Parameters
    ----------
    run : path
        A run folder made by ``kd-offline distill``.
    episodes : int
        Number of evaluation episodes, the same episodes for every policy.
    seed : int
        Seed of the episodes. Its random stream differs from that of recordings.
    modes : sequence of str
        ``greedy``, ``sampled`` or both.
    expert : path or reference, or several, optional
        Default: the recorded expert. Of several the one with the highest mean return in these
        episodes is the expert of the report, and the students are compared with each.
    expert_recipe : path, optional
        TOML file that describes the inputs of an expert of another library.
    ceiling : path or reference, optional
        The best known policy under the students' mask, trained directly.
    cross_play : bool
        Also play teams mixed from experts and students: two more rollouts for each agent and seed.
    batch : int
        Number of episodes played at once.
    profiles : sequence of str or path
        Hardware profiles for which latency and energy of a decision are predicted.
    export : path, optional
        An export of the run that plays instead of its students; ``evaluation.json`` is then written
        into that folder.
    engine : str, optional
        Engine of the export: ``numpy``, ``torch``, ``onnx`` or ``c``, see
        :func:`~kd_offline.exports.engines.load_export`.
    environment : str, optional
        Name of the run's environment, to allow one that a file may not start by itself, see
        :mod:`kd_offline.code_guard`.
    opponents : sequence of str
        Experts that the file of an expert may name as its opponents, beside bundled ones.
    accelerator : str
        What the students and experts of our networks are computed on: ``cpu``, ``cuda``, ``mps`` or
        ``auto``, which is a GPU where there is one. Exports, and experts of other libraries, are
        computed as always.
    on : str, optional
        Play parts of the episodes in parallel: ``processes:4``, ``ray`` or
        ``ray://HOST:PORT``, see :func:`kd_offline.execution.executor_on`. Parts are whole batches,
        so the results are those of one process, to the bit on the same kind of processor.
    baselines : dict, optional
        Empty for the first of several evaluations of runs in this process. It keeps rollouts of the
        expert and of random play, so that those that have the same ones do not play them again. It
        is not used with ``on``.
    observers : sequence of Observer
        They receive the number of finished rollouts, with ``on`` of episodes, and the results as
        metrics.

    Raises
    ------
    UsageError, CheckpointError, MismatchError
        The run, the expert, the ceiling or the accelerator cannot be used.
    """
    started = time.perf_counter()
    plan = Plan(episodes, seed, tuple(modes), cross_play, batch)
    if on is None:  # other machines may have other devices
        device_named(accelerator)
    devices = [hardware.load(profile) for profile in profiles]
    complete = complete_run(run)
    if devices:
        require_predicted(complete.students.card.architecture)
    contestants = Contestants(
        run=str(run),
        students=digests(complete.manifest),
        expert=expert if expert is None or isinstance(expert, str | Path) else tuple(expert),
        expert_recipe=expert_recipe,
        ceiling=ceiling,
        export=export,
        engine=engine,
        environment=environment,
        opponents=tuple(opponents),
        accelerator=accelerator,
    )
    operation = Operation("evaluate", _settings(contestants, plan), complete.path)
    with observed(operation, observers) as observer:
        with (
            workers_on(
                on, accelerator, contestants.files(), parts_of(Path(run), "evaluation")
            ) as executor,
            contestants.load(complete, playing=on is None) as setup,
        ):
            playing = _Playing(setup.environment, plan, contestants, executor, observer, baselines)
            if len(setup.experts) > 1:
                best = int(np.argmax(_returns(playing.of_experts(), setup, greedy=plan.greedy)))
                setup = setup.compared_with(setup.experts[best])
                playing = replace(playing, contestants=replace(contestants, best=best))
            measurements = _measured(playing.of_all(setup), setup.policies, setup.seeds, plan)
            cost = measure_cost(setup, measurements)
            here = executor is None or not executor.several_machines
        report = _report(complete.path, setup, plan, measurements, cost).model_copy(
            update={
                "command": _command(contestants, plan, profiles),
                "predictions": predictions(cost, devices),
                "accelerator": contestants.computed_on(here=here),
                "seconds": round(time.perf_counter() - started, 3),
            }
        )
        output_folder = (
            complete.folder if setup.exported is None else RunFolder(setup.exported.folder)
        )
        output_folder.write_evaluation(report)
        observer.metrics(0, metrics_of(report))
        observer.result = report
    return report


def _settings(contestants: Contestants, plan: Plan) -> dict[str, object]:
    """Return the settings of an evaluation, for its observers."""
    return {
        "run": contestants.run,
        "episodes": plan.episodes,
        "seed": plan.seed,
        "modes": list(plan.modes),
        "cross_play": plan.cross_play,
        "expert": _shown(contestants.expert),
        "ceiling": _shown(contestants.ceiling),
        "export": _shown(contestants.export),
    }


def _shown(given: str | Path | tuple[str | Path, ...] | None) -> str | list[str] | None:
    if isinstance(given, tuple):
        return [str(each) for each in given]
    return None if given is None else str(given)


def _report(
    path: Path, setup: EvaluationSetup, plan: Plan, measurements: Measurements, cost: Cost
) -> EvaluationReport:
    spec, manifest = setup.environment.spec, setup.manifest
    agreement = next(iter(measurements.modes.values())).agreement
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
        greedy=measurements.modes.get("greedy"),
        sampled=measurements.modes.get("sampled"),
        cost=cost,
        agreement=agreement and agreement.action,
        joint_agreement=agreement and agreement.joint,
        action_frequency=scores.action_heats(spec, list(measurements.sides.values())),
        cross_play=measurements.cross_play,
        intervals=INTERVALS,
        command="",
        seconds=0.0,
    )


def metrics_of(report: EvaluationReport) -> dict[str, float]:
    """Return the results of an evaluation as metrics, by the names in docs/guide/tracking.md."""
    named: dict[str, float | None] = {"evaluation/agreement": report.agreement}
    for mode, score in (("greedy", report.greedy), ("sampled", report.sampled)):
        if score is None:
            continue
        prefix = f"evaluation/{mode}"
        for policy in ("expert", "ceiling", "student", "random"):
            for quantity, source in (("return", score), ("won", score.win_rate)):
                estimate = getattr(source, policy, None)
                named[f"{prefix}/{quantity}/{policy}"] = None if estimate is None else estimate.mean
        retentions = score.retention.model_dump()
        named |= {f"{prefix}/retention/{name}": value for name, value in retentions.items()}
    for policy, cost in (("expert", report.cost.expert), ("student", report.cost.student)):
        named |= {f"evaluation/flops/{policy}": cost.flops}
        named |= {f"evaluation/parameters/{policy}": cost.parameters}
    return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True, slots=True)
class _Playing:
    """Where the rollouts of an evaluation are played: here, or by the workers of an executor."""

    environment: BatchedEnvironment
    plan: Plan
    contestants: Contestants
    executor: Executor | None
    observer: Observer
    baselines: Baselines | None = None

    def of_experts(self) -> EvaluationRunner:
        """Return what plays, or has played, each of several experts."""
        if self.executor is None:
            return _runner(self.environment, self.plan)
        return self._elsewhere(self.executor, partial(_returns, greedy=self.plan.greedy))

    def of_all(self, setup: EvaluationSetup) -> EvaluationRunner:
        """Return what plays, or has played, all rollouts of the plan."""
        if self.executor is None:
            runner = _runner(self.environment, self.plan, setup.policies, self.observer)
            setting = self._setting(setup)
            return replace(runner, baselines=self.baselines, setting=setting)
        return self._elsewhere(self.executor, partial(_play_all, plan=self.plan))

    def _setting(self, setup: EvaluationSetup) -> tuple[object, ...]:
        """Return what rollouts of expert and random play depend on, to the bit."""
        plan, own = self.plan, self.contestants
        return (
            *(setup.environment.spec.model_dump_json(), setup.manifest.expert, setup.expert_name),
            *(own.expert, own.expert_recipe, own.accelerator, own.best, torch.get_num_threads()),
            *(plan.seed, plan.episodes, plan.batch),
        )

    def _elsewhere(
        self, executor: Executor, plays: Callable[[EvaluationRunner, EvaluationSetup], object]
    ) -> EvaluationRunner:
        (runner,) = played_by_workers(
            executor,
            self.contestants.load,
            [plays],
            _runner(self.environment, self.plan),
            self.plan.seed,
            self.observer,
        )
        return runner


def _runner(
    environment: BatchedEnvironment,
    plan: Plan,
    policies: PolicySet | None = None,
    observer: Observer = SILENT,
) -> EvaluationRunner:
    """Return what plays the episodes of a plan.

    ``observer`` is told how many of the rollouts of ``policies`` are done.
    """
    seeds = episode_seeds(plan.seed, 0, plan.episodes, "evaluation")
    if policies is None:
        return EvaluationRunner(environment, seeds, plan.batch)
    spec = environment.spec
    swaps = spec.n_agents if plan.cross_play else 0
    total = count_rollouts(spec.sides, policies, len(plan.modes), swaps=swaps)
    return EvaluationRunner(environment, seeds, plan.batch, counting(observer, total, "rollouts"))


@dataclass(frozen=True, slots=True)
class _Rollouts:
    """What was played, by mode: sides, and experts beside the one that is compared with."""

    sides: dict[str, dict[str, SidePlay]]
    others: dict[str, dict[str, Rollout]]
    cross_play: tuple[dict[str, SidePlay], dict[str, SwapPlay]] | None


def _play_all(runner: EvaluationRunner, setup: EvaluationSetup, plan: Plan) -> None:
    """Play all rollouts of a plan, for a runner that keeps them."""
    _play(runner, setup.policies, plan)


def _returns(runner: EvaluationRunner, setup: EvaluationSetup, *, greedy: bool) -> list[float]:
    """Play each of several experts, and return the sums of their returns."""
    return [float(runner.play(e, greedy=greedy).returns.sum()) for e in setup.experts]


def _play(runner: EvaluationRunner, policies: PolicySet, plan: Plan) -> _Rollouts:
    """Play all rollouts of a plan."""
    played: dict[str, dict[str, SidePlay]] = {}
    others: dict[str, dict[str, Rollout]] = {}
    for mode in plan.modes:
        greedy = mode == "greedy"
        played[mode] = play_sides(runner, policies, greedy=greedy, compared=not played)
        each = policies.others.items()
        others[mode] = {name: runner.play(policy, greedy=greedy) for name, policy in each}
    swapped = None
    if plan.cross_play:
        base = played.get("greedy") or play_sides(runner, policies, greedy=True, compared=False)
        swapped = (
            base,
            {side: play_swaps(runner, policies, play.agents) for side, play in base.items()},
        )
    return _Rollouts(played, others, swapped)


def measure(
    environment: BatchedEnvironment,
    policies: PolicySet,
    distillation_seeds: Sequence[int],
    plan: Plan,
    observer: Observer = SILENT,
) -> Measurements:
    """Play all rollouts of ``plan`` and return the measurements.

    ``sides`` of the result is the play of the first mode, which gives agreement, action
    frequencies and episode costs.
    """
    runner = _runner(environment, plan, policies, observer)
    return _measured(runner, policies, distillation_seeds, plan)


def _measured(
    runner: EvaluationRunner, policies: PolicySet, distillation_seeds: Sequence[int], plan: Plan
) -> Measurements:
    """Return the measurements of what a runner plays, or has played."""
    spec = runner.environment.spec
    played = _play(runner, policies, plan)
    return Measurements(
        modes={
            mode: scores.mode_score(spec, sides, distillation_seeds, played.others[mode])
            for mode, sides in played.sides.items()
        },
        sides=played.sides[plan.modes[0]],
        cross_play=played.cross_play and scores.cross_play(spec, *played.cross_play),
    )


def measure_cost(setup: EvaluationSetup, measurements: Measurements) -> Cost:
    """Return the closed-form costs; costs of an episode are at the measured mean lengths."""
    spec = setup.environment.spec
    mean_steps = {"expert": np.zeros(spec.n_agents), "student": np.zeros(spec.n_agents)}
    for play in measurements.sides.values():
        agent_indices = list(play.agents)
        mean_steps["expert"][agent_indices] = play.expert.alive_steps.mean(axis=0)[agent_indices]
        students = np.mean(
            [student_rollout.alive_steps.mean(axis=0) for student_rollout in play.students], axis=0
        )
        mean_steps["student"][agent_indices] = students[agent_indices]
    length = next(iter(measurements.modes.values())).length

    def team(name: str, shapes: Sequence[Shape]) -> TeamCost:
        return team_cost(
            spec.agents, shapes, mean_steps[name].tolist(), length[name], spec.episode_limit
        )

    expert = team("expert", setup.expert_shapes)
    if 0 < setup.expert_parameters < expert.parameters:
        expert = expert.model_copy(update={"parameters_once": setup.expert_parameters})
    expert_with_critic = with_critic(expert, setup.critics, limit=spec.episode_limit)
    return compare(expert, team("student", setup.student_shapes), expert_with_critic)


def _opponents(setup: EvaluationSetup) -> dict[str, str]:
    sides = setup.environment.spec.sides
    return dict.fromkeys(sides, setup.expert_name) if len(sides) > 1 else {}


def _command(contestants: Contestants, plan: Plan, profiles: Sequence[str | Path]) -> str:
    """Return the command that repeats an evaluation."""
    return command_text(
        *("evaluate", contestants.run),
        episodes=plan.episodes,
        seed=plan.seed,
        modes=None if plan.modes == MODES else ",".join(plan.modes),
        cross_play=plan.cross_play,
        device=list(profiles),
        **contestants.options(),
    )
