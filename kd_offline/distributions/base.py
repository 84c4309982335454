"""Distributions over the actions of every agent.

A policy's parameters are [..., P] for every agent: the logits of categorical actions. Drawing an
action, its probability and the divergence of two policies are computed by the classes here. Play
and recording use NumPy arrays (:class:`Played`), learning uses PyTorch tensors (:class:`Learned`);
:mod:`kd_offline.distributions` selects the class for an environment's actions.

Shapes: ``[...]`` has one entry for each agent, usually [B, N] or [S, N]; ``[..., *D]`` is its
action, which is a single number for categorical actions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt

from kd_offline.types import Array, BoolArray, Float32Array, FloatArray, IntArray

if TYPE_CHECKING:
    from torch import Tensor

    from kd_offline.schemas.environment import EnvironmentSpec

Values = TypeVar("Values")


class Distribution(ABC, Generic[Values]):
    """The distributions of many agents' actions.

    Parameters
    ----------
    parameters : float [..., P]
        As a policy states them: raw, at temperature 1.
    available : bool [..., A]
        Which actions are legal. An agent without any does not act.
    """

    def __init__(self, parameters: Values, available: Values) -> None:
        self.parameters = parameters
        self.available = available

    @abstractmethod
    def mode(self) -> Values:
        """Return the most probable legal action, [..., *D]; the first of equally probable ones."""

    @abstractmethod
    def sample(self, numbers: Values) -> Values:
        """Return the actions, [..., *D], that uniform ``numbers`` in [0, 1), [..., *D], choose."""

    @abstractmethod
    def log_prob(self, actions: Values) -> Values:
        """Return the log probability, or density, of ``actions`` [..., *D]: [...]."""

    @abstractmethod
    def entropy(self) -> Values:
        """Return the entropy in nats, [...]."""

    @abstractmethod
    def kl(self, other: Self) -> Values:
        """Return KL(self || other) in nats, [...]."""

    @staticmethod
    @abstractmethod
    def has_choice(available: Values) -> Values:
        """Return where an agent has several possible actions, bool [...] from bool [..., A].

        Only these decisions count for agreement.
        """

    @abstractmethod
    def agrees(self, other: Self) -> Values:
        """Return where the modes are the same action, bool [...]."""


class Played(Distribution[Array]):
    """Distributions in play and recording, as NumPy arrays."""

    numbers: ClassVar[tuple[int, ...]]
    """How many uniform numbers choose an agent's action: the shape *D."""

    @staticmethod
    @abstractmethod
    def width(spec: EnvironmentSpec) -> int:
        """Return the number of parameters for every agent, padding included: P."""

    @staticmethod
    @abstractmethod
    def certain(actions: Array, available: BoolArray) -> Float32Array:
        """Return the parameters of a policy that always takes ``actions`` [..., *D]: [..., P]."""

    @classmethod
    @abstractmethod
    def even(cls, available: BoolArray) -> Self:
        """Return the uniform distribution over legal actions, used for random play and noise."""

    @abstractmethod
    def mixture_probability(self, actions: Array, share: FloatArray) -> FloatArray:
        """Return the probability of ``actions`` under ``(1 - share) self + share even``.

        ``share`` is broadcast to [...]; an agent that does not act gives 0.
        """

    @abstractmethod
    def counts(self, actions: Array, acting: BoolArray) -> IntArray:
        """Return how often each agent took each action, [N, A], where ``acting``, bool [B, N].

        For actions that cannot be counted: [N, 0].
        """

    @abstractmethod
    def near_mode(self, actions: Array, tolerance: float) -> BoolArray:
        """Return where ``actions`` equal the mode up to rounding, bool [...].

        ``tolerance``: possible error of a parameter, relative to it where it is above 1.
        """


class Learned(Distribution["Tensor"]):
    """Distributions in learning, as PyTorch tensors."""

    @abstractmethod
    def at(self, temperature: float) -> Self:
        """Return the distribution at a temperature; a higher temperature is closer to uniform."""

    @abstractmethod
    def cross_entropy(self, other: Self) -> Tensor:
        """Return the mean of ``-other.log_prob`` under this distribution, [...].

        Its gradient by ``other`` is that of :meth:`kl`.
        """

    @abstractmethod
    def kept(self) -> Tensor:
        """Return the tensor from which :meth:`restored` gives the distribution: [..., K]."""

    @classmethod
    @abstractmethod
    def restored(cls, kept: Tensor, available: Tensor) -> Self:
        """Return the distribution from its :meth:`kept` tensor and the legal actions."""

    @staticmethod
    @abstractmethod
    def recorded_actions(actions: Array) -> Tensor:
        """Return the array ``steps/actions`` in the form that :meth:`log_prob` takes."""


def either(chosen: BoolArray, these: npt.ArrayLike, others: Array) -> Array:
    """Return the actions ``these`` where ``chosen``, bool [...], else ``others``: [..., *D]."""
    trailing = (1,) * (others.ndim - chosen.ndim)
    return np.where(chosen.reshape(chosen.shape + trailing), these, others)
