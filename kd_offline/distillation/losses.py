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


def angle_relations(embeddings: Sequence[Tensor], side_of: Sequence[int] = ()) -> Tensor:
    """Angles between every pair of embeddings, N of [..., H], in radians: [..., P].

    The slope of the arc cosine has no bound at 1 and -1, so cosines end 1e-6 before them.
    """
    return cosine_relations(embeddings, side_of).clamp(-1 + 1e-6, 1 - 1e-6).acos()


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


def divergence(expert: Tensor, student: Tensor) -> Tensor:
    """KL of log probabilities [..., K], as of roles (Eqs. 10 and 11): [...]."""
    return (expert.exp() * (expert - student)).sum(-1)
