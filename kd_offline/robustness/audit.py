"""``audit``: play expert and students under perturbations, and write ``robustness.json``."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from kd_offline.commands import command_text
from kd_offline.datasets import ExpertBuffer
from kd_offline.errors import KdOfflineError, Remedy, StorageError, UnknownNameError, UsageError
from kd_offline.evaluation.evaluation_setup import Contestants
from kd_offline.evaluation.intervals import difference_interval, mean_interval
from kd_offline.evaluation.play import EvaluationRunner, played_by_workers, workers_on
from kd_offline.evaluation.rollout import DEFAULT_BATCH
from kd_offline.execution.base import Executor
from kd_offline.execution.parts import parts_of
from kd_offline.file_locks import only_writer
from kd_offline.files import check_output, remove_tree
from kd_offline.networks.accelerator import device_named
from kd_offline.networks.threads import computing_with
from kd_offline.robustness.perturbations import PERTURBATIONS
from kd_offline.robustness.perturbations.base import Perturbation, strengths_of
from kd_offline.robustness.perturbed_play import AuditSetup, Condition, Participants, border
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
)
from kd_offline.runs.complete import CompleteRun, complete_run
from kd_offline.runs.folder import (
    ROBUSTNESS,
    UNFINISHED_ROBUSTNESS,
    RunFolder,
    digests,
    read_robustness,
)
from kd_offline.runs.source import open_dataset, why_unread
from kd_offline.schemas.parts import PartRecord
from kd_offline.schemas.robustness import (
    FailureRule,
    Mode,
    ModeScores,
    PerturbedPlay,
    RobustnessReport,
    RunComparison,
)
from kd_offline.seeding import episode_seeds
from kd_offline.tracking.base import Observer, Operation, counting, observed

MODES: tuple[Mode, ...] = ("greedy", "sampled")
KEEP, QUANTILE = 0.9, 0.1
"""What a tolerance has to keep, and the quantile below which a return is a failure, by default."""
RECORDED_EPISODES = 400
"""Recorded episodes in which errors are compared."""
_Rows = dict[Condition, PerturbedPlay]
_ANEW = Remedy("begin anew with", overwrite=True)
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
    modes: tuple[Mode, ...] = ("greedy",)
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
        if not self.modes:
            msg = f"cannot audit without a mode: give one or both of {', '.join(MODES)}"
            raise UsageError(msg)
        for name, value in (("keep", self.keep), ("quantile", self.quantile)):
            if not 0 < value < 1:
                msg = f"{name} is {value:g}: give a share above 0 and below 1"
                raise UsageError(msg)


def modes_of(modes: Sequence[str]) -> tuple[Mode, ...]:
    """Return the ways to choose actions, greedy play first.

    Raises
    ------
    UnknownNameError
        There is no such way.
    """
    for mode in modes:
        if mode not in MODES:
            raise UnknownNameError(what="mode", got=mode, allowed=MODES)
    return tuple(mode for mode in MODES if mode in modes)


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
    modes: Sequence[str] = ("greedy",),
    perturbations: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    keep: float = KEEP,
    quantile: float = QUANTILE,
    expert: str | Path | None = None,
    expert_recipe: str | Path | None = None,
    dataset: str | Path | ExpertBuffer | None = None,
    against: str | Path | None = None,
    export: str | Path | None = None,
    engine: str | None = None,
    environment: str | None = None,
    opponents: Sequence[str] = (),
    batch: int = DEFAULT_BATCH,
    accelerator: str = "cpu",
    on: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    observers: Sequence[Observer] = (),
) -> RobustnessReport:
    """Measure how robust a run's students and its expert are; write ``robustness.json`` there.

    All policies play the same episodes with and without perturbations. If there are several sides,
    the agents of one side at a time are perturbed, as in an evaluation, and the sides are added.

    Parameters
    ----------
    run : path
        A run folder made by ``kd-offline distill``.
    episodes, seed : int
        Evaluation episodes, the same as those of :func:`~kd_offline.evaluation.evaluate.evaluate`.
    modes : sequence of str
        How actions are chosen: ``greedy``, ``sampled`` or both.
    perturbations : sequence of str, optional
        ``NAME`` or ``NAME:STRENGTH``, see :func:`plays_of`. Default: all.
    seeds : sequence of int, optional
        Distillation seeds whose students play. Default: all of the run.
    keep : float
        Share of the unperturbed gain over random play that counts as tolerated.
    quantile : float
        In tasks without wins, an episode is a failure if its return is below this quantile of the
        unperturbed expert's returns.
    dataset : path, optional
        The run's dataset, if it is not at the path that the run states. Without it, errors on
        recorded decisions are left out.
    against : path, optional
        Another run of the same task, whose students play the same episodes. The report states the
        differences in common failures and errors, and in return.
    export, engine : optional
        An export of the run that plays instead of its students, in an engine; ``robustness.json``
        is then written into that folder. It is not played under attacks by gradients.
    expert, expert_recipe, environment, opponents, accelerator, on
        As for :func:`~kd_offline.evaluation.evaluate.evaluate`.
    batch : int
        Number of episodes played at once; changes results in the last bits of networks only.
    resume : bool
        Keep what an interrupted audit of the same settings has finished.
    overwrite : bool
        Delete what an interrupted audit has finished.
    observers : sequence of Observer
        They receive the number of finished rollouts, with ``on`` of episodes, and the results as
        metrics.

    Raises
    ------
    UsageError, UnknownNameError, CheckpointError, MismatchError
        The run, the expert, the export, a perturbation or the accelerator cannot be used.
    StorageError
        There is an interrupted audit and neither ``resume`` nor ``overwrite``, or another process
        audits the same team.
    """
    started = time.perf_counter()
    if resume and overwrite:
        msg = "resume and overwrite exclude each other: give one of them"
        raise UsageError(msg)
    plan = Plan(episodes, seed, plays_of(perturbations), modes_of(modes), keep, quantile, batch)
    if on is None:  # other machines may have other devices
        device_named(accelerator)
    _check_export(export, seeds, against)
    complete = complete_run(run)
    other = None if against is None else _comparable(complete_run(against), complete)
    chosen = tuple(dict.fromkeys(map(complete.seed, seeds or complete.manifest.seeds)))
    if other is not None and len(chosen) < 2:
        msg = f"one seed, {chosen[0]}, is to be compared with another run: give seeds two or more"
        raise UsageError(msg)
    contestants = Contestants(
        run=str(run),
        students=digests(complete.manifest),
        expert=expert,
        expert_recipe=expert_recipe,
        export=export,
        engine=engine,
        environment=environment,
        opponents=tuple(opponents),
        accelerator=accelerator,
    )
    participants = Participants(
        contestants, chosen, None if other is None else (str(against), digests(other.manifest))
    )
    output = complete.folder if export is None else RunFolder(Path(export))
    command = command_text(
        *("audit", run),
        episodes=episodes,
        seed=seed,
        modes=None if plan.modes == ("greedy",) else ",".join(plan.modes),
        perturbations=None if perturbations is None else ",".join(perturbations),
        seeds=None if seeds is None else "".join(f"{number}," for number in chosen),
        keep=None if keep == KEEP else keep,
        quantile=None if quantile == QUANTILE else quantile,
        batch=None if batch == DEFAULT_BATCH else batch,
        against=against,
        dataset=str(dataset) if isinstance(dataset, str | Path) else None,
        **contestants.options(),
    )
    operation = Operation("audit", _settings(participants, plan), complete.path)
    with (
        observed(operation, observers) as observer,
        _workers(on, participants, output.path) as executor,
        participants.load(complete, other, playing=on is None) as setup,
        only_writer(output.path, "auditing"),
    ):
        play = Audit(complete, other, output, participants, setup, plan, command, executor)
        before = play.begun(resume=resume, overwrite=overwrite)
        errors, others, note = play.recorded(dataset)  # a damaged dataset is noticed before play
        report = play.report(observer, before)
        spec = setup.environment.spec
        report = report.model_copy(
            update={
                "errors": None if errors is None else shared_errors(errors, spec),
                "comparison": play.comparison(errors, others),
                "status": "complete",
                "notes": (*report.notes, *([note] if note else [])),
                "seconds": round(time.perf_counter() - started, 3),
            }
        )
        output.write_robustness(report)
        observer.metrics(0, metrics_of(report))
        observer.result = report
    return report


def _settings(participants: Participants, plan: Plan) -> dict[str, object]:
    """Return the settings of an audit, for its observers."""
    own = participants.contestants
    return {
        "run": own.run,
        "episodes": plan.episodes,
        "seed": plan.seed,
        "seeds": list(participants.seeds),
        "modes": list(plan.modes),
        "perturbations": [f"{name}:{strength:g}" for name, strength in plan.plays],
        "export": None if own.export is None else str(own.export),
    }


def _check_export(
    export: str | Path | None,
    seeds: Sequence[int] | None,
    against: str | Path | None,
) -> None:
    """Raise a ``UsageError`` where arguments do not go with an export, or with none."""
    if export is None:
        return
    if seeds is not None:
        msg = "seeds are given, and an export holds the team of one seed: leave them out"
        raise UsageError(msg)
    if against is not None:
        msg = "an export holds one team, and runs are compared by several: leave one of them out"
        raise UsageError(msg)


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


def _workers(
    on: str | None, participants: Participants, output: Path
) -> AbstractContextManager[Executor | None]:
    """Return the executor of a place, whose machines see what is read; None for none."""
    accelerator = participants.contestants.accelerator
    return workers_on(on, accelerator, participants.files(), parts_of(output, "audit"))


def _play(runner: EvaluationRunner, setup: AuditSetup, condition: Condition) -> None:
    """Play all policies under a condition, for a runner that keeps the rollouts."""
    setup.play(runner, condition)


@dataclass(frozen=True)
class Audit:
    """An audit under way; see :func:`audit`. ``output``: the run, or the export that plays."""

    run: CompleteRun
    other: CompleteRun | None
    output: RunFolder
    participants: Participants
    setup: AuditSetup
    plan: Plan
    command: str
    executor: Executor | None

    def begun(self, *, resume: bool, overwrite: bool) -> _Rows:
        """Return what an interrupted audit of the same policies, episodes and rules has finished.

        Raises
        ------
        StorageError
            There is one, and it is neither to be continued nor to be deleted.
        UsageError
            It was one of other policies, episodes or rules.
        """
        unfinished = self.output.path / UNFINISHED_ROBUSTNESS
        check_output(self.output.path / ROBUSTNESS, overwrite=True)
        if overwrite:
            remove_tree(unfinished)
        elif not resume and os.path.lexists(unfinished):
            msg = f"there is an unfinished audit in {str(self.output.path)!r}"
            raise StorageError(msg, Remedy("continue it with", resume=True), _ANEW)
        return self._before() if resume else {}

    def report(self, observer: Observer, before: _Rows) -> RobustnessReport:
        """Play everything and return the report, which is written after every perturbation.

        ``before``: what need not be played.
        """
        setup, plan = self.setup, self.plan
        kinds = {name: PERTURBATIONS.load(name) for name, _ in plan.plays}
        for name, strength in plan.plays:  # what cannot be is refused before anything is played
            with border(name, strength):
                kinds[name](setup.setting(setup.sides[0], strength))
        perturbed = [c for mode in plan.modes for c in self._perturbed(mode) if c not in before]
        conditions = [*map(Condition, plan.modes), *perturbed]
        scores: dict[Mode, Scores] = {}
        rows = dict(before)
        played_ones = [c for c in conditions if setup.players(c.name)]
        with closing(self._runners(played_ones, observer)) as runners:
            for condition in conditions:
                mode, name, strength = condition
                is_played = condition in played_ones
                played = setup.play(next(runners), condition) if is_played else {}
                if name == NONE:
                    scores[mode] = Scores(played, self._rule(played["expert"]))
                    continue
                declined = setup.declined(name)
                row = scores[mode].row(name, kinds[name], strength, played, declined)
                rows[condition] = row
                self.output.write_robustness(self._report(scores, rows))
        return self._report(scores, rows)

    def _runners(
        self, conditions: Sequence[Condition], observer: Observer
    ) -> Generator[EvaluationRunner]:
        """Yield what plays, or has played, each of the conditions."""
        setup, plan = self.setup, self.plan
        seeds = episode_seeds(plan.seed, 0, plan.episodes, "evaluation")
        if self.executor is None:
            teams = sum(len(own) for c in conditions for own in setup.players(c.name).values())
            tick = counting(observer, len(setup.sides) * teams, "rollouts")
            here = EvaluationRunner(setup.environment, seeds, plan.batch, tick)
            yield from repeat(here, len(conditions))
            return
        here = EvaluationRunner(setup.environment, seeds, plan.batch)
        plays = [partial(_play, condition=condition) for condition in conditions]
        load = self.participants.load
        yield from played_by_workers(self.executor, load, plays, here, plan.seed, observer)

    def recorded(
        self, given: str | Path | ExpertBuffer | None
    ) -> tuple[RecordedErrors | None, RecordedErrors | None, str]:
        """Return errors on recorded decisions: of the students, of those compared with, why none.

        Raises
        ------
        KdOfflineError
            The dataset cannot be used, and it was ``given``.
        """
        judged = self.run.manifest.judged_by
        part = None if judged is None else judged.part
        try:
            buffer = open_dataset(self.run.manifest, self.run.path, given)
            own, others = (
                recorded_errors(buffer, teams, RECORDED_EPISODES, part)
                for teams in (self.setup.students, self.setup.others)
            )
        except KdOfflineError as error:
            if given is not None:
                raise
            return None, None, f"{_NO_ERRORS}: {why_unread(error)}"
        if own is None and len(self.setup.students) > 1:
            why = "the dataset holds no outputs of the expert, or no decision"
            return None, None, f"{_NO_ERRORS}: {why}"
        return own, others, ""

    def comparison(
        self, errors: RecordedErrors | None = None, others: RecordedErrors | None = None
    ) -> RunComparison | None:
        """Compare errors on recorded decisions with those of another run; None without one."""
        if self.other is None:
            return None
        compared: dict[str, Any] = {}
        if errors is not None and others is not None:
            compared = {
                "errors": shared_errors(others, self.setup.environment.spec),
                "wrong_change": interval_estimate(difference_interval(errors.each, others.each)),
                "errors_change": mean_estimate(errors.together - others.together),
            }
        name, students = self.other.path.resolve().name, digests(self.other.manifest)
        return RunComparison(run=name, students=students, **compared)

    def _before(self) -> _Rows:
        path = self.output.path
        report = read_robustness(path, finished=False) or read_robustness(path)
        if report is None:
            return {}
        beside = None if self.other is None else digests(self.other.manifest)
        stated: dict[str, tuple[object, object]] = {
            "students": (  # rates of seeds are kept in the order of the seeds
                (report.distillation_seeds, report.students),
                (self.setup.seeds, self._students),
            ),
            "expert": (report.expert, self.setup.evaluation.expert_name),
            "export": (report.export, self._export),
            "episodes": (report.episodes, self.plan.episodes),
            "evaluation seed": (report.evaluation_seed, self.plan.seed),
            "batch": (report.batch or self.plan.batch, self.plan.batch),
            "accelerator": (report.accelerator or "cpu", self._computed_on or "cpu"),
            "run to compare with": (report.comparison and report.comparison.students, beside),
        }
        installed = {part.name: part for part in self._parts}
        versions = [(part, installed.get(part.name)) for part in report.parts]
        stated |= {f"version of {then.name}": (then, now) for then, now in versions if now}
        if "auto" in stated["accelerator"]:  # each machine chooses
            del stated["accelerator"]
        changed = [name for name, (then, now) in stated.items() if then != now]
        quantiles = {scores.failure.quantile for scores in report.modes.values()}
        if not quantiles <= {None, self.plan.quantile}:
            changed.append("quantile")
        if changed:
            msg = (
                f"the audit in {str(path)!r} was begun with another "
                f"{' and another '.join(changed)}: repeat its command"
            )
            raise UsageError(msg, _ANEW)
        return {
            Condition(mode, play.perturbation, play.strength): play
            for mode, scores in report.modes.items()
            for play in scores.plays
        }

    def _perturbed(self, mode: Mode) -> list[Condition]:
        return [Condition(mode, *play) for play in self.plan.plays]

    def _rule(self, expert: Played) -> FailureRule:
        if expert.won is not None:
            return FailureRule(rule="not won")
        quantile = self.plan.quantile
        threshold = float(np.quantile(expert.returns, quantile))
        return FailureRule(
            rule="return below a quantile of the expert's", quantile=quantile, threshold=threshold
        )

    @property
    def _students(self) -> dict[str, str]:
        all_digests = digests(self.run.manifest)
        return {str(seed): all_digests[str(seed)] for seed in self.setup.seeds}

    @property
    def _export(self) -> str | None:
        exported = self.setup.evaluation.exported
        return None if exported is None else exported.name

    @property
    def _parts(self) -> tuple[PartRecord, ...]:
        """The perturbations of plug-ins."""
        return PERTURBATIONS.records(name for name, _ in self.plan.plays)

    @property
    def _computed_on(self) -> str | None:
        here = self.executor is None or not self.executor.several_machines
        return self.participants.contestants.computed_on(here=here)

    def _report(self, scores: Mapping[Mode, Scores], rows: _Rows) -> RobustnessReport:
        manifest, plan = self.run.manifest, self.plan
        modes = {mode: self._mode(mode, each, rows) for mode, each in scores.items()}
        random = next(iter(scores.values())).unperturbed["random"]
        return RobustnessReport(
            status="running",
            run=self.run.path.resolve().name,
            environment=manifest.environment,
            method=manifest.method,
            mask=manifest.mask,
            dataset=manifest.dataset.id,
            expert=self.setup.evaluation.expert_name,
            export=self._export,
            episodes=plan.episodes,
            batch=plan.batch,
            evaluation_seed=plan.seed,
            distillation_seeds=self.setup.seeds,
            students=self._students,
            keep=plan.keep,
            random=interval_estimate(mean_interval(random.returns)),
            greedy=modes.get("greedy"),
            sampled=modes.get("sampled"),
            parts=self._parts,
            comparison=self.comparison(),
            accelerator=self._computed_on,
            intervals=INTERVALS,
            command=self.command,
            seconds=0.0,
        )

    def _mode(self, mode: Mode, scores: Scores, rows: _Rows) -> ModeScores:
        plays = tuple(rows[c] for c in self._perturbed(mode) if c in rows)
        return ModeScores(
            failure=scores.rule,
            unperturbed=scores.row(NONE, Perturbation, 0.0, scores.unperturbed, {}),
            plays=plays,
            tolerances=tolerances(plays, "students", self.plan.keep),
            expert_tolerances=tolerances(plays, "expert", self.plan.keep),
        )
