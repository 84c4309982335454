"""What MAPPO and IPPO (Yu et al., 2022) do with a batch of episodes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch

from kd_offline.experts import ppo
from kd_offline.experts.expert import NetworkPolicy
from kd_offline.experts.kickstart import Teacher
from kd_offline.experts.load import AnyExpert, load
from kd_offline.experts.replay import Replay
from kd_offline.experts.team import ActorCritic
from kd_offline.policies import MixedTeam
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.expert import ExpertCard, TrainRecipe
from kd_offline.seeding import episode_seeds, generator
from kd_offline.trajectories import Trajectories
from kd_offline.types import PolicyOutput, SeedArray, TeamPolicy, View

Figures = dict[str, float]


@dataclass(slots=True)
class PolicyLearner:
    """Clipped policy updates on the last batch alone, drawn to a teacher where there is one."""

    card: ExpertCard
    model: ActorCritic
    norm: ppo.ValueNorm
    optimiser: torch.optim.Optimizer
    replay: Replay | None = None
    opponents: AnyExpert | None = field(init=False)
    teacher: Teacher | None = field(init=False)

    def __post_init__(self) -> None:
        recipe, spec = self.card.recipe, self.card.environment
        self.opponents = _opponents(recipe, spec)
        self.teacher = Teacher.of(recipe.kickstart, spec, recipe.opponents)

    @property
    def against(self) -> str:
        """Digest of the expert that plays the sides that do not learn, or ``itself``."""
        return "itself" if self.opponents is None else self.opponents.digest

    @property
    def targets(self) -> None:
        """There is no slower copy of the networks."""

    def policy(self, frames: int) -> TeamPolicy:
        """Return who plays, whatever was played before."""
        own = NetworkPolicy(self.model, self.norm)
        if self.opponents is None:
            return own
        owner = tuple(int(not learns) for learns in self._learning())
        return _WithValue(MixedTeam((own, self.opponents), owner), own)

    def learn(self, played: Trajectories, iteration: int, frames: int) -> Figures:
        """Learn from batch ``iteration``."""
        recipe = self.card.recipe
        learning = torch.tensor([float(learns) for learns in self._learning()])
        batch, explained = ppo.make_batch(played, recipe, self.norm, self.model.side_of, learning)
        acting = recipe.start is None or frames >= recipe.start.critic_frames
        self.model.actors.requires_grad_(acting)
        if self.teacher is not None and acting:
            n = recipe.episodes_per_batch
            seeds = episode_seeds(recipe.seed, iteration * n, n, "train")
            batch = replace(batch, pull=self.teacher.pull(played, seeds, frames))
        rng = generator(recipe.seed, "minibatches", iteration)
        statistics = ppo.update(self.model, self.optimiser, batch, recipe, rng)
        return {
            "entropy": statistics.entropy,
            "approximate_kl": statistics.approximate_kl,
            "clip_fraction": statistics.clip_fraction,
            "value_loss": statistics.value_loss,
            "explained_variance": explained,
            **({} if batch.pull is None else {"teacher_kl": statistics.teacher_kl}),
        }

    def _learning(self) -> list[bool]:
        """Return whether each agent learns."""
        spec, learn = self.card.environment, self.card.recipe.learn
        names = list(spec.sides)
        return [learn is None or names[k] in learn for k in spec.side_of]


class _WithValue:
    """A mixed team that keeps the learner's values, which a mixture leaves out."""

    def __init__(self, team: MixedTeam, learner: NetworkPolicy) -> None:
        self._team, self._learner = team, learner

    def start(self, seeds: SeedArray) -> tuple[object, ...]:
        return self._team.start(seeds)

    def act(
        self, view: View, memory: tuple[object, ...]
    ) -> tuple[PolicyOutput, tuple[object, ...]]:
        mixed, after = self._team.act(view, memory)
        value = self._learner.act(view, memory[0])[0].value  # type: ignore[arg-type]
        return PolicyOutput(mixed.logits, None, value), after


def _opponents(recipe: TrainRecipe, spec: EnvironmentSpec) -> AnyExpert | None:
    if recipe.learn is None or set(recipe.learn) == set(spec.sides):
        return None
    learning = [list(spec.sides)[k] in recipe.learn for k in spec.side_of]
    return load(recipe.opponents or "bundled", spec, deciding=~np.array(learning))
