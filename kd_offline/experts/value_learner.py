"""Q-learning of a team from replayed episodes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kd_offline.advantage import generalised_advantage, side_mean
from kd_offline.experts.algorithms.base import Figures, Moment, State
from kd_offline.experts.algorithms.mixed_values import ValueRecipe
from kd_offline.experts.algorithms.state import Part, put_back, tensors_of
from kd_offline.experts.joint_critics import JointCritic
from kd_offline.experts.mixing import best_legal
from kd_offline.experts.optimisers import new_optimiser
from kd_offline.experts.policy_team import NORM
from kd_offline.experts.replay import Batch, Replay
from kd_offline.experts.value_team import MixedAgents, ValuePolicy, ValueTeam, unit
from kd_offline.networks.mixers import JointAction
from kd_offline.rollout.collect import Trajectories
from kd_offline.seeding import generator
from kd_offline.types import TeamPolicy


class Networks(nn.Module):
    """All that learns: agents with their mixer, and a joint critic where the algorithm has one."""

    def __init__(self, model: MixedAgents, joint: JointCritic | None = None) -> None:
        super().__init__()
        self.model = model
        self.joint = joint


@dataclass(frozen=True, slots=True)
class JointValues:
    """Values of the joint actions of a batch's steps, float [T, B] each, in the networks' units."""

    mixed: Tensor  # the mixer's value of the executed actions
    target: Tensor  # what values should be; no gradient
    joint: Unrestricted | None = None  # where the algorithm has a joint critic

    @property
    def unrestricted(self) -> Unrestricted:
        """The values of the joint critic."""
        if self.joint is None:
            msg = "the algorithm states a loss of joint values and makes no joint critic"
            raise RuntimeError(msg)
        return self.joint


@dataclass(frozen=True, slots=True)
class Unrestricted:
    """Values of a joint critic, and what its losses compare them with, float [T, B] each."""

    taken: Tensor  # of the executed actions
    best: Tensor  # of the agents' greedy legal actions
    mixed_best: Tensor  # the mixer's value of the greedy legal actions
    greedy: Tensor  # bool, where every agent executed its greedy action


def mean_squared_error(values: JointValues, recipe: ValueRecipe) -> Tensor:
    """Return the squared TD error of the mixed values at every step, float [T, B]."""
    return (values.mixed - values.target).square()


Loss = Callable[[JointValues, ValueRecipe], Tensor]
"""From values and settings to the loss of every step, float [T, B]."""


@dataclass(slots=True)
class ValueLearner:
    """Q-learning of a team from replayed episodes.

    Rewards are divided by the standard deviation of the returns of the first batch, so that
    settings carry over between tasks. This unit is stored in the team's ``norm``.
    """

    team: ValueTeam
    recipe: ValueRecipe
    loss_of: Loss = mean_squared_error
    joint: JointCritic | None = None
    replay: Replay = field(init=False)
    networks: Networks = field(init=False)
    targets: Networks = field(init=False)
    optimiser: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        self.networks = Networks(self.team.model, self.joint).to(self.team.actors.device)
        self.replay = Replay(self.recipe.q_learning.buffer_episodes)
        self.targets = copy.deepcopy(self.networks).requires_grad_(False)
        recipe, parameters = self.recipe, self.networks.parameters()
        self.optimiser = new_optimiser(recipe.optimiser, parameters, recipe.learning_rate)

    @property
    def against(self) -> str:
        """None: there are no opponents."""
        return "itself"

    def policy(self, moment: Moment) -> TeamPolicy:
        """Return the policy that plays the batch at ``moment``: epsilon-greedy, without values."""
        epsilon = self._epsilon(moment.frames)
        return ValuePolicy(self.team.model, self.team.norm, epsilon, with_value=False)

    def learn(self, trajectories: Trajectories, moment: Moment) -> Figures:
        """Store the batch and learn from the replay; the learning rate falls linearly to zero."""
        recipe, settings = self.recipe, self.recipe.q_learning
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.learning_rate * moment.remaining
        if moment.iteration == 0:
            self._measure(trajectories)
        self.replay = self.replay.added(trajectories)
        rng = generator(recipe.seed, "replay", moment.iteration)
        scale = unit(self.team.norm)
        rows = []
        for k in range(settings.updates_per_batch):
            batch = self.replay.sample(settings.batch_episodes, rng).to(self.team.actors.device)
            updates_done = moment.iteration * settings.updates_per_batch + k + 1
            rows.append(self._update(batch, scale, moment, updates_done))
            if updates_done % settings.target_every == 0:
                self.targets.load_state_dict(self.networks.state_dict())
        return {
            "epsilon": self._epsilon(moment.frames),
            "td_loss": float(np.mean([row.td_loss for row in rows])) ** 0.5 * scale,
            "q_tot": float(np.mean([row.q_tot for row in rows])) * scale,
            "target": float(np.mean([row.target for row in rows])) * scale,
        }

    def _update(self, batch: Batch, scale: float, moment: Moment, number: int) -> UpdateStatistics:
        """Take gradient step ``number`` of the training, counted from 1."""
        nets = self.networks, self.targets
        return update(*nets, self.optimiser, batch, self.recipe, scale, self.loss_of)

    def state(self) -> State:
        """Return networks, targets, optimiser, the unit of values, and the replayed episodes."""
        return State(tensors_of(self._parts()), deferred=self.replay.tensors)

    def restore(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        """Restore what :meth:`state` returned."""
        self.replay = self.replay.restored(tensors)
        put_back(self._parts(), tensors)

    def _parts(self) -> dict[str, Part]:
        parts: dict[str, Part] = {
            NORM: self.team.norm.moments,
            "model": self.team.model,
            "targets": self.targets.model,
            self.recipe.optimiser: self.optimiser,
        }
        if self.networks.joint is not None and self.targets.joint is not None:
            parts |= {"joint": self.networks.joint, "joint_targets": self.targets.joint}
        return parts

    def _epsilon(self, frames: int) -> float:
        """Return the probability of a random action after ``frames`` joint steps."""
        settings = self.recipe.q_learning
        share = min(1.0, frames / settings.epsilon_frames)
        return settings.epsilon_start + share * (settings.epsilon_end - settings.epsilon_start)

    def _measure(self, trajectories: Trajectories) -> None:
        """Set the unit of values to the spread of the discounted returns of the first batch."""
        steps = {name: torch.from_numpy(values) for name, values in trajectories.steps.items()}
        valid = torch.from_numpy(trajectories.valid)
        reward = side_mean(steps["reward"], self.team.model.side_of)[..., 0] * valid
        returns = lambda_returns(
            reward,
            torch.zeros(len(reward) + 1, reward.shape[1]),
            steps["terminated"] & valid,
            steps["truncated"] & valid,
            gamma=self.recipe.gamma,
            td_lambda=1.0,
            bootstrap_on_truncation=False,
        )
        side = torch.zeros(1, dtype=torch.int64)
        self.team.norm.update(returns.unsqueeze(-1), valid.unsqueeze(-1).float(), side)


@dataclass(frozen=True, slots=True)
class UpdateStatistics:
    """Metrics of one gradient step, in the networks' units."""

    td_loss: float
    q_tot: float
    target: float


