"""The policies of an audit and their rollouts: all play every condition on every side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kd_offline.environments.protocol import BatchedEnvironment
from kd_offline.errors import MismatchError, UserCodeError
from kd_offline.evaluation.evaluation_setup import Contestants, EvaluationSetup
from kd_offline.evaluation.play import EvaluationRunner, on_side
from kd_offline.networks.accelerator import device_named, moved
from kd_offline.robustness.perturbations import PERTURBATIONS
from kd_offline.robustness.perturbations.base import (
    ColumnScale,
    Perturbation,
    PerturbedPolicy,
    Setting,
)
from kd_offline.robustness.perturbations.gradients import Differentiable
from kd_offline.robustness.scores import NONE, Played, Player
from kd_offline.rollout.policies import RandomPolicy
from kd_offline.runs.complete import CompleteRun, complete_run
from kd_offline.runs.folder import digests
from kd_offline.schemas.robustness import Mode
from kd_offline.types import TeamPolicy, needs_full
from kd_offline.user_code import calling, close_all, closed_on_failure


class Condition(NamedTuple):
    """How a group of rollouts is played: choice of actions, perturbation and strength."""

    mode: Mode
    name: str = NONE
    strength: float = 0.0


@dataclass(frozen=True, slots=True)
class Participants:
    """The policies of an audit by their addresses, by which every worker loads them.

    ``seeds``: of the students that play. ``against``: the run that the students are compared with,
    and the digests of its students.
    """

    contestants: Contestants
    seeds: tuple[int, ...]
    against: tuple[str, dict[str, str]] | None = None

    def files(self) -> list[Path]:
        """Return the files and folders that are read; without bundled experts and addresses."""
        return [*self.contestants.files(), *([Path(self.against[0])] if self.against else [])]

    def load(
        self,
        run: CompleteRun | None = None,
        other: CompleteRun | None = None,
        *,
        playing: bool = True,
    ) -> AuditSetup:
        """Load environment and policies, on the accelerator if they are to play here.

        Runs are read unless they are given. Raises as
        :meth:`~kd_offline.evaluation.evaluation_setup.Contestants.load`.
        """
        complete = run or complete_run(self.contestants.run)
        beside = self._against(other)
        setup = self.contestants.load(complete, playing=playing)
        with closed_on_failure(setup.environment):
            seeds = self.seeds if setup.exported is None else (setup.exported.seed,)
            students = setup.policies.students  # the export, or all of the run
            if setup.exported is None:
                students = tuple(complete.team(seed) for seed in seeds)
            others: tuple[TeamPolicy, ...] = () if beside is None else beside.teams
            if playing:
                for policy in others:
                    moved(policy, device_named(self.contestants.accelerator))
        team, spec = complete.teams[0].team, setup.environment.spec
        there = np.arange(spec.obs_width) < np.array(spec.obs_widths)[:, None]
        mean, std = team.mean.cpu().numpy(), team.std.cpu().numpy()
        # Features that did not vary have the scale 1 there.
        deviation = np.where(there & (std != 1), std, 0).astype(np.float32)
        return AuditSetup(setup, seeds, students, others, ColumnScale(mean, deviation))

    def _against(self, loaded: CompleteRun | None) -> CompleteRun | None:
        """Return the run that is compared with, as it was when the audit began."""
        if self.against is None:
            return None
        path, stated = self.against
        beside = loaded or complete_run(path)
        if digests(beside.manifest) != stated:
            msg = f"the run in {path!r} was replaced while it was compared: audit again"
            raise MismatchError(msg)
        return beside


@dataclass(frozen=True)
class AuditSetup:
    """The loaded environment and policies of an audit.

    ``seeds``: distillation seeds of the students, in their order. ``others``: students of the run
    that is compared with. ``scale``: the statistics of the dataset that students scale their inputs
    by.
    """

    evaluation: EvaluationSetup
    seeds: tuple[int, ...]
    students: tuple[TeamPolicy, ...]
    others: tuple[TeamPolicy, ...]
    scale: ColumnScale

    def __enter__(self) -> AuditSetup:
        """Return the setup."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the environment."""
        close_all([self.environment])

    @property
    def environment(self) -> BatchedEnvironment:
        """The environment in which all policies play."""
        return self.evaluation.environment

    @cached_property
    def sides(self) -> list[tuple[int, ...]]:
        """The agents of every side, by number."""
        spec = self.environment.spec
        return [
            tuple(i for i, agent in enumerate(spec.agents) if agent in members)
            for members in spec.sides.values()
        ]

    def setting(self, agents: tuple[int, ...], strength: float) -> Setting:
        """Return the setting of a perturbation of some agents."""
        return Setting(self.environment.spec, agents, self.scale, strength)

    @cached_property
    def all_players(self) -> dict[Player, Sequence[TeamPolicy]]:
        """Who plays, in the order of play."""
        found: dict[Player, Sequence[TeamPolicy]] = {
            "expert": (self.evaluation.policies.expert,),
            "students": self.students,
            "others": self.others,
            "random": (RandomPolicy(drawn=True),),
        }
        return {who: teams for who, teams in found.items() if teams}

    def declined(self, name: str) -> dict[Player, str]:
        """Return who is not played under a perturbation, and why in one sentence."""
        kind = PERTURBATIONS.load(name)
        found: dict[Player, str] = {}
        for who, teams in self.all_players.items():
            exported = who == "students" and self.evaluation.exported is not None
            for team in teams:
                if reason := _declines(team, name, kind, exported=exported):
                    found[who] = reason
        return found

    def players(self, name: str) -> dict[Player, Sequence[TeamPolicy]]:
        """Return who plays under a perturbation; without one, random play does too."""
        if name == NONE:
            return self.all_players
        left_out = {"random", *self.declined(name)}
        return {who: teams for who, teams in self.all_players.items() if who not in left_out}

    def play(self, runner: EvaluationRunner, condition: Condition) -> dict[Player, Played]:
        """Play all policies under a condition, on every side."""
        players = self.players(condition.name)
        return {who: self._played(runner, teams, condition) for who, teams in players.items()}

    def _played(
        self, runner: EvaluationRunner, teams: Sequence[TeamPolicy], condition: Condition
    ) -> Played:
        spec, expert = self.environment.spec, self.evaluation.policies.expert
        greedy = condition.mode == "greedy"
        returns = np.zeros((len(teams), len(runner.seeds)))
        won = np.full(returns.shape, -1, np.int8)
        for agents in self.sides:
            for k, team in enumerate(teams):
                policy = team
                if condition.name != NONE:
                    kind = PERTURBATIONS.load(condition.name)
                    perturbation = kind(self.setting(agents, condition.strength))
                    policy = PerturbedPolicy(team, perturbation, greedy=greedy)
                with border(condition.name, condition.strength):
                    rollout = runner.play(
                        on_side(policy, expert, agents, spec.n_agents), greedy=greedy
                    )
                returns[k] += rollout.returns[:, list(agents)].sum(1)
                won[k] = rollout.won
        if len(self.sides) > 1 or (won < 0).all():
            return Played(returns, None)
        return Played(returns, (won == 1).astype(np.float64))


