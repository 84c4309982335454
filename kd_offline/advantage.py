"""Generalised advantage estimation, for experts during training and for datasets afterwards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def side_mean(reward: Tensor, side_of: Tensor) -> Tensor:
    """Return each agent's reward [..., N] averaged over its side (``side_of``: int [N])."""
    same_side = _same_side(side_of).to(reward)
    return reward @ (same_side / same_side.sum(0))


def side_sum(values: Tensor, side_of: Sequence[int]) -> Tensor:
    """Return each agent's value [..., N] summed over its side (``side_of``: N)."""
    return values @ _same_side(torch.tensor(side_of)).to(values)


def side_statistics(values: Tensor, weight: Tensor, side_of: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each agent's side, [N] each.

    They are 0 and 1 where a side has no weight. Each side has statistics of its own, because a side
    with larger rewards would otherwise set the scale of the others.

    Parameters
    ----------
    values : float [..., N]
    weight : float [..., N]
    side_of : int [N]
    """
    mean, deviation = values.new_zeros(len(side_of)), values.new_ones(len(side_of))
    for side in set(side_of.tolist()):
        members = side_of == side
        member_weight = weight * members
        if member_weight.any():
            total = member_weight.sum().clamp(min=1)
            center = (values * member_weight).sum() / total
            mean[members] = center
            deviation[members] = (((values - center).square() * member_weight).sum() / total).sqrt()
    return mean, deviation


def _same_side(side_of: Tensor) -> Tensor:
    return side_of.unsqueeze(0) == side_of.unsqueeze(1)


def waiting(alive: Tensor, ended: Tensor) -> Tensor:
    """Return where agents wait for their turn, bool [T, B, N].

    An agent waits where it is not alive, in episodes in which some agent acts that did not act a
    step before. In other episodes, agents that are not alive have left for good and do not wait.

    Parameters
    ----------
    alive : bool [T, B, N]
    ended : bool [T, B]
        True in an episode's last step; steps after it are ignored.
    """
    ended_before = torch.cat([torch.zeros_like(ended[:1]), ended[:-1]]).cumsum(0) > 0
    acting = alive & ~ended_before.unsqueeze(-1)
    takes_turns = (acting[1:] & ~acting[:-1]).any(0).any(-1)
    return ~acting & takes_turns.unsqueeze(-1)


def generalised_advantage(
    reward: Tensor,
    value: Tensor,
    final_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    *,
    gamma: float,
    gae_lambda: float,
    bootstrap_on_truncation: bool,
    horizon: int | None = None,
    waits: Tensor | None = None,
) -> Tensor:
    """Return the advantages of whole episodes by a backward recursion (KD-MARL, Eqs. 1 and 2).

    A critic learns from decisions and has no value for an agent that waits. Between two decisions
    the rewards of the waiting steps are discounted step by step. The value of a waiting step is
    the discounted sum that follows it, and the trace does not decay over it (a semi-Markov
    decision process, Sutton et al., 1999).

    Parameters
    ----------
    reward, value : float [T, B, N]
    final_value : float [B, N]
        Value of the observation after the last transition of each episode.
    terminated, truncated : bool [T, B]
    gamma, gae_lambda : float
    bootstrap_on_truncation : bool
        Whether the return after a time limit is ``final_value`` (True) or 0 (False).
    horizon : int, optional
        Length L of the sum in Eq. 2; None sums to the end of the episode.
    waits : bool [T, B, N], optional
        Where agents wait for their turn, see :func:`waiting`.

    Returns
    -------
    float [T, B, N]
        Steps after an episode's end have arbitrary values.
    """
    ended = (terminated | truncated).unsqueeze(-1)
    no_future = terminated if bootstrap_on_truncation else terminated | truncated
    decay = gamma * gae_lambda * (~ended).to(reward.dtype)
    if waits is not None and waits.any():
        final_values = final_value.expand_as(value).masked_fill(no_future.unsqueeze(-1), 0.0)
        values, following_value = [], final_value
        for t in range(len(value) - 1, -1, -1):
            following_value = torch.where(ended[t], final_values[t], following_value)
            following_value = torch.where(waits[t], reward[t] + gamma * following_value, value[t])
            values.append(following_value)
        value = torch.stack(values[::-1])
        decay = torch.where(waits, gamma * (~ended).to(reward.dtype), decay)
    following = torch.cat([value[1:], final_value.unsqueeze(0)])
    following = torch.where(ended, final_value.expand_as(value), following)
    following = following.masked_fill(no_future.unsqueeze(-1), 0.0)
    delta = reward + gamma * following - value  # Eq. 1
    if horizon is not None:
        return _windowed(delta, decay, horizon)
    advantages = torch.empty_like(delta)
    advantage = torch.zeros_like(final_value)
    for t in range(len(delta) - 1, -1, -1):
        advantage = delta[t] + decay[t] * advantage  # Eq. 2, as a recursion
        advantages[t] = advantage
    return advantages


def _windowed(delta: Tensor, decay: Tensor, horizon: int) -> Tensor:
    """Return the sum of ``horizon`` residuals, each discounted by the steps in between."""
    total = delta.clone()
    discount = torch.ones_like(delta)
    for lag in range(1, min(horizon, len(delta))):
        discount = discount[:-1] * decay[lag - 1 : -1]
        total[:-lag] += discount * delta[lag:]
    return total
