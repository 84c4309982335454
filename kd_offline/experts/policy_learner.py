"""The updates of MAPPO and IPPO (Yu et al., 2022) on one batch of episodes.

A policy may be pulled to a teacher: at first, as in kickstarting (Schmitt et al., 2018, arXiv
1803.03835), or throughout, as in proximal policy distillation (Spigler, 2024, arXiv 2407.15134).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd_offline import distributions
from kd_offline.distributions.base import Learned
from kd_offline.experts import ppo
from kd_offline.experts.algorithms.base import Figures, Moment, State
from kd_offline.experts.algorithms.clipped_policy import Kickstart, PolicyRecipe
from kd_offline.experts.algorithms.state import Part, put_back, tensors_of
from kd_offline.experts.load import load
from kd_offline.experts.policy_team import NORM, NetworkPolicy, PolicyTeam
from kd_offline.experts.ppo import Pull
from kd_offline.experts.protocol import Expert
from kd_offline.networks.accelerator import moved
from kd_offline.rollout.active_episodes import ActiveEpisodePolicy
from kd_offline.rollout.collect import Trajectories
from kd_offline.rollout.policies import MixedTeam
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.expert import TrainRecipe
from kd_offline.seeding import episode_seeds, generator
from kd_offline.types import PolicyOutput, SeedArray, TeamPolicy, View


@dataclass(slots=True)
class PolicyLearner:
    """Clipped policy updates on the latest batch, with a pull to a teacher where there is one."""

    team: PolicyTeam
    spec: EnvironmentSpec
    recipe: PolicyRecipe
    optimiser: torch.optim.Optimizer = field(init=False)
    opponents: Expert | None = field(init=False)
    teacher: Teacher | None = field(init=False)

    def __post_init__(self) -> None:
        self.optimiser = torch.optim.Adam(
            self.team.model.parameters(), self.recipe.learning_rate, eps=1e-5
        )
        self.opponents = _opponents(self.recipe, self.spec)
        self.teacher = Teacher.of(self.recipe.kickstart, self.spec, self.recipe.opponents)
        for other in (self.opponents, self.teacher and self.teacher.expert):
            moved(other, self.team.model.device)

    @property
    def against(self) -> str:
        """Digest of the expert that plays the sides that do not learn, or ``itself``."""
        return "itself" if self.opponents is None else self.opponents.digest

    def policy(self, moment: Moment) -> TeamPolicy:
        """Return the policy that plays the next batch."""
        own = NetworkPolicy(self.team.model, self.team.norm)
        if self.opponents is None:
            return own
        owner = tuple(int(not learns) for learns in self._learning())
        return _WithValue(MixedTeam((own, self.opponents), owner), own)

    def learn(self, trajectories: Trajectories, moment: Moment) -> Figures:
        """Learn from the batch at ``moment``; the learning rate falls linearly to zero."""
        recipe, model = self.recipe, self.team.model
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.learning_rate * moment.remaining
        learning = torch.tensor([float(learns) for learns in self._learning()])
        batch, explained = ppo.make_batch(
            trajectories, recipe, self.team.norm, model.side_of, learning
        )
        acting = recipe.start is None or moment.frames >= recipe.start.critic_frames
        model.actors.requires_grad_(acting)
        if self.teacher is not None and acting:
            n = recipe.episodes_per_batch
            seeds = episode_seeds(recipe.seed, moment.iteration * n, n, "train")
            batch = replace(batch, pull=self.teacher.pull(trajectories, seeds, moment.frames))
        rng = generator(recipe.seed, "minibatches", moment.iteration)
        statistics = ppo.update(model, self.optimiser, batch, recipe, rng)
        return {
            "entropy": statistics.entropy,
            "approximate_kl": statistics.approximate_kl,
            "clip_fraction": statistics.clip_fraction,
            "value_loss": statistics.value_loss,
            "explained_variance": explained,
            **({} if batch.pull is None else {"teacher_kl": statistics.teacher_kl}),
        }

    def state(self) -> State:
        """Return networks, optimiser and value normalisation."""
        return State(tensors_of(self._parts()))

    def restore(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        """Restore what :meth:`state` returned."""
        put_back(self._parts(), tensors)

    def _parts(self) -> dict[str, Part]:
        return {NORM: self.team.norm.moments, "model": self.team.model, "adam": self.optimiser}

    def _learning(self) -> list[bool]:
        """Return whether each agent learns."""
        spec, learn = self.spec, self.recipe.learn
        names = list(spec.sides)
        return [learn is None or names[k] in learn for k in spec.side_of]


class _WithValue:
    """A mixed team with the learner's values, which :class:`MixedTeam` drops."""

    def __init__(self, team: MixedTeam, learner: NetworkPolicy) -> None:
        self._team, self._learner = team, learner

    def start(self, seeds: SeedArray) -> tuple[object, ...]:
        return self._team.start(seeds)

    def act(
        self, view: View, memory: tuple[object, ...]
    ) -> tuple[PolicyOutput, tuple[object, ...]]:
        mixed, next_memory = self._team.act(view, memory)
        value = self._learner.act(view, memory[0])[0].value  # type: ignore[arg-type]
        return PolicyOutput(mixed.logits, None, value), next_memory


def _opponents(recipe: TrainRecipe, spec: EnvironmentSpec) -> Expert | None:
    if recipe.learn is None or set(recipe.learn) == set(spec.sides):
        return None
    learning = [list(spec.sides)[k] in recipe.learn for k in spec.side_of]
    return load(recipe.opponents or "bundled", spec, deciding=~np.array(learning))


@dataclass(frozen=True, slots=True)
class Teacher:
    """An expert that is run on the views of another policy's play."""

    expert: Expert
    settings: Kickstart
    actions: type[Learned]

    @classmethod
    def of(
        cls, settings: Kickstart | None, spec: EnvironmentSpec, opponents: str | None = None
    ) -> Teacher | None:
        """Return the teacher of a recipe; None where it names none.

        ``opponents`` are those of the recipe, which may also be the teacher's.

        Raises
        ------
        CheckpointError, MismatchError, UnknownNameError, UsageError
            There is no such expert, or it cannot be used here.
        """
        if settings is None:
            return None
        loaded = () if opponents is None else (opponents,)
        teacher = load(settings.teacher, spec, with_value=False, opponents=loaded)
        return cls(teacher, settings, distributions.learned(spec))

    def pull(self, trajectories: Trajectories, seeds: SeedArray, frames: int) -> Pull | None:
        """Return the pull to the teacher in ``trajectories``; None once its time is over.

        ``frames`` steps were played before them; ``seeds``, uint64 [B], are those of the episodes.
        """
        settings = self.settings
        left = 1.0 if settings.frames is None else 1 - frames / settings.frames
        if left <= 0:
            return None
        teacher = ActiveEpisodePolicy.begin(self.expert, seeds)
        logits = [
            teacher.act(trajectories.view(t), running).logits
            for t, running in enumerate(trajectories.valid)
        ]
        legal = torch.from_numpy(trajectories.steps["available_actions"])
        policy = self.actions(torch.from_numpy(np.stack(logits)), legal)
        return Pull(settings.weight * left, policy.kept(), settings.form == "proximal")
