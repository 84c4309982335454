"""``audit``: play expert and students under perturbations, and write ``robustness.json``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kd_offline.commands import command_text
from kd_offline.datasets import ExpertBuffer
from kd_offline.environments.protocol import BatchedEnvironment
from kd_offline.errors import KdOfflineError, UsageError
from kd_offline.evaluation.evaluation_setup import EvaluationSetup, load_evaluation_setup
from kd_offline.evaluation.intervals import (
    difference_interval,
    mean_interval,
)
from kd_offline.evaluation.play import EvaluationRunner, on_side
from kd_offline.evaluation.rollout import DEFAULT_BATCH
from kd_offline.networks.accelerator import device_named, moved
from kd_offline.networks.threads import computing_with
from kd_offline.robustness.perturbations import PERTURBATIONS
from kd_offline.robustness.perturbations.base import (
    ColumnScale,
    Perturbation,
    PerturbedPolicy,
    Setting,
    strengths_of,
)
from kd_offline.robustness.perturbations.gradients import Differentiable
from kd_offline.robustness.scores import (
    NONE,
    Played,
    Scores,
    interval_estimate,
    metrics_of,
    tolerances,
)
from kd_offline.robustness.shared_failures import (
    RecordedErrors,
    mean_estimate,
    recorded_errors,
    shared_errors,
    shared_failures,
)
from kd_offline.rollout.policies import RandomPolicy
from kd_offline.runs.complete import CompleteRun, complete_run
from kd_offline.runs.folder import digests
from kd_offline.runs.source import open_dataset, why_unread
from kd_offline.schemas.robustness import (
    FailureRule,
    PerturbedPlay,
    RobustnessReport,
    RunComparison,
    Who,
)
from kd_offline.seeding import episode_seeds
from kd_offline.students.policy import StudentPolicy
from kd_offline.tracking.base import Observer, Operation, counting, observed
from kd_offline.types import SeedArray, TeamPolicy, needs_full
from kd_offline.user_code import calling

_F64 = npt.NDArray[np.float64]
KEEP, QUANTILE = 0.9, 0.1
"""What a tolerance has to keep, and the quantile below which a return is a failure, by default."""
RECORDED_EPISODES = 400
"""Recorded episodes in which errors are compared."""
_NO_ERRORS = "errors on recorded decisions were not compared"
INTERVALS = (
    "95 %, Student's t over distillation seeds crossed with evaluation episodes, changes paired by "
    "episode; shares kept: Fieller; win rates: hull with Wilson; failures together: Wilson; errors "
    "together: Student's t over recorded episodes"
)


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings of an audit."""

    episodes: int = 1000
    seed: int = 0
    plays: tuple[tuple[str, float], ...] = ()
    keep: float = KEEP
    quantile: float = QUANTILE
    batch: int = DEFAULT_BATCH

    def __post_init__(self) -> None:
        if self.episodes < 2 or self.seed < 0:
            msg = (
                f"cannot audit {self.episodes} episodes with seed {self.seed}: give 2 episodes or "
                "more, since one has no spread, and a seed of 0 or more"
            )
            raise UsageError(msg)
        for name, value in (("keep", self.keep), ("quantile", self.quantile)):
            if not 0 < value < 1:
                msg = f"{name} is {value:g}: give a share above 0 and below 1"
                raise UsageError(msg)


def plays_of(perturbations: Sequence[str] | None) -> tuple[tuple[str, float], ...]:
    """Return the perturbations and strengths that a list asks for, in its order, each once.

    An entry is ``NAME``, with the strengths that the perturbation has by default, or
    ``NAME:STRENGTH``. None: all that there are.

    Raises
    ------
    UnknownNameError, UsageError
        There is no such perturbation, or it cannot have that strength.
    """
    asked = PERTURBATIONS.names() if perturbations is None else perturbations
    plays = [
        (name, strength)
        for entry in asked
        for name, strength in strengths_of(entry, PERTURBATIONS.load(entry.partition(":")[0]))
    ]
    if not plays:
        msg = f"no perturbation is given: give one or more of {', '.join(PERTURBATIONS)}"
        raise UsageError(msg)
    return tuple(dict.fromkeys(plays))


