"""Proximal policy optimisation of a team: targets, losses and updates on a batch of episodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd_offline import distributions
from kd_offline.advantage import generalised_advantage, side_mean, side_statistics, waiting
from kd_offline.distributions.base import Learned
from kd_offline.experts.algorithms.clipped_policy import PolicyRecipe
from kd_offline.experts.team import ActorCritic, steps_that_count
from kd_offline.experts.views import Seen
from kd_offline.rollout.collect import Trajectories


class ValueNorm:
    """Running mean and deviation of each side's returns, which are the units of the critics.

    Exponential moving averages with bias correction, variance floored at 1e-2 (MAPPO, Yu et al.,
    2022, and its published code).
    """

    def __init__(self, sides: int, decay: float = 0.99) -> None:
        self.decay = decay
        self.moments = torch.zeros(3, sides)  # mean, mean of squares, weight

    def update(self, returns: Tensor, weight: Tensor, side_of: Tensor) -> None:
        """Update with ``returns`` [T, B, N] where ``weight`` [T, B, N] is not zero."""
        for side in range(self.moments.shape[1]):
            members = side_of == side
            w, r = weight[..., members], returns[..., members]
            total = w.sum().clamp(min=1)
            fresh = torch.stack([(w * r).sum() / total, (w * r * r).sum() / total, torch.ones(())])
            self.moments[:, side].lerp_(fresh, 1 - self.decay)

    def statistics(self, side_of: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation for each agent, [N]."""
        weight = self.moments[2].clamp(min=1e-8)
        mean = self.moments[0] / weight
        variance = (self.moments[1] / weight - mean**2).clamp(min=1e-2)
        started = self.moments[2] > 0
        mean = torch.where(started, mean, torch.zeros(()))
        deviation = torch.where(started, variance.sqrt(), torch.ones(()))
        return mean[side_of], deviation[side_of]


