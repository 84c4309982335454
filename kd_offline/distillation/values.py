"""Value-based experts: from recorded Q-values to the distribution that students imitate.

Only differences between an agent's legal actions mean anything to a student: the level of a Q-value
is the value of the state, and its unit that of the reward. So Q-values are centred over the legal
actions, divided by a scale, and by a small temperature (Rusu et al., 2016); the result stands
wherever a policy expert's logits would.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from kd_offline.schemas.recipes import Objective

_QUIET = 1e-3  # of the dataset's scale: smaller differences within a state are noise


def policy_array(present: Iterable[str]) -> str:
    """Return the array that an expert's policy is known by, among those of a dataset.

    Logits; of a value-based expert, which has none, Q-values.
    """
    names = set(present)
    by_values = "steps/q_values" in names and "steps/logits" not in names
    return "steps/q_values" if by_values else "steps/logits"


def legal_mean(values: Tensor, available: Tensor) -> Tensor:
    """Return the mean of ``values`` [..., A] over the legal actions, [...]; 0 where none is."""
    legal = available.sum(-1).clamp(min=1)
    return values.masked_fill(~available, 0.0).sum(-1) / legal


def state_value(q: Tensor, available: Tensor) -> Tensor:
    """Return the value of a state by Q-values ``q`` [..., A]: their mean over legal actions."""
    return legal_mean(q, available)


def centred(q: Tensor, available: Tensor) -> Tensor:
    """Return ``q`` [..., A] less its mean over the legal actions; 0 where illegal.

    Whatever stands at an illegal action, infinities included, changes nothing.
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
        ``q_scale`` says what is divided by: the dataset's scale, each state's own standard
        deviation (not below a thousandth of the dataset's scale), or nothing.
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

    The term of CTDS (Zhao et al., 2022), which also counts illegal actions and levels. ``own`` and
    ``target`` [..., A] may hold anything at illegal actions.
    """
    gaps = centred(own, available) - centred(target, available)
    return error(gaps, kind).sum(-1) / available.sum(-1).clamp(min=1)


def error(gaps: Tensor, kind: str) -> Tensor:
    """Return half the squares of ``gaps``, or beyond 1 their distance (Huber)."""
    squares = gaps.square() / 2
    if kind == "mse":
        return squares
    return torch.where(gaps.abs() <= 1, squares, gaps.abs() - 0.5)