@computing_with(None)
def audit(
    run: str | Path,
    *,
    episodes: int = 1000,
    seed: int = 0,
    perturbations: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    keep: float = KEEP,
    quantile: float = QUANTILE,
    expert: str | Path | None = None,
    expert_recipe: str | Path | None = None,
    dataset: str | Path | ExpertBuffer | None = None,
    against: str | Path | None = None,
    environment: str | None = None,
    opponents: Sequence[str] = (),
    batch: int = DEFAULT_BATCH,
    accelerator: str = "cpu",
    resume: bool = False,
    observers: Sequence[Observer] = (),
) -> RobustnessReport:
    """Measure how robust a run's students and its expert are; write ``robustness.json`` there.

    All policies act greedily, in the same episodes with and without perturbations. If there are
    several sides, the agents of one side at a time are perturbed, as in an evaluation, and the
    sides are added.

    Parameters
    ----------
    run : path
        A run folder made by ``kd-offline distill``.
    episodes, seed : int
        Evaluation episodes, the same as those of :func:`~kd_offline.evaluation.evaluate.evaluate`.
    perturbations : sequence of str, optional
        ``NAME`` or ``NAME:STRENGTH``, see :func:`plays_of`. Default: all.
    seeds : sequence of int, optional
        Distillation seeds whose students play. Default: all of the run.
    keep : float
        Share of the unperturbed gain over random play that counts as tolerated.
    quantile : float
        In tasks without wins, an episode is a failure if its return is below this quantile of the
        unperturbed expert's returns.
    expert, expert_recipe, environment, opponents, accelerator
        As for :func:`~kd_offline.evaluation.evaluate.evaluate`.
    dataset : path, optional
        The run's dataset, if it is not at the path that the run states. Without it, errors on
        recorded decisions are left out.
    against : path, optional
        Another run of the same task, whose students play the same episodes unperturbed. The report
        states the differences in common failures and errors, and in return.
    batch : int
        Number of episodes played at once; changes results in the last bits of networks only.
    resume : bool
        Keep what an interrupted audit of the same settings has finished.
    observers : sequence of Observer
        They receive the number of finished rollouts, and the results as metrics.

    Raises
    ------
    UsageError, UnknownNameError, CheckpointError, MismatchError
        The run, the expert, a perturbation or the accelerator cannot be used.
    """
    started = time.perf_counter()
    plan = Plan(episodes, seed, plays_of(perturbations), keep, quantile, batch)
    device = device_named(accelerator)
    complete = complete_run(run)
    other = None if against is None else _comparable(complete_run(against), complete)
    chosen = tuple(dict.fromkeys(map(complete.seed, seeds or complete.manifest.seeds)))
    if other is not None and len(chosen) < 2:
        msg = f"one seed, {chosen[0]}, is to be compared with another run: give seeds two or more"
        raise UsageError(msg)
    asked = {
        "run": str(run),
        "episodes": episodes,
        "seed": seed,
        "seeds": list(chosen),
        "perturbations": [f"{name}:{strength:g}" for name, strength in plan.plays],
    }
    with observed(Operation("audit", asked, complete.path), observers) as observer:
        setup = load_evaluation_setup(
            complete,
            expert=expert,
            expert_recipe=expert_recipe,
            environment=environment,
            opponents=opponents,
        )
        for policy in setup.policies.all:
            moved(policy, device)
        command = command_text(
            *("audit", run),
            episodes=episodes,
            seed=seed,
            perturbations=None if perturbations is None else ",".join(perturbations),
            seeds=None if seeds is None else "".join(f"{number}," for number in chosen),
            keep=None if keep == KEEP else keep,
            quantile=None if quantile == QUANTILE else quantile,
            against=against,
            dataset=str(dataset) if isinstance(dataset, str | Path) else None,
            expert=None if expert is None else str(expert),
            expert_recipe=expert_recipe,
            environment=environment,
            opponents=list(opponents),
            accelerator=None if accelerator == "cpu" else accelerator,
        )
        with setup:
            play = Audit(complete, setup, plan, chosen, device.type, command)
            buffer, note = _dataset(complete, dataset)
            report = play.report(observer, resume=resume)
            errors = play.errors(play.teams, buffer)
            if buffer is not None and errors is None and len(chosen) > 1:
                note = f"{_NO_ERRORS}: the dataset holds no outputs of the expert, or no decision"
            spec = setup.environment.spec
            shared = None if errors is None else shared_errors(errors, spec)
            report = report.model_copy(update={"errors": shared})
            if other is not None:
                for team in other.teams:
                    moved(team, device)
                compared = play.comparison(other, buffer, errors)
                report = report.model_copy(update={"comparison": compared})
        notes = (*report.notes, *([note] if note else []))
        seconds = round(time.perf_counter() - started, 3)
        update = {"status": "complete", "notes": notes, "seconds": seconds}
        report = report.model_copy(update=update)
        complete.folder.write_robustness(report)
        observer.metrics(0, metrics_of(report))
        observer.result = report
    return report