@contextmanager
def border(name: str, strength: float) -> Iterator[None]:
    """Name the perturbation in errors of users' code that the body runs, also of a plug-in's own.

    Raises
    ------
    UserCodeError
        The body raised one, or anything under a perturbation of a plug-in.
    """
    if name == NONE:
        yield
        return
    origin = PERTURBATIONS.origin(name)
    own = (
        nullcontext() if origin.ours else calling(f"the perturbation {name!r} of {origin}", "play")
    )
    try:
        with own:
            yield
    except UserCodeError as error:
        msg = f"under {name} of strength {strength:g}, {error}"
        raise UserCodeError(msg) from error.__cause__


def _declines(
    policy: TeamPolicy, name: str, kind: type[Perturbation], *, exported: bool
) -> str | None:
    """Return why a policy is not played under a perturbation, in one sentence; None: it is."""
    if kind.of_observations and not _acts_by_observations(policy):
        return (
            f"{name} changes observations, and this policy acts by more than they hold, so what "
            "it reached would say nothing"
        )
    if not kind.needs_gradients or (isinstance(policy, Differentiable) and policy.differentiable):
        return None
    if exported:
        return f"{name} needs gradients, which an export does not give: audit the run itself"
    return (
        f"{name} needs the gradients of the policy, which experts of other libraries and with "
        "opponents do not give: audit it under noise instead"
    )


def _acts_by_observations(policy: TeamPolicy) -> bool:
    """Tell whether a policy acts by its observations alone, as far as it says."""
    recipe = getattr(getattr(policy, "card", None), "recipe", None)
    view = getattr(getattr(recipe, "architecture", None), "view", "local")
    return view == "local" and not needs_full(policy)
