"""Sums over episodes of a team policy in an environment, for a list of evaluation seeds."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from kd_offline.distributions.base import Played
from kd_offline.environments import largest_batch
from kd_offline.environments.protocol import BatchedEnvironment
from kd_offline.errors import UsageError
from kd_offline.rollout import play
from kd_offline.rollout.active_episodes import ActiveEpisodePolicy
from kd_offline.rollout.play import Behaviour, Play, Step
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.types import (
    BoolArray,
    Int8Array,
    IntArray,
    SeedArray,
    TeamPolicy,
    needs_full,
)

DEFAULT_BATCH = 1024
_F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often two policies choose alike on the same views, in sums over each episode.

    Choices are greedy ones whatever the episode was played with. ``kl`` is KL(reference || played)
    in nats at temperature 1 over the legal actions. Only decisions count: of an agent
    that is alive and has two or more legal actions.
    """

    equal: IntArray  # [E, N] decisions at which both choose the same action
    decisions: IntArray  # [E, N] steps at which the agent had two or more legal actions
    joint: IntArray  # [E, K] moments at which all deciding agents of a side choose the same
    moments: IntArray  # [E, K] steps at which anybody of a side decides
    kl: _F64  # [E, N]


@dataclass(frozen=True, slots=True)
class Rollout:
    """Results of a policy in ``E`` episodes, in the order of their seeds."""

    seeds: SeedArray  # [E]
    returns: _F64  # [E, N] sum of each agent's raw rewards
    lengths: IntArray  # [E] transitions
    won: Int8Array  # [E] 1 won, 0 not won, -1 the task has no notion of winning
    alive_steps: IntArray  # [E, N] steps at which the agent acted
    action_counts: IntArray  # [N, T, A] over episodes; T is the longest episode
    agreement: Agreement | None = None

    @property
    def action_frequency(self) -> _F64:
        """Share of each action among the agents that acted at that step: [N, T, A]."""
        total = self.action_counts.sum(axis=-1, keepdims=True)
        return np.asarray(self.action_counts / np.maximum(total, 1))


def rollout(
    environment: BatchedEnvironment,
    policy: TeamPolicy,
    seeds: SeedArray,
    *,
    greedy: bool,
    batch: int = DEFAULT_BATCH,
    reference: TeamPolicy | None = None,
) -> Rollout:
    """Play one episode for every seed.

    Parameters
    ----------
    environment : BatchedEnvironment
    policy : TeamPolicy
        It masks its own observations where it is a student; the loop knows no masks.
    seeds : uint64 [E]
        Evaluation seeds. Start, actions and result of an episode depend on its seed alone.
    greedy : bool
        Masked argmax, or sampling at temperature 1.
    batch : int
        Episodes played at once. It does not change the result, except that matrix products of
        another batch size may round differently in the last bit.
    reference : TeamPolicy, optional
        Runs along on the same views, with its own memory, and is compared step by step.

    Raises
    ------
    UsageError
        No seeds, or a batch below 1.
    MismatchError
        The policy's logits do not fit the environment, or an episode does not end in time.
    """
    if len(seeds) == 0 or batch < 1:
        msg = f"a rollout of {len(seeds)} episodes in batches of {batch}: give at least 1 of each"
        raise UsageError(msg)
    batch = largest_batch(environment, batch)
    chunks = [
        _play(environment, policy, part, play.greedy if greedy else play.drawn(part), reference)
        for part in (seeds[start : start + batch] for start in range(0, len(seeds), batch))
    ]
    return join(chunks)


def _play(
    environment: BatchedEnvironment,
    policy: TeamPolicy,
    seeds: SeedArray,
    behaviour: Behaviour,
    reference: TeamPolicy | None,
) -> Rollout:
    other = None if reference is None else ActiveEpisodePolicy.begin(reference, seeds)
    tally = _Tally.empty(environment.spec, len(seeds), compared=other is not None)
    full = needs_full(reference)
    for step in Play(environment, policy, seeds, full=full).steps(behaviour):
        acting = step.view.alive & step.running[:, None]
        if other is not None:
            reference_logits = other.act(step.view, step.running).logits
            tally.compare(
                step.policy,
                type(step.policy)(reference_logits, step.view.available_actions),
                acting,
            )
        tally.add(step, acting)
    return tally.rollout(seeds)


@dataclass(slots=True)
class _Tally:
    """Running sums of one batch of episodes."""

    returns: _F64
    lengths: IntArray
    won: Int8Array
    alive_steps: IntArray
    counts: list[IntArray] = field(default_factory=list)
    side_of: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    agreement: Agreement | None = None

    @classmethod
    def empty(cls, spec: EnvironmentSpec, n: int, *, compared: bool) -> _Tally:
        def whole(*shape: int) -> IntArray:
            return np.zeros(shape, np.int64)

        shape, sides = (n, spec.n_agents), (n, len(spec.sides))
        agreement = None
        if compared:
            agreement = Agreement(
                equal=whole(*shape),
                decisions=whole(*shape),
                joint=whole(*sides),
                moments=whole(*sides),
                kl=np.zeros(shape),
            )
        return cls(
            returns=np.zeros(shape),
            lengths=whole(n),
            won=np.full(n, -1, np.int8),
            alive_steps=whole(*shape),
            side_of=np.array(spec.side_of),
            agreement=agreement,
        )

    def add(self, step: Step, acting: BoolArray) -> None:
        running, outcome = step.running, step.outcome
        self.returns += np.where(running[:, None], outcome.reward, 0.0)
        self.lengths[running] = step.number + 1
        self.won[running] = outcome.won[running]
        self.alive_steps += acting
        self.counts.append(step.policy.counts(step.choice.actions, acting))

    def compare(self, policy: Played, reference: Played, acting: BoolArray) -> None:
        agreement = self.agreement
        if agreement is None:
            return
        deciding = acting & policy.has_choice(policy.available)
        agrees = policy.agrees(reference)
        agreement.equal[:] += agrees & deciding
        agreement.decisions[:] += deciding
        for side in range(agreement.joint.shape[1]):
            members = self.side_of == side
            anybody = deciding[:, members].any(axis=1)
            agreement.joint[:, side] += (agrees | ~deciding)[:, members].all(axis=1) & anybody
            agreement.moments[:, side] += anybody
        agreement.kl[:] += np.where(deciding, reference.kl(policy), 0.0)

    def rollout(self, seeds: SeedArray) -> Rollout:
        counts = np.stack(self.counts, axis=1)
        return Rollout(
            seeds, self.returns, self.lengths, self.won, self.alive_steps, counts, self.agreement
        )


def join(chunks: list[Rollout]) -> Rollout:
    """Return the episodes of several rollouts of one policy as one, in their order."""

    def rows(name: str) -> Any:
        return np.concatenate([getattr(chunk, name) for chunk in chunks])

    return Rollout(
        seeds=rows("seeds"),
        returns=rows("returns"),
        lengths=rows("lengths"),
        won=rows("won"),
        alive_steps=rows("alive_steps"),
        action_counts=_sum_counts([chunk.action_counts for chunk in chunks]),
        agreement=_join_agreement([c.agreement for c in chunks if c.agreement is not None]),
    )


def _sum_counts(counts: list[IntArray]) -> IntArray:
    steps = max(c.shape[1] for c in counts)
    return np.asarray(
        np.sum([np.pad(c, ((0, 0), (0, steps - c.shape[1]), (0, 0))) for c in counts], axis=0)
    )


def _join_agreement(parts: list[Agreement]) -> Agreement | None:
    if not parts:
        return None
    return Agreement(
        *(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Agreement))
    )