def _comparable(other: CompleteRun, run: CompleteRun) -> CompleteRun:
    """Return a run that another can be compared with.

    Raises
    ------
    UsageError
        It has a single seed, as the other may, or is of another task.
    """
    for each in (other, run):
        if len(each.manifest.seeds) < 2:
            msg = f"the run in {str(each.path)!r} has one seed: give runs of two seeds or more"
            raise UsageError(msg)
    specs = [each.students.card.environment for each in (other, run)]
    if specs[0] != specs[1]:
        msg = (
            f"the run in {str(other.path)!r} is of {specs[0].id}, with these settings another task "
            f"than {specs[1].id} of the run in {str(run.path)!r}: give a run of the same task"
        )
        raise UsageError(msg)
    return other


def _dataset(
    run: CompleteRun, given: str | Path | ExpertBuffer | None
) -> tuple[ExpertBuffer | None, str]:
    """Return the run's dataset, or why it is left out; one that was given has to be there."""
    try:
        return open_dataset(run.manifest, run.path, given), ""
    except KdOfflineError as error:
        if given is not None:
            raise
        return None, f"{_NO_ERRORS}: {why_unread(error)}"


@dataclass(frozen=True)
class Audit:
    """An audit under way; see :func:`audit`."""

    run: CompleteRun
    setup: EvaluationSetup
    plan: Plan
    chosen: tuple[int, ...]
    accelerator: str
    command: str

    @cached_property
    def teams(self) -> tuple[StudentPolicy, ...]:
        """The students of every seed that plays."""
        return tuple(self.run.team(seed) for seed in self.chosen)

    @cached_property
    def scale(self) -> ColumnScale:
        """The statistics of the dataset that students scale their inputs by."""
        team, spec = self.teams[0].team, self.environment.spec
        there = np.arange(spec.obs_width) < np.array(spec.obs_widths)[:, None]
        mean, std = team.mean.cpu().numpy(), team.std.cpu().numpy()
        # Features that did not vary have the scale 1 there.
        return ColumnScale(mean, np.where(there & (std != 1), std, 0).astype(np.float32))

    @property
    def environment(self) -> BatchedEnvironment:
        """The environment in which all policies play."""
        return self.setup.environment

    @cached_property
    def evaluation_seeds(self) -> SeedArray:
        """The seeds of the episodes: uint64 [E]."""
        return episode_seeds(self.plan.seed, 0, self.plan.episodes, "evaluation")

    def report(self, observer: Observer, *, resume: bool) -> RobustnessReport:
        """Play everything and return the report, which is written after every perturbation."""
        policies, plan = self.setup.policies, self.plan
        before = self._before() if resume else {}
        unplayed = [play for play in plan.plays if play not in before]
        kinds = {name: PERTURBATIONS.load(name) for name, _ in plan.plays}
        for name, strength in unplayed:  # what cannot be is refused before anything is played
            with _border(name):
                kinds[name](self._setting(self._sides[0], strength))
        sides, each = len(self._sides), 1 + len(self.teams)
        tick = counting(observer, sides * (each * (1 + len(unplayed)) + 1), "rollouts")
        played: dict[Who, Played] = {
            "expert": self._play([policies.expert], tick),
            "students": self._play(self.teams, tick),
        }
        random = self._play([RandomPolicy(drawn=True)], tick)
        rule = self._rule(played["expert"])
        scores = Scores(played, random, rule)
        report = self._report(scores)
        finished = dict(before)
        for name, strength in plan.plays:
            if (name, strength) in finished:
                continue
            perturbed: dict[Who, Played] = {}
            declined: dict[Who, str] = {}
            groups: tuple[tuple[Who, Sequence[TeamPolicy]], ...] = (
                ("expert", (policies.expert,)),
                ("students", self.teams),
            )
            for who, teams in groups:
                reason = next(filter(None, (_declines(t, name, kinds[name]) for t in teams)), None)
                if reason is None:
                    perturbed[who] = self._play(teams, tick, name, strength)
                else:
                    declined[who] = reason
            finished[name, strength] = scores.row(name, kinds[name], strength, perturbed, declined)
            ordered = tuple(finished[play] for play in plan.plays if play in finished)
            report = report.model_copy(update={"plays": ordered})
            self.run.folder.write_robustness(report)
        ordered = tuple(finished[play] for play in plan.plays)
        return report.model_copy(
            update={
                "plays": ordered,
                "tolerances": tolerances(ordered, "students", plan.keep),
                "expert_tolerances": tolerances(ordered, "expert", plan.keep),
            }
        )

    def errors(
        self, teams: Sequence[TeamPolicy], buffer: ExpertBuffer | None
    ) -> RecordedErrors | None:
        """Return the errors of teams on recorded decisions of the run's dataset."""
        if buffer is None:
            return None
        judged = self.run.manifest.judged_by
        part = None if judged is None else judged.part
        return recorded_errors(buffer, teams, RECORDED_EPISODES, part)

    def comparison(
        self, other: CompleteRun, buffer: ExpertBuffer | None, errors: RecordedErrors | None
    ) -> RunComparison:
        """Play the students of another run unperturbed, and compare; both have several seeds."""
        own, theirs = self._play(self.teams, _nothing), self._play(other.teams, _nothing)
        expert = self._play([self.setup.policies.expert], _nothing)
        scores = Scores({"expert": expert, "students": own}, expert, self._rule(expert))
        unperturbed = scores.failed(expert)[0]
        failures = shared_failures(scores.failed(theirs), unperturbed, unperturbed)
        assert failures is not None  # noqa: S101 - runs of one seed were refused
        together = [np.asarray(scores.failed(x).all(0), np.float64) for x in (own, theirs)]
        others = self.errors(other.teams, buffer)
        change = None
        if errors is not None and others is not None:
            change = mean_estimate(errors.together - others.together)
        return RunComparison(
            run=other.path.resolve().name,
            students=digests(other.manifest),
            returns=interval_estimate(mean_interval(theirs.returns)),
            failures=failures,
            returns_change=interval_estimate(difference_interval(own.returns, theirs.returns)),
            together_change=mean_estimate(together[0] - together[1]),
            errors=None if others is None else shared_errors(others, self.environment.spec),
            errors_change=change,
        )

    def _play(
        self,
        teams: Sequence[TeamPolicy],
        tick: Callable[[], object],
        name: str = NONE,
        strength: float = 0.0,
    ) -> Played:
        """Play every team on every side, perturbed where a perturbation is named."""
        kind = None if name == NONE else PERTURBATIONS.load(name)
        spec, expert = self.environment.spec, self.setup.policies.expert
        runner = EvaluationRunner(self.environment, self.evaluation_seeds, self.plan.batch, tick)
        returns = np.zeros((len(teams), self.plan.episodes))
        won = np.full(returns.shape, -1, np.int8)
        for agents in self._sides:
            for k, team in enumerate(teams):
                policy = team
                if kind is not None:
                    policy = PerturbedPolicy(team, kind(self._setting(agents, strength)))
                with _border(name):
                    rollout = runner.play(
                        on_side(policy, expert, agents, spec.n_agents), greedy=True
                    )
                returns[k] += rollout.returns[:, list(agents)].sum(1)
                won[k] = rollout.won
        if len(self._sides) > 1 or (won < 0).all():
            return Played(returns, None)
        return Played(returns, (won == 1).astype(np.float64))

    @cached_property
    def _sides(self) -> list[tuple[int, ...]]:
        """The agents of every side, by number."""
        spec = self.environment.spec
        return [
            tuple(i for i, agent in enumerate(spec.agents) if agent in members)
            for members in spec.sides.values()
        ]

    def _setting(self, agents: tuple[int, ...], strength: float) -> Setting:
        return Setting(self.environment.spec, agents, self.scale, strength)

    def _rule(self, expert: Played) -> FailureRule:
        if expert.won is not None:
            return FailureRule(rule="not won")
        quantile = self.plan.quantile
        threshold = float(np.quantile(expert.returns, quantile))
        return FailureRule(
            rule="return below a quantile of the expert's", quantile=quantile, threshold=threshold
        )

    def _report(self, scores: Scores) -> RobustnessReport:
        manifest, plan = self.run.manifest, self.plan
        all_digests = digests(manifest)
        return RobustnessReport(
            status="running",
            run=self.run.path.resolve().name,
            environment=manifest.environment,
            method=manifest.method,
            mask=manifest.mask,
            dataset=manifest.dataset.id,
            expert=self.setup.expert_name,
            episodes=plan.episodes,
            evaluation_seed=plan.seed,
            distillation_seeds=self.chosen,
            students={str(seed): all_digests[str(seed)] for seed in self.chosen},
            keep=plan.keep,
            failure=scores.rule,
            unperturbed=scores.row(NONE, Perturbation, 0.0, scores.unperturbed, {}),
            random=interval_estimate(mean_interval(scores.random.returns)),
            parts=PERTURBATIONS.records(name for name, _ in plan.plays),
            accelerator=None if self.accelerator == "cpu" else self.accelerator,
            intervals=INTERVALS,
            command=self.command,
            seconds=0.0,
        )

    def _before(self) -> dict[tuple[str, float], PerturbedPlay]:
        """Return what an audit of the same students, expert and episodes has finished.

        Raises
        ------
        UsageError
            It was one of other episodes, policies or rules.
        """
        report = self.run.folder.robustness()
        if report is None:
            return {}
        all_digests = digests(self.run.manifest)
        own: dict[str, Any] = {
            "students": {str(seed): all_digests[str(seed)] for seed in self.chosen},
            "expert": self.setup.expert_name,
            "episodes": self.plan.episodes,
            "evaluation_seed": self.plan.seed,
        }
        changed = [name for name, value in own.items() if getattr(report, name) != value]
        if report.failure.quantile not in (None, self.plan.quantile):
            changed.append("quantile")
        if changed:
            msg = (
                f"the audit in {str(self.run.path)!r} was begun with another "
                f"{' and another '.join(changed)}: repeat its command, or begin anew without resume"
            )
            raise UsageError(msg)
        return {(play.perturbation, play.strength): play for play in report.plays}


