"""The one rollout loop: episodes of a policy in an environment, step by step.

Recording and training keep every step (:mod:`kd_offline.rollout.collect`), evaluation keeps sums
(:mod:`kd_offline.evaluation.rollout`). Both take their steps from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from kd_offline.distributions.categorical import choose_actions, masked_log_softmax
from kd_offline.environments import stepping
from kd_offline.environments.protocol import BatchedEnvironment
from kd_offline.errors import MismatchError
from kd_offline.rollout.active_episodes import ActiveEpisodePolicy
from kd_offline.seeding import uniforms
from kd_offline.types import (
    Array,
    BoolArray,
    Float32Array,
    IntArray,
    Outcome,
    PolicyOutput,
    SeedArray,
    TeamPolicy,
    View,
)


@dataclass(frozen=True, slots=True)
class Choice:
    """What a behaviour does with one view."""

    actions: IntArray  # [B, N]
    logprob: Float32Array | None = None  # [B, N], under the true mixture of policy and noise
    source: Array | None = None  # uint8 [B, N]


Behaviour = Callable[[int, View, PolicyOutput], Choice]
"""Chooses the actions of a step from its number, its view and what the policy says of it."""


def greedy(step: int, view: View, output: PolicyOutput) -> Choice:
    """Take every agent's most probable legal action."""
    return Choice(choose_actions(output.logits, view.available_actions))


def drawn(seeds: SeedArray) -> Behaviour:
    """Return the behaviour that samples every agent's action at temperature 1."""

    def choose(step: int, view: View, output: PolicyOutput) -> Choice:
        numbers = uniforms(seeds, step, view.alive.shape[1:], "action")
        return Choice(choose_actions(output.logits, view.available_actions, numbers))

    return choose


def sampled(seeds: SeedArray) -> Behaviour:
    """Return the behaviour :func:`drawn` that also states log probabilities, 0 of the absent."""
    draw = drawn(seeds)

    def choose(step: int, view: View, output: PolicyOutput) -> Choice:
        actions = draw(step, view, output).actions
        logp = masked_log_softmax(output.logits, view.available_actions)
        taken = np.take_along_axis(logp, actions[..., None], -1)[..., 0]
        return Choice(actions, np.where(view.alive, taken, 0.0).astype(np.float32))

    return choose


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a batch of episodes: what was seen, said and done, and what came of it."""

    number: int
    view: View
    output: PolicyOutput
    choice: Choice
    outcome: Outcome
    running: BoolArray  # [B], of episodes that were not over before the step
    seen: BoolArray  # [B], of episodes whose view is a new one: running, or over since this view


class Play:
    """Episodes of a batch, one for every seed (uint64 [B]), from their reset to the last end.

    ``view`` is what is seen now; behind the last step the last view of every episode.
    """

    def __init__(
        self, environment: BatchedEnvironment, policy: TeamPolicy, seeds: SeedArray
    ) -> None:
        self._environment, self._seeds = environment, seeds
        self._policy = ActiveEpisodePolicy.begin(policy, seeds)
        self.view = stepping.reset(environment, seeds)

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
            view, output = self.view, self.ask(seen)
            choice = behaviour(number, view, output)
            outcome = stepping.step(self._environment, choice.actions, self._seeds, number)
            yield Step(number, view, output, choice, outcome, running, seen)
            # The last view of an episode counts as well: what follows it has a value.
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

    def ask(self, wanted: BoolArray) -> PolicyOutput:
        """Return what the policy says of the view; of no worth where not ``wanted``, bool [B]."""
        output = self._policy.act(self.view, wanted)
        legal = self.view.available_actions
        if output.logits.shape != legal.shape:
            msg = (
                f"the policy returned logits of shape {output.logits.shape} where "
                f"{self._environment.spec.id} needs {legal.shape}: use a policy made for this "
                "environment"
            )
            raise MismatchError(msg)
        return output
