"""Evaluation side by side: workers play parts of the episodes, and their rollouts are joined."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from kd_offline.datasets.format.shards import share
from kd_offline.environments import largest_batch
from kd_offline.errors import MismatchError
from kd_offline.evaluation.evaluation_setup import EvaluationSetup, load_evaluation_setup
from kd_offline.evaluation.play import EvaluationRunner
from kd_offline.evaluation.rollout import Rollout, join
from kd_offline.execution.base import Executor
from kd_offline.networks.accelerator import device_named, moved
from kd_offline.networks.threads import computing_with
from kd_offline.runs.complete import CompleteRun, complete_run
from kd_offline.runs.folder import digests
from kd_offline.seeding import episode_seeds
from kd_offline.tracking.base import Observer
from kd_offline.types import SeedArray, TeamPolicy
from kd_offline.user_code import close_all

_MOST_PARTS = 64  # each loads the run and the experts once


@dataclass(frozen=True, slots=True)
class Contestants:
    """Who plays in an evaluation, as addresses: what a worker loads its policies by.

    ``students``: the digests of those that the evaluation was begun with.
    ``best``: which of several experts is compared with; None: it is not known yet.
    """

    run: str
    students: dict[str, str]
    expert: str | Path | tuple[str | Path, ...] | None
    expert_recipe: str | Path | None
    ceiling: str | Path | None
    export: str | Path | None
    engine: str | None
    environment: str | None
    opponents: tuple[str, ...]
    accelerator: str
    best: int | None = None

    def load(self, run: CompleteRun | None = None, *, playing: bool = True) -> EvaluationSetup:
        """Load environment and policies, on the accelerator if they are to play here.

        ``run``: where it was read already.
        """
        complete = run or complete_run(self.run)
        if digests(complete.manifest) != self.students:
            msg = f"the run in {self.run!r} was replaced while it was evaluated: evaluate it again"
            raise MismatchError(msg)
        setup = load_evaluation_setup(
            complete,
            expert=self.expert,
            expert_recipe=self.expert_recipe,
            ceiling=self.ceiling,
            export=self.export,
            engine=self.engine,
            environment=self.environment,
            opponents=self.opponents,
        )
        if playing:
            device = device_named(self.accelerator)
            for policy in setup.policies.all:
                moved(policy, device)
        return setup if self.best is None else setup.compared_with(setup.experts[self.best])

    def files(self) -> list[Path]:
        """Return the files and folders that are read, as far as they are some."""
        experts = self.expert if isinstance(self.expert, tuple) else (self.expert,)
        named = (self.run, *experts, self.expert_recipe, self.ceiling, self.export)
        return [Path(name) for name in named if name is not None and Path(name).exists()]


Plays = Callable[[EvaluationRunner, EvaluationSetup], object]
"""A function that plays rollouts with a runner, always the same ones in the same order."""


@dataclass(frozen=True, slots=True)
class _Remembering(EvaluationRunner):
    rollouts: list[Rollout] = field(default_factory=list)

    def play(
        self, policy: TeamPolicy, *, greedy: bool, reference: TeamPolicy | None = None
    ) -> Rollout:
        """Play, and keep the rollout."""
        played = EvaluationRunner.play(self, policy, greedy=greedy, reference=reference)
        self.rollouts.append(played)
        return played


@dataclass(frozen=True, slots=True)
class _Played(EvaluationRunner):
    rollouts: Iterator[Rollout] = field(default_factory=lambda: iter(()))

    def play(
        self, policy: TeamPolicy, *, greedy: bool, reference: TeamPolicy | None = None
    ) -> Rollout:
        """Return the rollout that workers played in this place."""
        return next(self.rollouts)


def played_by_workers(
    executor: Executor,
    contestants: Contestants,
    plays: Plays,
    here: EvaluationRunner,
    seed: int,
    observer: Observer,
) -> EvaluationRunner:
    """Let workers play all rollouts of ``plays``, and return a runner that gives them.

    Every worker plays whole batches of the episodes that ``here`` would play, with as many threads,
    so the rollouts are the same to the bit on the same kind of processor. ``seed`` is that of the
    evaluation.
    """
    episodes, batch = len(here.seeds), largest_batch(here.environment, here.batch)
    count = min(_MOST_PARTS, math.ceil(episodes / batch))
    places = [f"{number}/{count}" for number in range(1, count + 1)]
    task = partial(_play_part, contestants, plays, seed, episodes, batch, torch.get_num_threads())
    parts: list[list[Rollout]] = []
    done = 0
    observer.progress(done, episodes, "episodes")
    for rollouts in executor.map(task, places):
        parts.append(rollouts)
        done += len(rollouts[0].seeds)
        observer.progress(done, episodes, "episodes")
    joined = [join(list(of_parts)) for of_parts in zip(*parts, strict=True)]
    return _Played(here.environment, here.seeds, batch, rollouts=iter(joined))


def _play_part(
    contestants: Contestants,
    plays: Plays,
    seed: int,
    episodes: int,
    batch: int,
    threads: int,
    place: str,
) -> list[Rollout]:
    """Play the rollouts of a part of the episodes in a worker."""
    part = share(place, episodes, batch)
    seeds: SeedArray = episode_seeds(seed, part.first, part.stop - part.first, "evaluation")
    with computing_with(threads):
        setup = contestants.load()
        try:
            runner = _Remembering(setup.environment, seeds, batch)
            plays(runner, setup)
        finally:
            close_all([setup.environment])
    return runner.rollouts


def earned(runner: EvaluationRunner, setup: EvaluationSetup, *, greedy: bool) -> list[float]:
    """Return the sum of the returns of each of several experts."""
    return [float(runner.play(e, greedy=greedy).returns.sum()) for e in setup.experts]