def _border(name: str) -> AbstractContextManager[None]:
    """Return the border around play under a perturbation of a plug-in; ours has none."""
    if name == NONE or PERTURBATIONS.origin(name).ours:
        return nullcontext()
    return calling(f"the perturbation {name!r} of {PERTURBATIONS.origin(name)}", "play")


def _nothing() -> None:
    """Count nothing: these rollouts are beside those of the audit."""


def _declines(policy: TeamPolicy, name: str, kind: type[Perturbation]) -> str | None:
    """Return why a policy is not played under a perturbation, in one sentence; None: it is."""
    if kind.of_observations and not _acts_by_observations(policy):
        return (
            f"{name} changes observations, and this policy acts by more than they hold, so what "
            "it reached would say nothing"
        )
    if kind.needs_gradients and not (isinstance(policy, Differentiable) and policy.differentiable):
        return (
            f"{name} needs the gradients of the policy, which experts of other libraries and with "
            "opponents do not give: audit it under noise instead"
        )
    return None


def _acts_by_observations(policy: TeamPolicy) -> bool:
    """Tell whether a policy acts by its observations alone, as far as it says."""
    recipe = getattr(getattr(policy, "card", None), "recipe", None)
    view = getattr(getattr(recipe, "architecture", None), "view", "local")
    return view == "local" and not needs_full(policy)