def lambda_returns(
    reward: Tensor,
    value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    *,
    gamma: float,
    td_lambda: float,
    bootstrap_on_truncation: bool,
) -> Tensor:
    """Return the TD(lambda) targets of whole episodes, padded at the end.

    They are the generalised advantages plus the values that these are relative to.

    Parameters
    ----------
    reward : float [T, B]
    value : float [T + 1, B]
        What the team expects at each view, the one after the last step included.
    terminated, truncated : bool [T, B]

    Returns
    -------
    float [T, B]; steps behind an episode's end follow no rule.
    """
    # Each episode ends at its own row, so what follows it must be taken there.
    ended = terminated | truncated
    final = (value[1:] * ended).sum(0)
    advantage = generalised_advantage(
        reward.unsqueeze(-1),
        value[:-1].unsqueeze(-1),
        final.unsqueeze(-1),
        terminated,
        truncated,
        gamma=gamma,
        gae_lambda=td_lambda,
        bootstrap_on_truncation=bootstrap_on_truncation,
    )
    return advantage.squeeze(-1) + value[:-1]


def update(
    networks: Networks,
    targets: Networks,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    recipe: ValueRecipe,
    unit: float,
    loss_of: Loss = mean_squared_error,
) -> UpdateStatistics:
    """Take one gradient step; ``unit`` is one unit of the networks' values in raw reward."""
    values = _joint_values(networks, targets, batch, recipe, unit)
    loss = loss_of(values, recipe)[batch.valid].mean()
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(networks.parameters(), recipe.max_grad_norm)
    optimiser.step()
    mixed, target = values.mixed[batch.valid].detach(), values.target[batch.valid]
    error = functional.mse_loss(mixed, target)
    return UpdateStatistics(*(float(x) for x in (error, mixed.mean(), target.mean())))


