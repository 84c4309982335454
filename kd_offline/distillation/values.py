"""Convert recorded Q-values of a value-based expert into the logits that students imitate.

For a student only differences between an agent's legal actions matter: the mean of the Q-values is
the value of the state, and their unit is that of the reward. So Q-values are centred over the legal
actions, divided by a scale, and by a small temperature (Rusu et al., 2016). The result replaces the
logits of a policy expert.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from kd_offline.schemas.recipes import Objective

_QUIET = 1e-3  # of the dataset's scale: smaller differences within a state are noise


def policy_array(present: Iterable[str]) -> str:
    """Return the name of the array from which the expert's policy is computed.

    It is ``steps/logits``; ``steps/q_values`` if ``present`` has only Q-values.
    """
    names = set(present)
    by_values = "steps/q_values" in names and "steps/logits" not in names
    return "steps/q_values" if by_values else "steps/logits"


def legal_mean(values: Tensor, available: Tensor) -> Tensor:
    """Return the mean of ``values`` [..., A] over the legal actions, [...]; 0 if there is none."""
    legal = available.sum(-1).clamp(min=1)
    return values.masked_fill(~available, 0.0).sum(-1) / legal


def state_value(q: Tensor, available: Tensor) -> Tensor:
    """Return the value of a state by Q-values ``q`` [..., A]: their mean over legal actions."""
    return legal_mean(q, available)


def centred(q: Tensor, available: Tensor) -> Tensor:
    """Return ``q`` [..., A] minus its mean over the legal actions; 0 for illegal actions.

    Values of illegal actions, infinities included, have no effect.
    """
    return (q - state_value(q, available).unsqueeze(-1)).masked_fill(~available, 0.0)


def variance(gaps: Tensor, available: Tensor) -> Tensor:
    """Return the variance of centred values [..., A] over the legal actions, [...]."""
    return gaps.square().sum(-1) / available.sum(-1).clamp(min=1)


def value_logits(q: Tensor, available: Tensor, scale: Tensor, objective: Objective) -> Tensor:
    """Return Q-values as logits: centred, scaled, and divided by ``q_temperature``.

    Parameters
    ----------
    q : float [B, T, N, A]
    available : bool [B, T, N, A]
    scale : float [N]
        Root mean variance of each agent's Q-values between legal actions, over the dataset.
    objective : Objective
        ``q_scale`` is the divisor: the dataset's scale, each state's own standard deviation (not
        below a thousandth of the dataset's scale), or none.
    """
    gaps = centred(q, available)
    if objective.q_scale == "dataset":
        gaps = gaps / scale.unsqueeze(-1)
    elif objective.q_scale == "state":
        own = torch.maximum(variance(gaps, available).sqrt(), _QUIET * scale)
        gaps = gaps / own.unsqueeze(-1)
    return gaps / objective.q_temperature


def regression(own: Tensor, target: Tensor, available: Tensor, kind: str) -> Tensor:
    """Return the mean loss of centred values over the legal actions, [...].

    ``own`` and ``target`` [..., A] may have any value at illegal actions. CTDS (Zhao et al., 2022)
    also counts illegal actions and does not centre.
    """
    gaps = centred(own, available) - centred(target, available)
    return error(gaps, kind).sum(-1) / available.sum(-1).clamp(min=1)


def error(gaps: Tensor, kind: str) -> Tensor:
    """Return half the squares of ``gaps`` ("mse"), or the Huber loss with threshold 1 ("huber")."""
    squares = gaps.square() / 2
    if kind == "mse":
        return squares
    return torch.where(gaps.abs() <= 1, squares, gaps.abs() - 0.5)
