"""From logits to actions, in one place, and the two policies that need no network.

Policies only say logits; the action is chosen here, by the recording loop and the rollout loop
alike. Greedy is the argmax over the legal actions. Sampled is the inverse of the cumulative
distribution at temperature 1 at a given uniform number, so that the action of an episode depends
on that episode alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kd_offline.errors import MismatchError
from kd_offline.seeding import uniforms
from kd_offline.types import (
    Array,
    BoolArray,
    FloatArray,
    IntArray,
    PolicyOutput,
    SeedArray,
    TeamPolicy,
    View,
)

_NEVER = np.float32(-1e9)  # finite, so that differences of logits stay numbers


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
        logits = np.maximum(np.log(likely), _NEVER)
    return np.where(available_actions, logits, _NEVER).astype(np.float32)


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


@dataclass(frozen=True, slots=True)
class RandomPolicy:
    """Uniform over the legal actions.

    Its logits are equal, so it is uniform when sampled. With ``drawn`` it draws the action itself
    and puts all weight on it: then it is uniform however actions are chosen, which a team needs
    whose other members play greedily.
    """

    drawn: bool = False

    def start(self, seeds: SeedArray) -> tuple[SeedArray, int]:
        """Return the seeds and the step as memory."""
        return seeds, 0

    def act(
        self, view: View, memory: tuple[SeedArray, int]
    ) -> tuple[PolicyOutput, tuple[SeedArray, int]]:
        """Return equal logits, or those of the drawn action."""
        seeds, step = memory
        legal = view.available_actions
        logits = np.zeros(legal.shape, np.float32)
        if self.drawn:
            numbers = uniforms(seeds, step, (legal.shape[1],), "random policy")
            action = choose_actions(logits, legal, numbers)
            logits[action[..., None] != np.arange(legal.shape[2])] = _NEVER
        return PolicyOutput(logits), (seeds, step + 1)


@dataclass(frozen=True, slots=True)
class MixedTeam:
    """A team in which agent ``i`` acts by ``policies[owner[i]]``.

    Every policy sees the same views and keeps its own memory, so a recurrent expert among students
    remembers just what it would have remembered in its own team.
    """

    policies: tuple[TeamPolicy, ...]
    owner: tuple[int, ...]

    @classmethod
    def swapped(
        cls, base: TeamPolicy, other: TeamPolicy, agents: Sequence[int], n_agents: int
    ) -> MixedTeam:
        """Return ``base`` with the given agents (indices) played by ``other``."""
        return cls((base, other), tuple(int(i in set(agents)) for i in range(n_agents)))

    def __post_init__(self) -> None:
        if not all(0 <= k < len(self.policies) for k in self.owner):
            msg = (
                f"owner {self.owner} names a policy that is not there: "
                f"give indices below {len(self.policies)}, one for each agent"
            )
            raise MismatchError(msg)

    def start(self, seeds: SeedArray) -> tuple[Any, ...]:
        """Return the memories of all policies."""
        return tuple(policy.start(seeds) for policy in self.policies)

    def act(self, view: View, memory: tuple[Any, ...]) -> tuple[PolicyOutput, tuple[Any, ...]]:
        """Return the logits of each agent's owner; embeddings and values are left out."""
        steps = [p.act(view, m) for p, m in zip(self.policies, memory, strict=True)]
        every: Array = np.stack([output.logits for output, _ in steps])
        chosen = every[list(self.owner), :, range(len(self.owner))]  # [N, B, A]
        logits = np.ascontiguousarray(np.moveaxis(chosen, 0, 1))
        return PolicyOutput(logits), tuple(after for _, after in steps)
