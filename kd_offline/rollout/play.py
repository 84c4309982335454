"""The rollout loop: episodes of a policy in an environment, step by step.

Recording and training store every step (:mod:`kd_offline.rollout.collect`), evaluation stores sums
(:mod:`kd_offline.evaluation.rollout`). Both use this loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from kd_offline import distributions
from kd_offline.distributions.base import Played
from kd_offline.environments import stepping
from kd_offline.environments.protocol import BatchedEnvironment
from kd_offline.errors import MismatchError
from kd_offline.rollout.active_episodes import ActiveEpisodePolicy
from kd_offline.seeding import uniforms
from kd_offline.types import (
    Array,
    BoolArray,
    Float32Array,
    Outcome,
    PolicyOutput,
    SeedArray,
    TeamPolicy,
    View,
    needs_full,
)


@dataclass(frozen=True, slots=True)
class Choice:
    """The actions that a behaviour chooses for one view."""

    actions: Array  # [B, N], or [B, N, *D] where an action is several numbers
    logprob: Float32Array | None = None  # [B, N], under the true mixture of policy and noise
    source: Array | None = None  # uint8 [B, N]


Behaviour = Callable[[int, View, Played], Choice]
"""A function that chooses actions from the step's number, its view and the policy."""


def greedy(step: int, view: View, policy: Played) -> Choice:
    """Return every agent's most probable legal action."""
    return Choice(policy.mode())


def drawn(seeds: SeedArray) -> Behaviour:
    """Return a behaviour that samples every agent's action at temperature 1."""

    def choose(step: int, view: View, policy: Played) -> Choice:
        shape = (*view.alive.shape[1:], *policy.numbers)
        return Choice(policy.sample(uniforms(seeds, step, shape, "action")))

    return choose


def sampled(seeds: SeedArray) -> Behaviour:
    """Return the behaviour :func:`drawn` with log probabilities; they are 0 for absent agents."""
    draw = drawn(seeds)

    def choose(step: int, view: View, policy: Played) -> Choice:
        actions = draw(step, view, policy).actions
        log_probs = np.where(view.alive, policy.log_prob(actions), 0.0)
        return Choice(actions, log_probs.astype(np.float32))

    return choose


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a batch of episodes: view, outputs, actions and outcome."""

    number: int
    view: View
    output: PolicyOutput
    policy: Played  # the distribution that ``output`` states
    choice: Choice
    outcome: Outcome
    running: BoolArray  # [B], True for episodes that had not ended before the step
    seen: BoolArray  # [B], True for episodes whose view is new: running, or just ended


class Play:
    """The episodes of a batch, one for every seed (uint64 [B]), from reset to the last end.

    ``view`` is the current view; after the last step it is the final view of every episode. Views
    hold full observations where the policy needs them, or with ``full``.

    Raises
    ------
    MismatchError
        The environment gives no full observations, where they are needed.
    """

    def __init__(
        self,
        environment: BatchedEnvironment,
        policy: TeamPolicy,
        seeds: SeedArray,
        *,
        full: bool = False,
    ) -> None:
        self._environment, self._seeds = environment, seeds
        self._actions = distributions.played(environment.spec)
        self._policy = ActiveEpisodePolicy.begin(policy, seeds)
        full = full or needs_full(policy)
        self._full = stepping.full_spec(environment).full if full else None
        self.view = stepping.reset(environment, seeds, self._full)

    def steps(self, behaviour: Behaviour) -> Iterator[Step]:
        """Yield every step until all episodes are over.

        Raises
        ------
        MismatchError
            An episode does not end within the environment's limit, or policy or environment give
            something else than their spec says.
        UserCodeError
            Policy or environment fail, or give values that are not finite.
        """
        spec, batch = self._environment.spec, len(self._seeds)
        running, seen = np.ones(batch, bool), np.ones(batch, bool)
        for number in range(spec.episode_limit):
            view, output = self.view, self.policy_output(seen)
            policy = self._actions(output.logits, view.available_actions)
            choice = behaviour(number, view, policy)
            outcome = stepping.step(
                self._environment, choice.actions, self._seeds, number, self._full
            )
            yield Step(number, view, output, policy, choice, outcome, running, seen)
            # The final view of an episode is needed as well, for its value.
            seen, running = running, running & ~(outcome.terminated | outcome.truncated)
            self.view = replace(outcome.view, last_actions=choice.actions)
            if not running.any():
                return
        msg = (
            f"{int(running.sum())} of {batch} episodes of {spec.id} had not ended after its limit "
            f"of {spec.episode_limit} steps: correct the environment's episode_limit or let it "
            "truncate"
        )
        raise MismatchError(msg)

    def policy_output(self, active: BoolArray) -> PolicyOutput:
        """Return the policy's outputs for the view; arbitrary where not ``active``, bool [B]."""
        output = self._policy.act(self.view, active)
        spec = self._environment.spec
        shape = (*self.view.alive.shape, self._actions.width(spec))
        if output.logits.shape != shape:
            msg = (
                f"the policy returned logits of shape {output.logits.shape} where {spec.id} needs "
                f"{shape}: use a policy made for this "
                "environment"
            )
            raise MismatchError(msg)
        return output
