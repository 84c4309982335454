"""Categorical action distributions in PyTorch: KL, cross entropy and entropy, with gradients.

Rows of a few actions are too short for vector instructions. If the action axis is outermost in
memory, as in students and target batches, a softmax is several times faster. Sums are taken in the
memory order of the parameters.
"""

from __future__ import annotations

from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from kd_offline.distributions.base import Learned
from kd_offline.types import Array

_ILLEGAL = -1e9  # finite: -inf would give NaN gradients through log-softmax


class CategoricalTensors(Learned):
    """One of ``A`` actions for each agent; ``parameters`` are raw logits [..., A].

    Illegal actions contribute neither to values nor to gradients.
    """

    @classmethod
    def restored(cls, kept: Tensor, available: Tensor) -> Self:
        """Return the distribution of log probabilities, [..., A]."""
        distribution = cls(kept, available)
        distribution.log_probabilities = kept
        return distribution

    def kept(self) -> Tensor:
        """Return the log probabilities, [..., A]."""
        return self.log_probabilities

    @staticmethod
    def recorded_actions(actions: Array) -> Tensor:
        """Return int64 [...]."""
        return torch.from_numpy(actions).long()

    def at(self, temperature: float) -> Self:
        """Return the softmax of the logits divided by ``temperature``."""
        if temperature == 1.0:
            return self
        return type(self)(self.parameters / temperature, self.available)

    def mode(self) -> Tensor:
        """Return the most probable legal action, int64 [...]."""
        return self.log_probabilities.argmax(-1)

    def sample(self, numbers: Tensor) -> Tensor:
        """Return the inverse of the cumulative distribution at ``numbers``, float64 [...]."""
        reached = self.log_probabilities.double().exp().cumsum(-1)
        return (reached > numbers.unsqueeze(-1) * reached[..., -1:]).long().argmax(-1)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return the log probability of ``actions``, int64 [...]."""
        return self.log_probabilities.gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """Return the entropy over the legal actions in nats (KD-MARL, Eq. 5): [...]."""
        return -self._mean(self.log_probabilities)

    def kl(self, other: CategoricalTensors) -> Tensor:
        """Return KL(self || other) over the legal actions in nats (KD-MARL, Eq. 7): [...]."""
        return self._mean(self.log_probabilities - other.log_probabilities)

    def cross_entropy(self, other: CategoricalTensors) -> Tensor:
        """Return the cross entropy with all probabilities (KD-MARL, Eq. 8 as printed): [...]."""
        return -self._mean(other.log_probabilities)

    @staticmethod
    def has_choice(available: Tensor) -> Tensor:
        """Return where two or more actions are legal, bool [...]."""
        return available.sum(-1) > 1

    def agrees(self, other: CategoricalTensors) -> Tensor:
        """Return where the most probable actions are equal, bool [...]."""
        return self.mode() == other.mode()

    @cached_property
    def log_probabilities(self) -> Tensor:
        """Log probabilities over the legal actions, [..., A]; about -1e9 where illegal."""
        # Filling gives a contiguous tensor, whatever the order of the parameters in memory.
        legal = self.parameters.masked_fill(~self.available, _ILLEGAL)
        return log_softmax(legal, outermost=_is_outermost(self.parameters))

    def _mean(self, values: Tensor) -> Tensor:
        weighted = self.log_probabilities.exp() * values
        return weighted.masked_fill(~self.available, 0.0).sum(-1)


def log_softmax(scores: Tensor, *, outermost: bool | None = None) -> Tensor:
    """Return log probabilities over the last axis, summed in the order that it has in memory.

    ``outermost``: whether the last axis is to be outermost in memory; None: as in ``scores``.
    """
    if _is_outermost(scores) if outermost is None else outermost:
        return torch.log_softmax(scores.movedim(-1, 0), 0).movedim(0, -1)
    return torch.log_softmax(scores, -1)


def _is_outermost(values: Tensor) -> bool:
    return values.dim() > 1 and values.stride(-1) > values.stride(-2)


def last_axis_outermost(values: Tensor) -> Tensor:
    """Return ``values`` with the last axis outermost in memory."""
    return values.movedim(-1, 0).contiguous().movedim(0, -1)
