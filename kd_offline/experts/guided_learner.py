"""The learner of DDN (Zhou et al., 2025): a guiding network, and a local one distilled from it.

The losses of the local network are Eq. 6. A bonus for new states, by random network distillation
(Burda et al., 2018, arXiv 1810.12894), may be added to the reward.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kd_offline.experts.algorithms.base import Figures, Left, Moment
from kd_offline.experts.algorithms.ddn import Divergence, LocalDistillation, Novelty, Recipe
from kd_offline.experts.algorithms.mixed_values import MixedValues
from kd_offline.experts.algorithms.state import Part
from kd_offline.experts.guided_team import LocalTeam
from kd_offline.experts.optimisers import new_optimiser
from kd_offline.experts.replay import Batch
from kd_offline.experts.team import ActorCritic, steps_that_count
from kd_offline.experts.value_learner import UpdateStatistics, ValueLearner, mean_squared_error
from kd_offline.experts.value_team import MixedAgents, ValuePolicy, ValueTeam
from kd_offline.experts.views import state_width
from kd_offline.networks.mixers import SumMixer, draw_weights
from kd_offline.rollout.collect import Trajectories
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.seeding import generator
from kd_offline.types import TeamPolicy

_LARGEST = 5.0  # standardised feature of a state that the networks are given
_LEAST = 1e-4  # deviation that is divided by


@dataclass(frozen=True, slots=True)
class NetworkOutputs:
    """Outputs of one of the two networks for the decisions of a batch, [D, ...]."""

    values: Tensor  # [D, A]
    s_hat: Tensor  # [D, d]
    feature: Tensor  # [D, F]


@dataclass(frozen=True, slots=True)
class Losses:
    """Losses of the local network as means over decisions; none teaches the guiding network."""

    block: Tensor  # L_B
    value: Tensor  # L_Q
    feature: Tensor  # L_F
    agreement: Tensor  # share of decisions with the same greedy legal action

    def total(self, settings: LocalDistillation) -> Tensor:
        """Return the weighted sum, L_local (Eq. 7)."""
        return (
            settings.block_weight * self.block
            + settings.value_weight * self.value
            + settings.feature_weight * self.feature
        )


def losses(
    guiding: NetworkOutputs, local: NetworkOutputs, legal: Tensor, settings: LocalDistillation
) -> Losses:
    """Return the losses of decisions; ``legal``: bool [D, A], at least one action each."""
    block = (local.s_hat - guiding.s_hat).square().mean()
    if settings.value_loss == "kl":
        value = _divergence(guiding.values, local.values, legal, settings.temperature).mean()
    else:
        value = _squared(guiding.values, local.values, legal, centred=settings.centred).mean()
    everything = torch.ones_like(guiding.feature, dtype=torch.bool)
    feature = _compare(settings.feature_loss, guiding.feature, local.feature, everything, settings)
    same = _greedy(guiding.values, legal) == _greedy(local.values, legal)
    return Losses(block, value, feature, same.float().mean())


def _compare(
    kind: Divergence, guiding: Tensor, local: Tensor, legal: Tensor, settings: LocalDistillation
) -> Tensor:
    if kind == "kl":
        return _divergence(guiding, local, legal, settings.feature_temperature).mean()
    return functional.mse_loss(local, guiding)


def _divergence(guiding: Tensor, local: Tensor, legal: Tensor, temperature: float) -> Tensor:
    """Return KL(softmax(guiding / t) || softmax(local / t)) over legal entries, [D]."""
    teacher, student = (
        (x / temperature).masked_fill(~legal, -torch.inf).log_softmax(-1) for x in (guiding, local)
    )
    # Illegal entries have no probability, and their difference no number.
    gap = (teacher - student).masked_fill(~legal, 0.0)
    return (teacher.exp() * gap).sum(-1)


def _squared(guiding: Tensor, local: Tensor, legal: Tensor, *, centred: bool) -> Tensor:
    """Return the mean squared difference over legal entries, [D]."""
    count = legal.sum(-1, keepdim=True)
    gap = (local - guiding) * legal
    if centred:
        gap = (gap - gap.sum(-1, keepdim=True) / count) * legal
    return gap.square().sum(-1) / count.squeeze(-1)


def _greedy(values: Tensor, legal: Tensor) -> Tensor:
    return values.masked_fill(~legal, -torch.inf).argmax(-1)


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
        distillation = recipe.distillation
        self.local_optimiser = new_optimiser(
            distillation.optimiser, local.parameters(), distillation.learning_rate
        )
        self.novelty: RandomDistillation | None = None
        if recipe.novelty.coefficient:
            rng = generator(recipe.seed, "novelty", 0)
            self.novelty = RandomDistillation(state_width(spec), recipe.novelty, rng).to(device)
            self.novelty_optimiser = torch.optim.Adam(
                self.novelty.learned.parameters(), recipe.novelty.learning_rate
            )
        self._rows: list[Figures] = []

    def policy(self, moment: Moment) -> TeamPolicy:
        """Return the policy of the batch at ``moment``; after the last one the guiding network."""
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
        name = f"local_{self.settings.distillation.optimiser}"
        parts |= {"local": self.local.model, name: self.local_optimiser}
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
            guiding = _outputs(self.team.actors, batch, decides)
        local = _outputs(self.local.actors, batch, decides)
        settings = self.settings.distillation
        found = losses(guiding, local, batch.available[:-1][decides], settings)
        self.local_optimiser.zero_grad()
        found.total(settings).backward()  # type: ignore[no-untyped-call]
        parameters = self.local.actors.parameters()
        torch.nn.utils.clip_grad_norm_(parameters, self.recipe.max_grad_norm)
        self.local_optimiser.step()
        return found


def _outputs(actors: ActorCritic, batch: Batch, decides: Tensor) -> NetworkOutputs:
    """Return what actors give for the decisions of a batch, bool [T, B, N]."""
    first = torch.full_like(batch.actions[:1], -1)
    previous = torch.cat([first, batch.actions])
    steps = actors.episodes(batch.seen, previous, steps_that_count(batch.alive).cpu(), taps=True)
    values, s_hat, feature = (
        layer[:-1][decides] for layer in (steps.logits, steps.taps["s_hat"], steps.taps["feature"])
    )
    return NetworkOutputs(values, s_hat, feature)


class Moments(nn.Module):
    """Running mean and deviation of rows of ``width`` numbers (Chan et al., 1979)."""

    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        for name, shape in (("count", ()), ("mean", (width,)), ("squares", (width,))):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    def add(self, rows: Tensor) -> None:
        """Count in ``rows``: float [R, width]."""
        rows = rows.double()
        if not len(rows):
            return
        total, mean = self.count + len(rows), rows.mean(0)
        gap = mean - self.mean
        self.squares += (rows - mean).square().sum(0) + gap.square() * self.count * len(
            rows
        ) / total
        self.mean += gap * len(rows) / total
        self.count.copy_(total)

    def standardised(self, rows: Tensor) -> Tensor:
        """Return rows less the mean, divided by the deviation: float32 [..., width]."""
        deviation = (self.squares / self.count.clamp(min=1)).sqrt().clamp(min=_LEAST)
        return ((rows - self.mean) / deviation).float()


class RandomDistillation(nn.Module):
    """A fixed random network of the state, one that learns it, and the moments of both.

    ``rng`` draws the weights of both networks.
    """

    def __init__(self, state: int, settings: Novelty, rng: np.random.Generator) -> None:
        super().__init__()
        self.settings = settings
        width = settings.width
        self.fixed, self.learned = (
            nn.Sequential(
                nn.Linear(state, width),
                nn.ReLU(),
                nn.Linear(width, width),
                nn.ReLU(),
                nn.Linear(width, width),
            )
            for _ in range(2)
        )
        for network in (self.fixed, self.learned):
            draw_weights(network, rng)
        self.fixed.requires_grad_(False)
        self.states, self.errors = Moments(state), Moments(1)

    def error(self, state: Tensor) -> Tensor:
        """Return the mean squared error of the learned network, [...], of ``state`` [..., S]."""
        if self.settings.standardise_state:
            state = self.states.standardised(state).clamp(-_LARGEST, _LARGEST)
        return torch.as_tensor((self.learned(state) - self.fixed(state)).square().mean(-1))

    def bonus(self, error: Tensor, frames: int, rng: np.random.Generator) -> Tensor:
        """Return the bonus of steps with ``error`` [...], after ``frames`` joint steps.

        Each step keeps its bonus with the settings' probability.
        """
        settings = self.settings
        coefficient = settings.coefficient * max(0.0, 1 - frames / settings.frames)
        kept = torch.from_numpy(rng.random(tuple(error.shape)) < settings.keep).to(error.device)
        if settings.standardise_bonus:
            error = self.errors.standardised(error.unsqueeze(-1)).squeeze(-1)
        return coefficient * error * kept
