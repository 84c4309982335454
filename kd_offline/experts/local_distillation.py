"""The losses by which DDN's local network follows the guiding one (Zhou et al., 2025, Eq. 6)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from kd_offline.experts.algorithms.ddn import Divergence, LocalDistillation


@dataclass(frozen=True, slots=True)
class Said:
    """What one of the two networks gives for the decisions of a batch, [D, ...]."""

    values: Tensor  # [D, A]
    s_hat: Tensor  # [D, d]
    feature: Tensor  # [D, F]


@dataclass(frozen=True, slots=True)
class Losses:
    """Means over decisions; no gradient flows into the guiding network."""

    block: Tensor  # L_B
    value: Tensor  # L_Q
    feature: Tensor  # L_F
    agreement: Tensor  # share of decisions with the same greedy legal action

    def total(self, settings: LocalDistillation) -> Tensor:
        """Return the weighted sum, L_local (Eq. 7)."""
        return (
            settings.block_weight * self.block
            + settings.value_weight * self.value
            + settings.feature_weight * self.feature
        )


def losses(guiding: Said, local: Said, legal: Tensor, settings: LocalDistillation) -> Losses:
    """Return the losses of decisions; ``legal``: bool [D, A], at least one action each."""
    block = (local.s_hat - guiding.s_hat).square().mean()
    if settings.value_loss == "kl":
        value = _divergence(guiding.values, local.values, legal, settings.temperature).mean()
    else:
        value = _squared(guiding.values, local.values, legal, centred=settings.centred).mean()
    everything = torch.ones_like(guiding.feature, dtype=torch.bool)
    feature = _compare(settings.feature_loss, guiding.feature, local.feature, everything, settings)
    same = _greedy(guiding.values, legal) == _greedy(local.values, legal)
    return Losses(block, value, feature, same.float().mean())


def _compare(
    kind: Divergence, guiding: Tensor, local: Tensor, legal: Tensor, settings: LocalDistillation
) -> Tensor:
    if kind == "kl":
        return _divergence(guiding, local, legal, settings.feature_temperature).mean()
    return functional.mse_loss(local, guiding)


def _divergence(guiding: Tensor, local: Tensor, legal: Tensor, temperature: float) -> Tensor:
    """Return KL(softmax(guiding / t) || softmax(local / t)) over legal entries, [D]."""
    teacher, student = (
        (x / temperature).masked_fill(~legal, -torch.inf).log_softmax(-1) for x in (guiding, local)
    )
    # Illegal entries have no probability, and their difference no number.
    gap = (teacher - student).masked_fill(~legal, 0.0)
    return (teacher.exp() * gap).sum(-1)


def _squared(guiding: Tensor, local: Tensor, legal: Tensor, *, centred: bool) -> Tensor:
    """Return the mean squared difference over legal entries, [D]."""
    count = legal.sum(-1, keepdim=True)
    gap = (local - guiding) * legal
    if centred:
        gap = (gap - gap.sum(-1, keepdim=True) / count) * legal
    return gap.square().sum(-1) / count.squeeze(-1)


def _greedy(values: Tensor, legal: Tensor) -> Tensor:
    return values.masked_fill(~legal, -torch.inf).argmax(-1)
