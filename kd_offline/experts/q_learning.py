"""Learning the values of a team's actions from replayed episodes.

Double Q-learning (van Hasselt et al., 2016) through a mixer, with TD(lambda) targets (Sutton, 1988;
PyMARL2, Hu et al., 2021)::

    G_t = r_t + gamma ((1 - lambda) V_t+1 + lambda G_t+1),   V = mixed target values of the actions
                                                              that the learning network would choose

The reward of a team is the mean of its agents' rewards. After a termination nothing follows, after
a truncation the value of the last view does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from kd_offline.advantage import generalised_advantage, side_mean
from kd_offline.experts.algorithms.mixed_values import ValueRecipe
from kd_offline.experts.mixing import best_legal
from kd_offline.experts.replay import Batch
from kd_offline.experts.value_team import MixedAgents


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
