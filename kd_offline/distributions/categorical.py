"""Categorical actions: from logits to legal actions and their probabilities, in NumPy.

Policies only state logits; the action is chosen here, by everything that steps environments.
Greedy is the argmax over the legal actions. Sampled is the inverse of the cumulative distribution
at temperature 1 at a given uniform number, so that the action of an episode depends on that
episode alone.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kd_offline.types import Array, BoolArray, FloatArray, IntArray

NEVER = np.float32(-1e9)
"""Logit of an action that is never taken; finite, so that differences of logits stay numbers."""


def choose_actions(
    logits: FloatArray, available_actions: BoolArray, numbers: FloatArray | None = None
) -> IntArray:
    """Choose one legal action for each agent.

    Parameters
    ----------
    logits : float [..., A]
        Raw logits, temperature 1.
    available_actions : bool [..., A]
        Legal actions. A row without any (an absent agent) yields action 0.
    numbers : float64 [...] or None
        Uniform numbers in [0, 1) for sampling by inverse CDF; None chooses greedily, ties to the
        lowest index.

    Returns
    -------
    int64 [...]
    """
    if numbers is None:
        return np.asarray(np.argmax(_legal_only(logits, available_actions), axis=-1), np.int64)
    # Unnormalised weights: u * total is below total for every u < 1, so the first partial sum
    # above it always exists and always belongs to a legal action.
    reached = np.cumsum(_weights(logits, available_actions), axis=-1)
    target = numbers[..., None] * reached[..., -1:]
    return np.asarray(np.argmax(reached > target, axis=-1), np.int64)


def has_choice(available_actions: BoolArray) -> BoolArray:
    """Return where an agent has two or more legal actions: bool [...] of bool [..., A].

    Only these decisions count in figures of agreement: with one legal action everybody agrees.
    """
    found: BoolArray = available_actions.sum(axis=-1) > 1
    return found


def epsilon_greedy(
    q_values: FloatArray, available_actions: BoolArray, epsilon: float
) -> npt.NDArray[np.float32]:
    """Return the log probabilities of the epsilon-greedy policy, as logits to act by.

    Parameters
    ----------
    q_values : float [..., A]
        Raw values.
    available_actions : bool [..., A]
        Legal actions.
    epsilon : float
        Probability of a uniformly drawn legal action in place of the greedy one.

    Returns
    -------
    float32 [..., A]
        Finite everywhere; where an action is never taken it is far below all others.
    """
    best = choose_actions(q_values, available_actions)
    share = epsilon / np.maximum(available_actions.sum(-1, keepdims=True), 1)
    chosen = best[..., None] == np.arange(q_values.shape[-1])
    likely = np.where(chosen, 1 - epsilon, 0.0) + share
    with np.errstate(divide="ignore"):
        logits = np.maximum(np.log(likely), NEVER)
    return np.where(available_actions, logits, NEVER).astype(np.float32)


def masked_log_softmax(logits: FloatArray, available_actions: BoolArray) -> npt.NDArray[np.float64]:
    """Return log probabilities over the legal actions: float64 [..., A], -inf where illegal.

    A row without a legal action is -inf everywhere, never NaN.
    """
    legal = _legal_only(logits, available_actions)
    top = _top(legal)
    total = np.exp(legal - top).sum(axis=-1, keepdims=True)
    return np.asarray(legal - top - np.log(np.where(total > 0, total, 1.0)))


def mixture_probability(
    logits: FloatArray, available_actions: BoolArray, actions: Array, share: FloatArray
) -> npt.NDArray[np.float64]:
    """Return the probability of ``actions`` under ``(1 - share) policy + share uniform``.

    Parameters
    ----------
    logits : float [..., A]
    available_actions : bool [..., A]
        Legal actions; a row without any gives 0.
    actions : int [...]
    share : float, to be broadcast to [...]
        Weight of the uniform distribution over the legal actions.
    """
    logp = masked_log_softmax(logits, available_actions)
    taken = np.take_along_axis(logp, actions[..., None], -1)[..., 0]
    legal = np.maximum(available_actions.sum(-1), 1)
    none = ~available_actions.any(-1)
    return np.where(none, 0.0, (1 - share) * np.exp(taken) + share / legal)


def _legal_only(logits: FloatArray, available: BoolArray) -> npt.NDArray[np.float64]:
    """Return legal logits [..., A], the actions outermost in memory.

    NumPy reduces a short last axis forty times slower than a short first one.
    """
    legal = np.where(available, logits, -np.inf)
    outermost = np.ascontiguousarray(np.moveaxis(legal, -1, 0), np.float64)
    return np.moveaxis(outermost, 0, -1)


def _top(legal: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    top = legal.max(axis=-1, keepdims=True)
    return np.where(np.isfinite(top), top, 0.0)


def _weights(logits: FloatArray, available: BoolArray) -> npt.NDArray[np.float64]:
    legal = _legal_only(logits, available)
    return np.asarray(np.exp(legal - _top(legal)))
