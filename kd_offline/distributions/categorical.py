"""Categorical action distributions in NumPy, from logits over legal actions."""

from __future__ import annotations

from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

from kd_offline.distributions.base import Played
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.types import BoolArray, Float32Array, FloatArray, IntArray

_NEVER = np.float32(-1e9)  # finite, so that differences of logits stay numbers


class Categorical(Played):
    """One of ``A`` actions for each agent; ``parameters`` are raw logits [..., A].

    Illegal actions are never taken and have probability zero.
    """

    numbers = ()

    @staticmethod
    def width(spec: EnvironmentSpec) -> int:
        """Return the largest number of actions, A."""
        return spec.action_count

    @staticmethod
    def certain(actions: IntArray, available: BoolArray) -> Float32Array:
        """Return logits that put all probability on ``actions`` [...]: [..., A]."""
        logits = np.zeros(available.shape, np.float32)
        logits[actions[..., None] != np.arange(available.shape[-1])] = _NEVER
        return logits

    def mode(self) -> IntArray:
        """Return the argmax over the legal actions, ties to the lowest; 0 where none is legal."""
        return np.asarray(np.argmax(self._legal, axis=-1), np.int64)

    def sample(self, numbers: FloatArray) -> IntArray:
        """Return the inverse of the cumulative distribution at ``numbers``, float64 [...].

        Where no action is legal it is action 0.
        """
        # Unnormalised weights: u * total is below total for every u < 1, so the first partial sum
        # above it always exists and always belongs to a legal action.
        reached = np.cumsum(np.exp(self._below_top), axis=-1)
        target = numbers[..., None] * reached[..., -1:]
        return np.asarray(np.argmax(reached > target, axis=-1), np.int64)

    def log_prob(self, actions: IntArray) -> npt.NDArray[np.float64]:
        """Return the log probability of ``actions`` [...]; -inf of what is not legal."""
        return np.take_along_axis(self.log_probabilities, actions[..., None], -1)[..., 0]

    def entropy(self) -> npt.NDArray[np.float64]:
        """Return the entropy over the legal actions in nats, [...]."""
        logp = self.log_probabilities
        parts = np.multiply(np.exp(logp), logp, out=np.zeros_like(logp), where=self.available)
        return np.asarray(-parts.sum(axis=-1))

    def kl(self, other: Categorical) -> npt.NDArray[np.float64]:
        """Return KL(self || other) over the legal actions in nats, [...]."""
        # Illegal actions have probability 0 on both sides; -inf - -inf would be NaN.
        p, q = self.log_probabilities, other.log_probabilities
        gap = np.where(self.available, p, 0.0) - np.where(self.available, q, 0.0)
        return np.asarray((np.exp(p) * gap).sum(axis=-1))

    @staticmethod
    def has_choice(available: BoolArray) -> BoolArray:
        """Return where two or more actions are legal, bool [...]."""
        return np.asarray(available.sum(axis=-1) > 1)

    def agrees(self, other: Categorical) -> BoolArray:
        """Return where the greedy legal actions are equal, bool [...]."""
        return np.asarray(self.mode() == other.mode())

    @classmethod
    def even(cls, available: BoolArray) -> Self:
        """Return the uniform distribution over the legal actions."""
        return cls(np.zeros(available.shape, np.float32), available)

    def mixture_probability(self, actions: IntArray, share: FloatArray) -> npt.NDArray[np.float64]:
        """Return the probability of ``actions`` under ``(1 - share) self + share even``: [...]."""
        legal = np.maximum(self.available.sum(-1), 1)
        none = ~self.available.any(-1)
        mixed = (1 - share) * np.exp(self.log_prob(actions)) + share / legal
        return np.where(none, 0.0, mixed)

    def counts(self, actions: IntArray, acting: BoolArray) -> IntArray:
        """Return how often each agent took each action, [N, A], where ``acting``, bool [B, N]."""
        is_taken = actions[..., None] == np.arange(self.available.shape[-1])
        return np.asarray((is_taken & acting[..., None]).sum(axis=0))

    def near_mode(self, actions: IntArray, tolerance: float) -> BoolArray:
        """Return where a logit equals that of the greedy action up to rounding, bool [...]."""
        taken, best = (
            np.take_along_axis(self.parameters, a[..., None], -1)[..., 0]
            for a in (actions, self.mode())
        )
        return np.asarray(np.abs(best - taken) <= 2 * tolerance * np.maximum(1, np.abs(best)))

    @cached_property
    def log_probabilities(self) -> npt.NDArray[np.float64]:
        """Log probabilities over the legal actions, float64 [..., A]; -inf where illegal.

        Where no action is legal they are -inf everywhere, never NaN.
        """
        total = np.exp(self._below_top).sum(axis=-1, keepdims=True)
        return np.asarray(self._below_top - np.log(np.where(total > 0, total, 1.0)))

    @cached_property
    def _legal(self) -> npt.NDArray[np.float64]:
        """Legal logits [..., A], the actions outermost in memory.

        NumPy reduces a short last axis forty times slower than a short first one.
        """
        legal = np.where(self.available, self.parameters, -np.inf)
        outermost = np.ascontiguousarray(np.moveaxis(legal, -1, 0), np.float64)
        return np.moveaxis(outermost, 0, -1)

    @cached_property
    def _below_top(self) -> npt.NDArray[np.float64]:
        largest = self._legal.max(axis=-1, keepdims=True)
        return np.asarray(self._legal - np.where(np.isfinite(largest), largest, 0.0))


def epsilon_greedy(q_values: FloatArray, available: BoolArray, epsilon: float) -> Float32Array:
    """Return the log probabilities of the epsilon-greedy policy, as logits to act by.

    Parameters
    ----------
    q_values : float [..., A]
        Raw values.
    available : bool [..., A]
        Legal actions.
    epsilon : float
        Probability of a uniformly drawn legal action in place of the greedy one.

    Returns
    -------
    float32 [..., A]
        Finite everywhere; where an action is never taken it is far below all others.
    """
    best = Categorical(q_values, available).mode()
    share = epsilon / np.maximum(available.sum(-1, keepdims=True), 1)
    chosen = best[..., None] == np.arange(q_values.shape[-1])
    likely = np.where(chosen, 1 - epsilon, 0.0) + share
    with np.errstate(divide="ignore"):
        logits = np.maximum(np.log(likely), _NEVER)
    return np.where(available, logits, _NEVER).astype(np.float32)
