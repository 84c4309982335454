"""Generalised advantage estimation, for experts while they learn and for datasets afterwards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def side_mean(reward: Tensor, side_of: Tensor) -> Tensor:
    """Replace each agent's reward [..., N] by the mean over its side (``side_of``: int [N])."""
    same = _same(side_of).to(reward.dtype)
    return reward @ (same / same.sum(0))


def side_sum(values: Tensor, side_of: Sequence[int]) -> Tensor:
    """Replace each agent's value [..., N] by the sum over its side (``side_of``: N)."""
    return values @ _same(torch.tensor(side_of)).to(values.dtype)


def side_statistics(values: Tensor, weight: Tensor, side_of: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each agent's side, [N] each.

    They are 0 and 1 where a side has no weight. Sides have units of their own: statistics over
    several of them would let one that earns more set the scale of the others.

    Parameters
    ----------
    values : float [..., N]
    weight : float [..., N]
    side_of : int [N]
    """
    mean, deviation = values.new_zeros(len(side_of)), values.new_ones(len(side_of))
    for side in set(side_of.tolist()):
        mine = side_of == side
        counted = weight * mine
        if counted.any():
            total = counted.sum().clamp(min=1)
            center = (values * counted).sum() / total
            mean[mine] = center
            deviation[mine] = (((values - center).square() * counted).sum() / total).sqrt()
    return mean, deviation


def _same(side_of: Tensor) -> Tensor:
    return side_of.unsqueeze(0) == side_of.unsqueeze(1)


def waiting(alive: Tensor, ended: Tensor) -> Tensor:
    """Return where agents wait for their turn, bool [T, B, N].

    That is where they are not alive, in episodes in which an agent acts that did not a step before.
    Without such a step, agents that are not alive have left for good, and none waits.

    Parameters
    ----------
    alive : bool [T, B, N]
    ended : bool [T, B]
        True in an episode's last step; what is behind it does not count.
    """
    after = torch.cat([torch.zeros_like(ended[:1]), ended[:-1]]).cumsum(0) > 0
    acting = alive & ~after.unsqueeze(-1)
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
    """Advantages of whole episodes by one backward recursion (KD-MARL Eqs. 1 and 2).

    A critic says nothing of an agent that waits: it learns from decisions. Between two of them lie
    the rewards of the steps in which the agent waited, discounted step by step; the value of such
    a step is what follows it, and the trace does not decay over it (a semi-Markov decision process,
    Sutton et al., 1999).

    Parameters
    ----------
    reward, value : float [T, B, N]
    final_value : float [B, N]
        Value of the observation after the last transition of each episode.
    terminated, truncated : bool [T, B]
    gamma, gae_lambda : float
    bootstrap_on_truncation : bool
        Whether the future after a time limit is worth ``final_value`` or nothing.
    horizon : int, optional
        Length L of the sum in Eq. 2; None sums to the end of the episode.
    waits : bool [T, B, N], optional
        Where agents wait for their turn, see :func:`waiting`.

    Returns
    -------
    float [T, B, N]; steps behind an episode's end follow no rule.
    """
    ended = (terminated | truncated).unsqueeze(-1)
    worthless = terminated if bootstrap_on_truncation else terminated | truncated
    keep = gamma * gae_lambda * (~ended).to(reward.dtype)
    if waits is not None and waits.any():
        last = final_value.expand_as(value).masked_fill(worthless.unsqueeze(-1), 0.0)
        rows, after = [], final_value
        for t in range(len(value) - 1, -1, -1):
            after = torch.where(ended[t], last[t], after)
            after = torch.where(waits[t], reward[t] + gamma * after, value[t])
            rows.append(after)
        value = torch.stack(rows[::-1])
        keep = torch.where(waits, gamma * (~ended).to(reward.dtype), keep)
    following = torch.cat([value[1:], final_value.unsqueeze(0)])
    following = torch.where(ended, final_value.expand_as(value), following)
    following = following.masked_fill(worthless.unsqueeze(-1), 0.0)
    delta = reward + gamma * following - value
    if horizon is not None:
        return _windowed(delta, keep, horizon)
    out = torch.empty_like(delta)
    running = torch.zeros_like(final_value)
    for t in range(len(delta) - 1, -1, -1):
        running = delta[t] + keep[t] * running
        out[t] = running
    return out


def _windowed(delta: Tensor, keep: Tensor, horizon: int) -> Tensor:
    """Sum ``horizon`` residuals, each discounted by every step that lies between."""
    total = delta.clone()
    reach = torch.ones_like(delta)
    for ahead in range(1, min(horizon, len(delta))):
        reach = reach[:-1] * keep[ahead - 1 : -1]
        total[:-ahead] += reach * delta[ahead:]
    return total
