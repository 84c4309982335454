"""The losses of distillation: pure functions of tensors that return per-element values.

Nothing here reduces; :func:`masked_mean` does. Logits are raw; ``available`` (bool) marks legal
actions, and no illegal action ever contributes, to a value or to a gradient. Equations are those of
KD-MARL (arXiv 2604.06691) unless said otherwise; P is the expert (T), Q the student (S).

A handful of actions is too short a row for vector instructions, so action axes are last by name and
outermost in memory, as batches of targets have them: several times quicker, and the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from torch import Tensor

_ILLEGAL = -1e9  # finite: -inf would give NaN gradients through log-softmax


def masked_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted mean of ``values``; zero where the weights sum to zero."""
    return (values * weight).sum() / weight.sum().clamp(min=1e-8)


def log_softmax(scores: Tensor) -> Tensor:
    """Return log probabilities over a short last axis."""
    return torch.log_softmax(scores.movedim(-1, 0), 0).movedim(0, -1)


def log_policy(logits: Tensor, available: Tensor, temperature: float = 1.0) -> Tensor:
    """Return log probabilities over the legal actions, [..., A]; about -1e9 where illegal."""
    return log_softmax((logits / temperature).masked_fill(~available, _ILLEGAL))


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
    """Advantage-weighted regression (Peng et al., 2019), to be maximised: [...].

    Subtracting a mean from ``advantage`` scales all weights alike, but for those at the ceiling.
    """
    weight: Tensor = (advantage / temperature).exp().clamp(max=ceiling)
    return logprob * weight


def positive_only(logprob: Tensor, advantage: Tensor) -> Tensor:
    """Binary critic-regularised regression (Wang et al., 2020), to be maximised: [...].

    ``advantage`` is as estimated: its sign decides, so nothing may be subtracted from it.
    """
    return logprob.masked_fill(advantage <= 0, 0.0)


def pairs_within(side_of: Sequence[int]) -> list[tuple[int, int]]:
    """Return the pairs i < j of agents on one side; ``side_of``: the side of each agent."""
    return [(i, j) for i, j in combinations(range(len(side_of)), 2) if side_of[i] == side_of[j]]


def cosine_relations(embeddings: Sequence[Tensor], side_of: Sequence[int] = ()) -> Tensor:
    """Cosines of every pair of the agents' embeddings, N of [..., H]: [..., P].

    Opponents have no relation: their embeddings come from unrelated networks.
    """
    unit = [e / e.norm(dim=-1, keepdim=True).clamp(min=1e-8) for e in embeddings]
    return stack_pairs(unit, lambda a, b: (a * b).sum(-1), side_of)


def stack_pairs(
    each: Sequence[Tensor], of: Callable[[Tensor, Tensor], Tensor], side_of: Sequence[int] = ()
) -> Tensor:
    """Return a function of every pair i < j on one side, [..., P]; no sides: of all N tensors."""
    within = pairs_within(side_of or (0,) * len(each))
    if pairs := [of(each[i], each[j]) for i, j in within]:
        return torch.stack(pairs).movedim(0, -1)
    alone = of(each[0], each[0])
    return alone.new_zeros((*alone.shape, 0))


def structure(expert: Tensor, student: Tensor) -> Tensor:
    """Squared difference of the relations of pairs, [..., P] (Eq. 9)."""
    return (expert - student).square()


def role_divergence(expert: Tensor, student: Tensor) -> Tensor:
    """KL of log role distributions [..., K] (Eqs. 10 and 11): [...]."""
    return (expert.exp() * (expert - student)).sum(-1)
