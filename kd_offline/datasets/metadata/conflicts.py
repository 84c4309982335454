"""How far apart the recorded experts are where they were in nearly the same situation."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import numpy as np

from kd_offline.datasets.reading.nearest import NearestSteps
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.schemas.dataset import ExpertConflict
from kd_offline.seeding import generator
from kd_offline.types import Array, FloatArray

EPISODES = 200
"""Episodes of each expert that are read."""

STEPS = 2000
"""Decisions of each agent and expert that are compared."""

RADIUS = 0.5
"""Deviations, of the mean feature, within which two observations count as the same situation."""


class _Decisions(NamedTuple):
    """Decisions of one agent: observations, log probabilities and legal actions."""

    obs: Array  # [M, O]
    log_policy: FloatArray  # [M, A], 0 where illegal
    legal: Array  # [M, A]


def expert_conflicts(buffer: ExpertBuffer) -> tuple[ExpertConflict, ...]:
    """Return the divergence of the policies of each two experts, on a sample of their episodes.

    Every decision of one expert is compared with the nearest one of the other, by the agent's
    observation in deviations, if it is within :data:`RADIUS` and the same actions are legal. Empty
    where one expert was recorded, or none of them by its logits.
    """
    if not (buffer.has("episodes/expert_id") and buffer.has("steps/logits")):
        return ()
    experts = np.unique(buffer.episodes("expert_id")).tolist()
    if len(experts) < len(("one", "other")):
        return ()
    sampled = {expert: _sample(buffer, expert) for expert in experts}
    return tuple(
        _conflict(one, other, sampled[one], sampled[other])
        for one, other in combinations(experts, 2)
    )


def _sample(buffer: ExpertBuffer, expert: int) -> list[_Decisions]:
    """Return decisions of every agent in the episodes of an expert."""
    episodes = np.flatnonzero(buffer.episodes("expert_id") == expert)
    rng = generator(0, "expert conflicts", expert)
    if len(episodes) > EPISODES:
        episodes = np.sort(rng.choice(episodes, EPISODES, replace=False))
    names = [f"steps/{name}" for name in ("obs", "logits", "available_actions", "alive")]
    obs, logits, legal, alive = buffer.load(names, episodes).values()
    decisions = []
    for agent in range(buffer.spec.n_agents):
        rows = np.flatnonzero(alive[:, agent] & (legal[:, agent].sum(-1) > 1))
        if len(rows) > STEPS:
            rows = np.sort(rng.choice(rows, STEPS, replace=False))
        own = legal[rows, agent]
        log_policy = _log_softmax(logits[rows, agent], own)
        decisions.append(_Decisions(obs[rows, agent], log_policy, own))
    return decisions


def _log_softmax(logits: Array, legal: Array) -> FloatArray:
    values = np.where(legal, logits.astype(np.float64), -np.inf)
    values = values - values.max(-1, keepdims=True, initial=-1e300)
    logs = values - np.log(np.exp(values).sum(-1, keepdims=True))
    return np.where(legal, logs, 0.0)


def _conflict(
    one: int, other: int, first: list[_Decisions], second: list[_Decisions]
) -> ExpertConflict:
    found = [part for pair in zip(first, second, strict=True) for part in _compared(*pair)]
    total = sum(len(own.obs) for decisions in (first, second) for own in decisions)
    divergence = np.concatenate(found) if found else np.zeros(0)
    return ExpertConflict(
        experts=(one, other),
        kl=float(divergence.mean()) if len(divergence) else None,
        compared=len(divergence) / total if total else 0.0,
    )


def _compared(one: _Decisions, other: _Decisions) -> Iterator[FloatArray]:
    """Yield KL of each decision from the nearest of the other expert, both ways, in nats."""
    if not (len(one.obs) and len(other.obs)):
        return
    deviation = np.concatenate([one.obs, other.obs]).astype(np.float64).std(0)
    scale = np.where(deviation > 1e-6, deviation, 1.0)
    for own, theirs in ((one, other), (other, one)):
        near = NearestSteps(theirs.obs / scale).find(own.obs / scale, 1)
        place = near.place[:, 0]
        same = (own.legal == theirs.legal[place]).all(-1)
        same &= near.distance[:, 0] <= RADIUS**2 * own.obs.shape[-1]
        gaps = own.log_policy - theirs.log_policy[place]
        yield (np.exp(own.log_policy) * own.legal * gaps).sum(-1)[same]
