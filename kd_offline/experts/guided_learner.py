"""Q-learning of DDN's guiding network, and the distillation of its local one beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from kd_offline.experts.algorithms.base import Figures, Left, Moment
from kd_offline.experts.algorithms.ddn import Recipe
from kd_offline.experts.algorithms.mixed_values import MixedValues
from kd_offline.experts.algorithms.state import Part
from kd_offline.experts.guided_team import LocalTeam
from kd_offline.experts.local_distillation import Losses, Said, losses
from kd_offline.experts.novelty import RandomDistillation
from kd_offline.experts.replay import Batch
from kd_offline.experts.team import ActorCritic, steps_that_count
from kd_offline.experts.value_learner import UpdateStatistics, ValueLearner, mean_squared_error
from kd_offline.experts.value_team import MixedAgents, ValuePolicy, ValueTeam
from kd_offline.experts.views import state_width
from kd_offline.networks.mixers import SumMixer
from kd_offline.rollout.collect import Trajectories
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.seeding import generator
from kd_offline.types import TeamPolicy


class GuidedLearner(ValueLearner):
    """Learns the guiding network as a value learner does, and the local one from it.

    After every gradient step of the guiding network the local one takes a step on the same
    episodes, towards what the guiding network now gives.
    """

    def __init__(
        self, team: ValueTeam, spec: EnvironmentSpec, recipe: Recipe, base: MixedValues
    ) -> None:
        joint = base.joint_critic(spec, recipe)
        super().__init__(team, recipe, base.loss or mean_squared_error, joint)
        self.settings = recipe
        own = recipe.architecture.model_copy(update={"view": "local"})
        self.local_recipe = recipe.model_copy(update={"architecture": own})
        rng, device = generator(recipe.seed, "local network", 0), team.actors.device
        local = ActorCritic(spec, own, None, rng)
        self.local = LocalTeam(MixedAgents(local, SumMixer()).to(device), team.norm, team.epsilon)
        rate = recipe.distillation.learning_rate
        self.local_optimiser = torch.optim.Adam(local.parameters(), rate, eps=1e-5)
        self.novelty: RandomDistillation | None = None
        if recipe.novelty.coefficient:
            rng = generator(recipe.seed, "novelty", 0)
            self.novelty = RandomDistillation(state_width(spec), recipe.novelty, rng).to(device)
            self.novelty_optimiser = torch.optim.Adam(
                self.novelty.learned.parameters(), recipe.novelty.learning_rate
            )
        self._rows: list[Figures] = []

    def policy(self, moment: Moment) -> TeamPolicy:
        """Return who plays the batch at ``moment``; after the last one the guiding network."""
        if self.settings.distillation.acts == "guiding" or moment.frames >= self.recipe.frames:
            return super().policy(moment)
        epsilon = self._epsilon(moment.frames)
        return ValuePolicy(self.local.model, self.team.norm, epsilon, with_value=False)

    def learn(self, trajectories: Trajectories, moment: Moment) -> Figures:
        """Store the batch and learn from the replay; learning rates fall linearly to zero."""
        rates = {self.local_optimiser: self.settings.distillation.learning_rate}
        if self.novelty is not None:
            rates[self.novelty_optimiser] = self.settings.novelty.learning_rate
            states = torch.from_numpy(trajectories.steps["state"][trajectories.valid])
            self.novelty.states.add(states.to(self.team.actors.device))
        for optimiser, rate in rates.items():
            for group in optimiser.param_groups:
                group["lr"] = rate * moment.remaining
        self._rows = []
        figures = super().learn(trajectories, moment)
        means = {name: float(np.mean([row[name] for row in self._rows])) for name in self._rows[0]}
        return figures | means

    def students(self) -> Mapping[str, Left]:
        """Return the local network as an expert of its own."""
        policy = ValuePolicy(self.local.model, self.team.norm, self.team.epsilon, with_value=False)
        return {"local": Left(self.local_recipe, self.local, policy)}

    def _parts(self) -> dict[str, Part]:
        parts = super()._parts()
        parts |= {"local": self.local.model, "local_adam": self.local_optimiser}
        if self.novelty is not None:
            parts |= {"novelty": self.novelty, "novelty_adam": self.novelty_optimiser}
        return parts

    def _update(self, batch: Batch, scale: float, moment: Moment, number: int) -> UpdateStatistics:
        batch, bonus = self._rewarded(batch, scale, moment, number)
        row = super()._update(batch, scale, moment, number)
        found = self._distil(batch)
        self._rows.append(
            {
                "block_loss": float(found.block.detach()),
                "value_distillation": float(found.value.detach()),
                "feature_loss": float(found.feature.detach()),
                "agreement": float(found.agreement),
                "bonus": bonus,
            }
        )
        return row

    def _rewarded(
        self, batch: Batch, scale: float, moment: Moment, number: int
    ) -> tuple[Batch, float]:
        """Return the batch with the bonus of its states, and its mean in raw reward units.

        A standardised bonus is in units of values, a raw one in units of reward as in the paper.
        """
        if self.novelty is None:
            return batch, 0.0
        error = self.novelty.error(batch.state[:-1])
        counted = error[batch.valid]
        self.novelty.errors.add(counted.detach().unsqueeze(-1))
        rng = generator(self.recipe.seed, "novelty kept", number)
        bonus = self.novelty.bonus(error.detach(), moment.frames, rng)
        bonus *= scale if self.settings.novelty.standardise_bonus else 1.0
        self.novelty_optimiser.zero_grad()
        counted.mean().backward()  # type: ignore[no-untyped-call]
        self.novelty_optimiser.step()
        rewarded = replace(batch, reward=batch.reward + bonus.unsqueeze(-1))
        return rewarded, float(bonus[batch.valid].mean())

    def _distil(self, batch: Batch) -> Losses:
        """Take a step of the local network towards the guiding one."""
        decides = batch.alive[:-1] & batch.valid.unsqueeze(-1) & batch.available[:-1].any(-1)
        with torch.no_grad():
            guiding = _said(self.team.actors, batch, decides)
        local = _said(self.local.actors, batch, decides)
        settings = self.settings.distillation
        found = losses(guiding, local, batch.available[:-1][decides], settings)
        self.local_optimiser.zero_grad()
        found.total(settings).backward()  # type: ignore[no-untyped-call]
        parameters = self.local.actors.parameters()
        torch.nn.utils.clip_grad_norm_(parameters, self.recipe.max_grad_norm)
        self.local_optimiser.step()
        return found


def _said(actors: ActorCritic, batch: Batch, decides: Tensor) -> Said:
    """Return what actors give for the decisions of a batch, bool [T, B, N]."""
    first = torch.full_like(batch.actions[:1], -1)
    previous = torch.cat([first, batch.actions])
    said = actors.episodes(batch.seen, previous, steps_that_count(batch.alive).cpu(), taps=True)
    values, s_hat, feature = (
        layer[:-1][decides] for layer in (said.logits, said.taps["s_hat"], said.taps["feature"])
    )
    return Said(values, s_hat, feature)
