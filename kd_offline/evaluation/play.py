"""The rollouts of an evaluation: every policy plays every side on the same seeds.

They are played here, or in parts of the episodes by the workers of an executor.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from kd_offline.datasets.format.shards import share
from kd_offline.environments import largest_batch
from kd_offline.environments.protocol import BatchedEnvironment
from kd_offline.evaluation.retention import Samples
from kd_offline.evaluation.rollout import DEFAULT_BATCH, Rollout, join, rollout
from kd_offline.execution import executor_on
from kd_offline.execution.base import Executor, Resources
from kd_offline.execution.lending import close_lent, lent
from kd_offline.networks.threads import computing_with
from kd_offline.rollout.policies import MixedTeam, RandomPolicy
from kd_offline.seeding import episode_seeds
from kd_offline.tracking.base import Observer
from kd_offline.types import SeedArray, TeamPolicy

_F64 = npt.NDArray[np.float64]
_MOST_PARTS = 64  # of one play, so that messages stay few


@dataclass(frozen=True, slots=True)
class PolicySet:
    """The policies that are compared. ``students`` holds one team for each distillation seed.

    ``ceiling_sides``: the sides that the ceiling plays; None for all. ``others``: experts beside
    the one that is compared with, by name, where there is one side.
    """

    expert: TeamPolicy
    students: tuple[TeamPolicy, ...]
    ceiling: TeamPolicy | None = None
    ceiling_sides: tuple[str, ...] | None = None
    others: Mapping[str, TeamPolicy] = field(default_factory=dict)

    @property
    def all(self) -> tuple[TeamPolicy, ...]:
        """Every policy."""
        ceiling = () if self.ceiling is None else (self.ceiling,)
        return (self.expert, *self.students, *ceiling)

    def ceiling_of(self, side: str) -> TeamPolicy | None:
        """Return the ceiling of a side; None where there is none."""
        plays = self.ceiling_sides is None or side in self.ceiling_sides
        return self.ceiling if plays else None


Baselines = dict[tuple[object, ...], Rollout]
"""What evaluations of other students have in common: rollouts of the expert and of random play."""


@dataclass(frozen=True, slots=True)
class EvaluationRunner:
    """Plays policies in one environment on fixed seeds; calls ``tick`` after every rollout.

    ``baselines`` keeps rollouts by ``setting``, on which they depend, for other evaluations.
    """

    environment: BatchedEnvironment
    seeds: SeedArray
    batch: int = DEFAULT_BATCH
    tick: Callable[[], object] = lambda: None
    baselines: Baselines | None = None
    setting: tuple[object, ...] = ()

    def play(
        self, policy: TeamPolicy, *, greedy: bool, reference: TeamPolicy | None = None
    ) -> Rollout:
        """Play one episode for every seed."""
        result = rollout(
            self.environment,
            policy,
            self.seeds,
            greedy=greedy,
            batch=self.batch,
            reference=reference,
        )
        self.tick()
        return result

    def play_baseline(self, name: str, policy: TeamPolicy, *, greedy: bool) -> Rollout:
        """Play a policy that does not depend on the students, or return what it has played."""
        if self.baselines is None:
            return self.play(policy, greedy=greedy)
        key = (*self.setting, name, greedy)
        if key in self.baselines:
            self.tick()
        else:
            self.baselines[key] = self.play(policy, greedy=greedy)
        return self.baselines[key]


@dataclass(frozen=True, slots=True)
class SidePlay:
    """The rollouts of one side; agents of other sides are the expert's in all of them."""

    agents: tuple[int, ...]
    expert: Rollout
    students: tuple[Rollout, ...]
    random: Rollout
    ceiling: Rollout | None

    def samples(self) -> Samples:
        """Return the side's returns, summed over its agents, and the wins of a whole team.

        Wins are left out where there are several sides, as a recorded win does not name the side.
        """
        is_whole_team = len(self.agents) == self.expert.returns.shape[1]
        has_wins = is_whole_team and bool((self.expert.won >= 0).all())
        return Samples(
            expert=self.returns(self.expert),
            student=self.returns(*self.students),
            random=self.returns(self.random),
            ceiling=None if self.ceiling is None else self.returns(self.ceiling),
            expert_won=wins(self.expert) if has_wins else None,
            student_won=wins(*self.students) if has_wins else None,
        )

    def returns(self, *rollouts: Rollout) -> _F64:
        """Return the sum over the side's agents: float64 [K, E]."""
        return np.stack([r.returns[:, list(self.agents)].sum(axis=1) for r in rollouts])


SwapPlay = dict[int, tuple[list[Rollout], list[Rollout]]]
"""Agent -> (its student among experts, its expert among students), a rollout for each seed."""


def wins(*rollouts: Rollout) -> _F64:
    """Return 1 for each won episode: float64 [K, E]."""
    return np.stack([(r.won == 1).astype(np.float64) for r in rollouts])


def play_sides(
    runner: EvaluationRunner, policies: PolicySet, *, greedy: bool, compared: bool
) -> dict[str, SidePlay]:
    """Play every policy on every side.

    Parameters
    ----------
    runner : EvaluationRunner
    policies : PolicySet
    greedy : bool
    compared : bool
        Run the expert along with the students and measure their agreement.
    """
    spec = runner.environment.spec
    expert = runner.play_baseline("expert", policies.expert, greedy=greedy)
    sides = {}
    for name, members in spec.sides.items():
        agents = tuple(i for i, agent in enumerate(spec.agents) if agent in members)

        def side(policy: TeamPolicy, agents: tuple[int, ...] = agents) -> TeamPolicy:
            return on_side(policy, policies.expert, agents, spec.n_agents)

        reference = policies.expert if compared else None
        ceiling = policies.ceiling_of(name)
        sides[name] = SidePlay(
            agents=agents,
            expert=expert,
            students=tuple(
                runner.play(side(s), greedy=greedy, reference=reference) for s in policies.students
            ),
            random=runner.play_baseline(
                f"random {name}", side(RandomPolicy(drawn=True)), greedy=greedy
            ),
            ceiling=None if ceiling is None else runner.play(side(ceiling), greedy=greedy),
        )
    return sides