@dataclass(frozen=True, slots=True)
class Pull:
    """Weight and target of the pull of a batch of episodes to a teacher.

    ``proximal``: the divergence in a step counts by the ratio of PPO, see :meth:`share`.
    """

    weight: float
    teacher: Tensor  # [T, B, N, K], what is kept of its policy
    proximal: bool = False

    def __getitem__(self, index: tuple[slice, Tensor]) -> Pull:
        """Return the pull of some steps of some episodes."""
        return replace(self, teacher=self.teacher[index])

    def to(self, device: torch.device) -> Pull:
        """Return the pull on ``device``."""
        return replace(self, teacher=self.teacher.to(device))

    def share(self, ratio: Tensor, clip: float) -> Tensor:
        """Return the weight of the divergence in each step, [T, B, N].

        ``max(ratio, 1 - clip)`` where the pull is proximal (Spigler, 2024): steps whose
        action has become much less probable go on counting, and give no gradient by the ratio.
        """
        return ratio.clamp(min=1 - clip) if self.proximal else torch.ones_like(ratio)

    def divergence(self, policy: Learned) -> Tensor:
        """Return KL(teacher || policy) in nats, [T, B, N]."""
        return policy.restored(self.teacher, policy.available).kl(policy)


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors of one batch of episodes; ``weight`` is 1 where an agent acted, else 0.

    ``pull`` is None where there is no teacher, ``full`` where actors see no full observations.
    """

    obs: Tensor  # [T, B, N, O]
    state: Tensor  # [T, B, S]
    available: Tensor  # bool [T, B, N, A]
    actions: Tensor  # int64 [T, B, N]
    logprob: Tensor  # [T, B, N]
    advantage: Tensor  # [T, B, N]
    target: Tensor  # [T, B, N], normalised return
    old_value: Tensor  # [T, B, N], normalised
    weight: Tensor  # [T, B, N]
    pull: Pull | None = None
    full: Tensor | None = None  # [T, B, N, F]

    @property
    def seen(self) -> Seen:
        """Inputs of actors and critics."""
        return Seen(self.obs, self.state, self.full)

    def take(self, rows: Tensor) -> Batch:
        """Return the episodes ``rows``, up to the last step in which any agent acts."""
        acting = self.weight[:, rows].flatten(1).any(1).nonzero()
        steps = int(acting[-1]) + 1 if len(acting) else 1
        return self._each(lambda x: x[:steps, rows])

    def to(self, device: torch.device) -> Batch:
        """Return the batch on ``device``."""
        return self._each(lambda x: x.to(device))

    def _each(self, change: Callable[[Any], Any]) -> Batch:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return Batch(**{name: change(x) for name, x in values.items() if x is not None})


def make_batch(
    trajectories: Trajectories,
    recipe: PolicyRecipe,
    norm: ValueNorm,
    side_of: Tensor,
    learning: Tensor,
) -> tuple[Batch, float]:
    """Return a batch of episodes with targets, and the critic's explained variance.

    The reward of a side is the mean of its agents' rewards. Its advantages are normalised over the
    steps of its own agents. ``learning``: float [N], 1 for agents that learn. Values in
    ``trajectories`` are in raw units.
    """
    step = {name: torch.from_numpy(values) for name, values in trajectories.steps.items()}
    valid = torch.from_numpy(trajectories.valid)
    reward = side_mean(step["reward"], side_of)
    advantage = generalised_advantage(
        reward,
        step["value"],
        torch.from_numpy(trajectories.final["value"]),
        step["terminated"],
        step["truncated"],
        gamma=recipe.gamma,
        gae_lambda=recipe.gae_lambda,
        bootstrap_on_truncation=recipe.bootstrap_on_truncation,
        waits=waiting(step["alive"], step["terminated"] | step["truncated"]),
    )
    weight = (step["alive"] & valid.unsqueeze(-1)).float() * learning
    returns = advantage + step["value"]
    norm.update(returns, weight, side_of)
    mean, deviation = norm.statistics(side_of)
    center, spread = side_statistics(advantage, weight, side_of)
    usual, _ = side_statistics(returns, weight, side_of)
    explained = 1 - (advantage.square() * weight).sum() / (
        ((returns - usual).square() * weight).sum() + 1e-8
    )
    batch = Batch(
        obs=step["obs"],
        state=step["state"],
        available=step["available_actions"],
        actions=step["actions"],
        logprob=step["behaviour_logprob"],
        advantage=(advantage - center) / (spread + 1e-8),
        target=(returns - mean) / deviation,
        old_value=(step["value"] - mean) / deviation,
        weight=weight,
        full=step.get("obs_full"),
    )
    return batch, float(explained)


@dataclass(frozen=True, slots=True)
class UpdateStatistics:
    """Means over the gradient steps of one batch."""

    entropy: float
    approximate_kl: float
    clip_fraction: float
    value_loss: float
    teacher_kl: float  # zero without a teacher


def update(
    model: ActorCritic,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    recipe: PolicyRecipe,
    rng: np.random.Generator,
) -> UpdateStatistics:
    """Take ``epochs x minibatches`` gradient steps on one batch."""
    episodes = batch.obs.shape[1]
    rows = []
    for _ in range(recipe.epochs):
        order = torch.from_numpy(rng.permutation(episodes))
        for chosen in order.tensor_split(min(recipe.minibatches, episodes)):
            loss, statistics = _loss(model, batch.take(chosen), recipe)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
            optimiser.step()
            rows.append(statistics)
    return UpdateStatistics(*torch.stack(rows).mean(0).tolist())


def _loss(model: ActorCritic, batch: Batch, recipe: PolicyRecipe) -> tuple[Tensor, Tensor]:
    lengths = steps_that_count(batch.weight > 0)
    batch = batch.to(model.device)
    previous_actions = torch.cat([torch.full_like(batch.actions[:1], -1), batch.actions[:-1]])
    logits = model.act_episodes(batch.seen, previous_actions, lengths)
    value = model.value_episodes(batch.seen, lengths)
    policy = distributions.learned(model.spec)(logits, batch.available)
    total = batch.weight.sum().clamp(min=1)

    def mean(x: Tensor) -> Tensor:
        return (x * batch.weight).sum() / total

    change = policy.log_prob(batch.actions) - batch.logprob
    ratio = change.exp()
    clipped = ratio.clamp(1 - recipe.clip, 1 + recipe.clip)
    gain = mean(torch.minimum(ratio * batch.advantage, clipped * batch.advantage))
    entropy = mean(policy.entropy())
    clipped_value = batch.old_value + (value - batch.old_value).clamp(-recipe.clip, recipe.clip)
    errors = [_huber(v - batch.target, recipe.huber_delta) for v in (value, clipped_value)]
    value_loss = mean(torch.maximum(*errors))
    loss = value_loss - gain - recipe.entropy * entropy
    away = entropy.new_zeros(())
    if batch.pull is not None:
        divergence = batch.pull.divergence(policy)
        away = mean(divergence)
        pulled = mean(batch.pull.share(ratio, recipe.clip) * divergence)
        loss = loss + batch.pull.weight * pulled
    with torch.no_grad():
        kl = mean(ratio - 1 - change)
        fraction = mean((ratio != clipped).float())
    figures = [entropy.detach(), kl, fraction, value_loss.detach(), away.detach()]
    return loss, torch.stack(figures)


def _huber(error: Tensor, delta: float) -> Tensor:
    return torch.nn.functional.huber_loss(
        error, torch.zeros_like(error), reduction="none", delta=delta
    )