def _joint_values(
    networks: Networks, targets: Networks, batch: Batch, recipe: ValueRecipe, unit: float
) -> JointValues:
    """Return the values of the executed and of the greedy joint actions, and their targets."""
    previous_actions = torch.cat([torch.full_like(batch.actions[:1], -1), batch.actions])
    model, alive, state = networks.model, batch.alive[:-1], batch.state[:-1]
    q = model.values(batch.seen, previous_actions, batch.alive)
    best = greedy_actions(q.detach(), batch.available)
    target = _target(networks, targets, q.detach(), batch, previous_actions, recipe, unit)
    chosen_values = _values_of(q[:-1], batch.actions, alive)
    best_values = _values_of(q[:-1], best[:-1], alive)
    joint_action = JointAction(batch.actions.masked_fill(~alive, -1), best_values)
    mixed = model.mixer(chosen_values, state, joint_action)
    if networks.joint is None:
        return JointValues(mixed, target)
    features = networks.joint.features(batch.seen, previous_actions, batch.alive)[:-1]
    unrestricted = Unrestricted(
        taken=networks.joint(features, batch.actions, alive, state),
        best=networks.joint(features, best[:-1], alive, state),
        mixed_best=model.mixer(best_values, state),
        greedy=((batch.actions == best[:-1]) | ~alive).all(-1),
    )
    return JointValues(mixed, target, unrestricted)


@torch.no_grad()
def _target(
    networks: Networks,
    targets: Networks,
    q: Tensor,
    batch: Batch,
    previous_actions: Tensor,
    recipe: ValueRecipe,
    unit: float,
) -> Tensor:
    """Return the targets of the executed actions' values, float [T, B].

    The target networks evaluate the actions that the team would choose next. The learning networks
    choose them (double Q-learning, van Hasselt et al., 2016), or the target networks do.
    """
    settings, model = recipe.q_learning, networks.model
    target_q = targets.model.values(batch.seen, previous_actions, batch.alive)
    chosen = greedy_actions(q if settings.double else target_q, batch.available)
    if targets.joint is None:
        values = _values_of(target_q, chosen, batch.alive)
        best = best_legal(target_q, batch.available) * batch.alive
        joint_action = JointAction(chosen.masked_fill(~batch.alive, -1), best)
        future = targets.model.mixer(values, batch.state, joint_action)
    else:
        features = targets.joint.features(batch.seen, previous_actions, batch.alive)
        future = targets.joint(features, chosen, batch.alive, batch.state)
    return lambda_returns(
        side_mean(batch.reward, model.side_of)[..., 0] / unit,
        future,
        batch.terminated,
        batch.truncated,
        gamma=recipe.gamma,
        td_lambda=settings.td_lambda,
        bootstrap_on_truncation=recipe.bootstrap_on_truncation,
    )


def greedy_actions(q: Tensor, available: Tensor) -> Tensor:
    """Return the legal action of the largest value: int64 [..., N] of float [..., N, A]."""
    return q.masked_fill(~available, -torch.inf).argmax(-1)


def _values_of(q: Tensor, actions: Tensor, alive: Tensor) -> Tensor:
    """Return the values of ``actions`` [..., N], zero of agents that are not alive."""
    return q.gather(-1, actions.unsqueeze(-1)).squeeze(-1) * alive
