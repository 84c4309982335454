"""Q-learning of a team from replayed episodes: keep every batch, learn from many like it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kd_offline.advantage import generalised_advantage, side_mean
from kd_offline.experts.algorithms.base import Figures, Moment, State
from kd_offline.experts.algorithms.mixed_values import ValueRecipe
from kd_offline.experts.algorithms.state import Part, put_back, tensors_of
from kd_offline.experts.mixing import best_legal
from kd_offline.experts.policy_team import NORM
from kd_offline.experts.replay import Batch, Replay
from kd_offline.experts.value_team import MixedAgents, ValuePolicy, ValueTeam, unit
from kd_offline.rollout.collect import Trajectories
from kd_offline.seeding import generator
from kd_offline.types import TeamPolicy


@dataclass(slots=True)
class ValueLearner:
    """Q-learning of a team from replayed episodes.

    Rewards are divided by one number, the deviation of the returns of the first batch, so that
    settings carry over from one task to another. It is kept in the team's ``norm``.
    """

    team: ValueTeam
    recipe: ValueRecipe
    replay: Replay = field(init=False)
    targets: MixedAgents = field(init=False)
    optimiser: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        model = self.team.model
        self.replay = Replay(self.recipe.q_learning.buffer_episodes)
        self.targets = copy.deepcopy(model).requires_grad_(False)
        self.optimiser = torch.optim.Adam(model.parameters(), self.recipe.learning_rate, eps=1e-5)

    @property
    def against(self) -> str:
        """There are no opponents."""
        return "itself"

    def policy(self, moment: Moment) -> TeamPolicy:
        """Return who plays the batch at ``moment``: epsilon-greedy, without values."""
        epsilon = self._epsilon(moment.frames)
        return ValuePolicy(self.team.model, self.team.norm, epsilon, with_value=False)

    def learn(self, played: Trajectories, moment: Moment) -> Figures:
        """Keep the batch and learn from the replay; the learning rate falls linearly to zero."""
        recipe, settings = self.recipe, self.recipe.q_learning
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.learning_rate * moment.remaining
        if moment.iteration == 0:
            self._measure(played)
        self.replay = self.replay.added(played)
        rng = generator(recipe.seed, "replay", moment.iteration)
        scale, model = unit(self.team.norm), self.team.model
        rows = []
        for k in range(settings.updates_per_batch):
            batch = self.replay.sample(settings.batch_episodes, rng)
            rows.append(update(model, self.targets, self.optimiser, batch, recipe, scale))
            done = moment.iteration * settings.updates_per_batch + k + 1
            if done % settings.target_every == 0:
                self.targets.load_state_dict(model.state_dict())
        return {
            "epsilon": self._epsilon(moment.frames),
            "td_loss": float(np.mean([row.td_loss for row in rows])) ** 0.5 * scale,
            "q_tot": float(np.mean([row.q_tot for row in rows])) * scale,
            "target": float(np.mean([row.target for row in rows])) * scale,
        }

    def state(self) -> State:
        """Return networks, targets, optimiser, the unit of values, and the replayed episodes."""
        return State(tensors_of(self._parts()), deferred=self.replay.tensors)

    def restore(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        """Put back what :meth:`state` returned."""
        self.replay = self.replay.restored(tensors)
        put_back(self._parts(), tensors)

    def _parts(self) -> dict[str, Part]:
        return {
            NORM: self.team.norm.moments,
            "model": self.team.model,
            "targets": self.targets,
            "adam": self.optimiser,
        }

    def _epsilon(self, frames: int) -> float:
        """Return the probability of a random action after ``frames`` joint steps."""
        settings = self.recipe.q_learning
        share = min(1.0, frames / settings.epsilon_frames)
        return settings.epsilon_start + share * (settings.epsilon_end - settings.epsilon_start)

    def _measure(self, played: Trajectories) -> None:
        """Take the spread of the discounted returns of the first batch as the unit of values."""
        steps = {name: torch.from_numpy(values) for name, values in played.steps.items()}
        valid = torch.from_numpy(played.valid)
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
    """Figures of one gradient step, in the networks' units."""

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

    They are the generalised advantages plus the value that these are measured from.

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


def next_values(
    q: Tensor, target_q: Tensor, available: Tensor, alive: Tensor, *, double: bool
) -> Tensor:
    """Return each agent's value of the action that it would choose: float [..., N].

    ``q`` and ``target_q``: float [..., N, A] of the learning and of the target network. With
    ``double`` the learning network chooses and the target network says what that is worth,
    otherwise the target network does both. Agents that are not alive are worth 0.
    """
    if double:
        best = q.masked_fill(~available, -torch.inf).argmax(-1, keepdim=True)
        worth = target_q.gather(-1, best).squeeze(-1)
    else:
        worth = best_legal(target_q, available)
    return worth * alive


def update(
    model: MixedAgents,
    target: MixedAgents,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    recipe: ValueRecipe,
    unit: float,
) -> UpdateStatistics:
    """Take one gradient step; ``unit`` is what one unit of the networks is in raw reward."""
    before = torch.cat([torch.full_like(batch.actions[:1], -1), batch.actions])
    q = model.values(batch.obs, before, batch.alive)
    goal = _goal(model, target, q.detach(), batch, before, recipe, unit)
    taken = q[:-1].gather(-1, batch.actions.unsqueeze(-1)).squeeze(-1)
    mixed = model.mixer(taken * batch.alive[:-1], batch.state[:-1])
    loss = functional.mse_loss(mixed[batch.valid], goal[batch.valid])
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
    optimiser.step()
    means = (loss, mixed[batch.valid].mean(), goal[batch.valid].mean())
    return UpdateStatistics(*(float(x.detach()) for x in means))


@torch.no_grad()
def _goal(
    model: MixedAgents,
    target: MixedAgents,
    q: Tensor,
    batch: Batch,
    before: Tensor,
    recipe: ValueRecipe,
    unit: float,
) -> Tensor:
    """Return what the mixed values should be, float [T, B]."""
    settings = recipe.q_learning
    chosen = next_values(
        q,
        target.values(batch.obs, before, batch.alive),
        batch.available,
        batch.alive,
        double=settings.double,
    )
    return lambda_returns(
        side_mean(batch.reward, model.side_of)[..., 0] / unit,
        target.mixer(chosen, batch.state),
        batch.terminated,
        batch.truncated,
        gamma=recipe.gamma,
        td_lambda=settings.td_lambda,
        bootstrap_on_truncation=recipe.bootstrap_on_truncation,
    )
