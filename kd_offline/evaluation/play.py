"""All the rollouts of one evaluation: every policy, every side, the same seeds."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kd_offline.environments.protocol import BatchedEnvironment
from kd_offline.evaluation.retention import Samples
from kd_offline.evaluation.rollout import DEFAULT_BATCH, Rollout, rollout
from kd_offline.rollout.policies import MixedTeam, RandomPolicy
from kd_offline.types import SeedArray, TeamPolicy

_F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PolicySet:
    """Who is compared. ``students`` holds one team for each distillation seed.

    ``ceiling_sides``: the sides that the ceiling plays; None for all.
    """

    expert: TeamPolicy
    students: tuple[TeamPolicy, ...]
    ceiling: TeamPolicy | None = None
    ceiling_sides: tuple[str, ...] | None = None

    def ceiling_of(self, side: str) -> TeamPolicy | None:
        """Return the ceiling of a side, if there is one."""
        known = self.ceiling_sides is None or side in self.ceiling_sides
        return self.ceiling if known else None


@dataclass(frozen=True, slots=True)
class EvaluationRunner:
    """Where, on which seeds and how a comparison is played; one step of ``tick`` per rollout."""

    environment: BatchedEnvironment
    seeds: SeedArray
    batch: int = DEFAULT_BATCH
    tick: Callable[[], object] = lambda: None

    def play(
        self, policy: TeamPolicy, *, greedy: bool, reference: TeamPolicy | None = None
    ) -> Rollout:
        """Play every seed once."""
        done = rollout(
            self.environment,
            policy,
            self.seeds,
            greedy=greedy,
            batch=self.batch,
            reference=reference,
        )
        self.tick()
        return done


@dataclass(frozen=True, slots=True)
class SidePlay:
    """One side's rollouts; agents of other sides are the expert's in all of them."""

    agents: tuple[int, ...]
    expert: Rollout
    students: tuple[Rollout, ...]
    random: Rollout
    ceiling: Rollout | None

    def samples(self) -> Samples:
        """Return the side's returns, summed over its agents, and the wins of a whole team.

        Who of several sides has won an episode that counts as won is not known.
        """
        whole = len(self.agents) == self.expert.returns.shape[1]
        has_wins = whole and bool((self.expert.won >= 0).all())
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


def wins(*rollouts: Rollout) -> _F64:
    """Return 1 for each won episode: float64 [K, E]."""
    return np.stack([(r.won == 1).astype(np.float64) for r in rollouts])


def play_sides(
    runner: EvaluationRunner, who: PolicySet, *, greedy: bool, compared: bool
) -> dict[str, SidePlay]:
    """Play every policy on every side.

    Parameters
    ----------
    runner : EvaluationRunner
    who : PolicySet
    greedy : bool
    compared : bool
        Run the expert along with the students and measure their agreement.
    """
    spec = runner.environment.spec
    expert = runner.play(who.expert, greedy=greedy)
    sides = {}
    for name, members in spec.sides.items():
        agents = tuple(i for i, agent in enumerate(spec.agents) if agent in members)

        def side(policy: TeamPolicy, agents: tuple[int, ...] = agents) -> TeamPolicy:
            return on_side(policy, who.expert, agents, spec.n_agents)

        reference = who.expert if compared else None
        ceiling = who.ceiling_of(name)
        sides[name] = SidePlay(
            agents=agents,
            expert=expert,
            students=tuple(
                runner.play(side(s), greedy=greedy, reference=reference) for s in who.students
            ),
            random=runner.play(side(RandomPolicy(drawn=True)), greedy=greedy),
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


def play_swaps(
    runner: EvaluationRunner, who: PolicySet, agents: tuple[int, ...]
) -> dict[int, tuple[list[Rollout], list[Rollout]]]:
    """Swap one agent of a side at a time, greedily, for every distillation seed.

    Returns
    -------
    dict
        Agent -> (its student among experts, its expert among students), a rollout for each seed.
    """
    n = runner.environment.spec.n_agents
    swapped = {}
    for agent in agents:
        rest = tuple(a for a in agents if a != agent)
        alone = [on_side(s, who.expert, (agent,), n) for s in who.students]
        others = [on_side(s, who.expert, rest, n) if rest else who.expert for s in who.students]
        swapped[agent] = (
            [runner.play(team, greedy=True) for team in alone],
            [runner.play(team, greedy=True) for team in others],
        )
    return swapped


def count_rollouts(sides: Collection[str], who: PolicySet, modes: int, *, swaps: int = 0) -> int:
    """Return how many rollouts an evaluation takes, for its observers."""
    ceilings = sum(who.ceiling_of(side) is not None for side in sides)
    each = 1 + len(sides) * (len(who.students) + 1) + ceilings
    return modes * each + 2 * swaps * len(who.students)