def on_side(
    policy: TeamPolicy, expert: TeamPolicy, agents: tuple[int, ...], n_agents: int
) -> TeamPolicy:
    """Return ``policy`` for the given agents and the expert for all others."""
    if len(agents) == n_agents:
        return policy
    return MixedTeam.swapped(expert, policy, agents, n_agents)


def play_swaps(runner: EvaluationRunner, policies: PolicySet, agents: tuple[int, ...]) -> SwapPlay:
    """Swap one agent of a side at a time and play greedily, for every distillation seed.

    Returns
    -------
    dict
        Agent -> (its student among experts, its expert among students), a rollout for each seed.
    """
    n_agents = runner.environment.spec.n_agents
    swaps = {}
    for agent in agents:
        other_agents = tuple(other for other in agents if other != agent)
        student_among_experts = [
            on_side(s, policies.expert, (agent,), n_agents) for s in policies.students
        ]
        expert_among_students = [
            on_side(s, policies.expert, other_agents, n_agents) if other_agents else policies.expert
            for s in policies.students
        ]
        swaps[agent] = (
            [runner.play(team, greedy=True) for team in student_among_experts],
            [runner.play(team, greedy=True) for team in expert_among_students],
        )
    return swaps


def count_rollouts(
    sides: Collection[str], policies: PolicySet, modes: int, *, swaps: int = 0
) -> int:
    """Return the number of rollouts of an evaluation, for its observers."""
    ceilings = sum(policies.ceiling_of(side) is not None for side in sides)
    per_mode = 1 + len(sides) * (len(policies.students) + 1) + ceilings + len(policies.others)
    return modes * per_mode + 2 * swaps * len(policies.students)


class Loaded(Protocol):
    """The environment and the policies of a worker."""

    @property
    def environment(self) -> BatchedEnvironment:
        """The environment of the evaluation."""


_Loaded = TypeVar("_Loaded", bound=Loaded)


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


def workers_on(
    on: str | None, accelerator: str, files: Sequence[Path], logs: Path
) -> AbstractContextManager[Executor | None]:
    """Return the executor of a place whose machines see ``files``; None for none."""
    if on is None:
        return nullcontext()
    needs = Resources.of(torch.get_num_threads(), accelerator)
    return executor_on(on, needs=needs, files=files, logs=logs, modules=(__name__,))


def played_by_workers(
    executor: Executor,
    load: Callable[[], AbstractContextManager[_Loaded]],
    plays: Sequence[Callable[[EvaluationRunner, _Loaded], object]],
    here: EvaluationRunner,
    seed: int,
    observer: Observer,
) -> Iterator[EvaluationRunner]:
    """Let workers play all rollouts of ``plays``, and yield for each a runner that gives them.

    Every worker plays whole batches of the episodes that ``here`` would play, with as many threads,
    so the rollouts are the same to the bit on the same kind of processor.

    Parameters
    ----------
    executor : Executor
    load : function
        Loads environment and policies, once in every worker, as a context manager that closes them.
    plays : sequence of functions
        Each plays rollouts with a runner and what was loaded, always the same ones in the same
        order. The next ones are played while the caller uses what is yielded.
    here : EvaluationRunner
    seed : int
        Of the evaluation.
    observer : Observer
        They receive the number of finished episodes.
    """
    episodes, batch = len(here.seeds), largest_batch(here.environment, here.batch)
    count = min(_MOST_PARTS, math.ceil(episodes / batch))
    places = [f"{number}/{count}" for number in range(1, count + 1)]
    command = secrets.token_hex(8)  # so that another command loads anew
    threads = torch.get_num_threads()
    task = partial(_play_part, command, load, tuple(plays), seed, episodes, batch, threads)
    done, total = 0, len(plays) * episodes
    observer.progress(done, total, "episodes")
    try:
        played = executor.map(task, product(range(len(plays)), places))
        for _ in plays:
            parts: list[list[Rollout]] = []
            for rollouts in islice(played, count):
                parts.append(rollouts)
                done += len(rollouts[0].seeds)
                observer.progress(done, total, "episodes")
            joined = [join(list(of_parts)) for of_parts in zip(*parts, strict=True)]
            yield _Played(here.environment, here.seeds, batch, rollouts=iter(joined))
    finally:
        close_lent()


def _play_part(
    command: str,
    load: Callable[[], AbstractContextManager[_Loaded]],
    plays: Sequence[Callable[[EvaluationRunner, _Loaded], object]],
    seed: int,
    episodes: int,
    batch: int,
    threads: int,
    item: tuple[int, str],
) -> list[Rollout]:
    """Play the rollouts of one of ``plays`` in a part of the episodes, in a worker."""
    number, place = item
    part = share(place, episodes, batch)
    seeds: SeedArray = episode_seeds(seed, part.first, part.stop - part.first, "evaluation")
    with computing_with(threads), lent(command, load) as loaded:
        runner = _Remembering(loaded.environment, seeds, batch)
        plays[number](runner, loaded)
    return runner.rollouts
