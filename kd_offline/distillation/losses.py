"""The losses of distillation: pure functions of tensors that return per-element values.

Nothing here reduces; :func:`masked_mean` does. Equations are those of KD-MARL (arXiv 2604.06691)
unless said otherwise. Divergences and entropies of policies belong to what an action is:
:mod:`kd_offline.distributions`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from torch import Tensor


def masked_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted mean of ``values``; zero where the weights sum to zero."""
    return (values * weight).sum() / weight.sum().clamp(min=1e-8)


def ppo_clip(logprob: Tensor, behaviour: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Return the clipped surrogate objective of PPO (Eqs. 3 and 4), to be maximised: [...].

    Parameters
    ----------
    logprob, behaviour : float [...]
        Log probabilities of the executed action by the student and by the behaviour policy.
    advantage : float [...]
    clip : float
        Epsilon of Eq. 4.
    """
    ratio = (logprob - behaviour).exp()  # Eq. 3
    # Eq. 4
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def advantage_weighted(
    logprob: Tensor, advantage: Tensor, temperature: float, ceiling: float = 20.0
) -> Tensor:
    """Return the objective of advantage-weighted regression (Peng et al., 2019): [...].

    It is ``exp(advantage / temperature) logprob``, to be maximised. The weight is at most
    ``ceiling``. Subtracting a constant from ``advantage`` scales all weights below the ceiling by
    the same factor.
    """
    weight: Tensor = (advantage / temperature).exp().clamp(max=ceiling)
    return logprob * weight


def positive_only(logprob: Tensor, advantage: Tensor) -> Tensor:
    """Return the objective of binary critic-regularised regression (Wang et al., 2020): [...].

    It is ``logprob`` where ``advantage`` is positive and 0 elsewhere, to be maximised. The sign of
    ``advantage`` decides, so its mean must not be subtracted.
    """
    return logprob.masked_fill(advantage <= 0, 0.0)


def pairs_within(side_of: Sequence[int]) -> list[tuple[int, int]]:
    """Return the pairs i < j of agents on one side; ``side_of``: the side of each agent."""
    return [(i, j) for i, j in combinations(range(len(side_of)), 2) if side_of[i] == side_of[j]]


def cosine_relations(embeddings: Sequence[Tensor], side_of: Sequence[int] = ()) -> Tensor:
    """Return the cosines of every pair of the agents' embeddings, N of [..., H]: [..., P].

    Pairs are of agents of one side, because embeddings of opponents come from unrelated networks.
    """
    unit = [e / e.norm(dim=-1, keepdim=True).clamp(min=1e-8) for e in embeddings]
    return stack_pairs(unit, lambda a, b: (a * b).sum(-1), side_of)


def angle_relations(embeddings: Sequence[Tensor], side_of: Sequence[int] = ()) -> Tensor:
    """Return the angles between every pair of embeddings, N of [..., H], in radians: [..., P].

    Cosines are clipped to 1e-6 from 1 and -1, where the slope of the arc cosine is unbounded.
    """
    return cosine_relations(embeddings, side_of).clamp(-1 + 1e-6, 1 - 1e-6).acos()


def stack_pairs(
    each: Sequence[Tensor], of: Callable[[Tensor, Tensor], Tensor], side_of: Sequence[int] = ()
) -> Tensor:
    """Return ``of`` of every pair i < j of tensors on one side, stacked: [..., P].

    ``side_of``: the side of each tensor; if it is empty, all are on one side.
    """
    within = pairs_within(side_of or (0,) * len(each))
    if pairs := [of(each[i], each[j]) for i, j in within]:
        return torch.stack(pairs).movedim(0, -1)
    alone = of(each[0], each[0])
    return alone.new_zeros((*alone.shape, 0))


def structure(expert: Tensor, student: Tensor) -> Tensor:
    """Return the squared difference of the relations of pairs, [..., P] (Eq. 9)."""
    return (expert - student).square()


def divergence(expert: Tensor, student: Tensor) -> Tensor:
    """Return KL(expert || student) of log probabilities [..., K], as of roles (Eq. 10): [...]."""
    return (expert.exp() * (expert - student)).sum(-1)
