"""The losses of distillation: pure functions of tensors that return per-element values.

Nothing here reduces; :func:`masked_mean` does. Logits are raw; ``available`` (bool) marks legal
actions, and no illegal action ever contributes, to a value or to a gradient. Equations are those of
KD-MARL (arXiv 2604.06691) unless said otherwise; P is the expert (T), Q the student (S).
"""

from __future__ import annotations

import torch
from torch import Tensor

_ILLEGAL = -1e9  # finite: -inf would give NaN gradients through log-softmax


def masked_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted mean of ``values``; zero where the weights sum to zero."""
    return (values * weight).sum() / weight.sum().clamp(min=1e-8)


def log_policy(logits: Tensor, available: Tensor, temperature: float = 1.0) -> Tensor:
    """Return log probabilities over the legal actions, [..., A]; about -1e9 where illegal."""
    return torch.log_softmax((logits / temperature).masked_fill(~available, _ILLEGAL), -1)


def kl_divergence(expert: Tensor, student: Tensor, available: Tensor) -> Tensor:
    """KL(P || Q) of log probabilities [..., A] (Eq. 7): [...]."""
    terms = expert.exp() * (expert - student)
    return terms.masked_fill(~available, 0.0).sum(-1)


def cross_entropy(target: Tensor, student: Tensor) -> Tensor:
    """Minus the student's log probability [..., A] of the action ``target`` int64 [...]."""
    taken: Tensor = student.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    return -taken


def soft_cross_entropy(expert: Tensor, student: Tensor, available: Tensor) -> Tensor:
    """Cross entropy with the whole expert distribution (Eq. 8 as printed): [...].

    Its gradient is that of the KL divergence.
    """
    return -(expert.exp() * student).masked_fill(~available, 0.0).sum(-1)


def entropy(student: Tensor, available: Tensor) -> Tensor:
    """Entropy over the legal actions, in nats (Eq. 5): [...]."""
    return -(student.exp() * student).masked_fill(~available, 0.0).sum(-1)


def ppo_clip(logprob: Tensor, behaviour: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Clipped surrogate (Eqs. 3 and 4), to be maximised: [...]."""
    ratio = (logprob - behaviour).exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def advantage_weighted(
    logprob: Tensor, advantage: Tensor, temperature: float, ceiling: float = 20.0
) -> Tensor:
    """Advantage-weighted regression (Peng et al., 2019), to be maximised: [...]."""
    weight: Tensor = (advantage / temperature).exp().clamp(max=ceiling)
    return logprob * weight


def positive_only(logprob: Tensor, advantage: Tensor) -> Tensor:
    """Binary critic-regularised regression (Wang et al., 2020), to be maximised: [...]."""
    return logprob.masked_fill(advantage <= 0, 0.0)


def cosine_relations(embedding: Tensor) -> Tensor:
    """Pairwise cosines of ``embedding`` [..., N, H]: [..., N, N]."""
    unit: Tensor = embedding / embedding.norm(dim=-1, keepdim=True).clamp(min=1e-8)
    return unit @ unit.transpose(-1, -2)


def structure(expert: Tensor, student: Tensor) -> Tensor:
    """Squared difference of relation matrices [..., N, N] (Eq. 9); each pair stands there twice."""
    return (expert - student).square()


def role_divergence(expert: Tensor, student: Tensor) -> Tensor:
    """KL of log role distributions [..., K] (Eqs. 10 and 11): [...]."""
    return (expert.exp() * (expert - student)).sum(-1)
