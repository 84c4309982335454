"""Policies without networks of their own: random play, and mixtures of other teams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kd_offline.distributions.base import Played
from kd_offline.distributions.categorical import Categorical
from kd_offline.errors import MismatchError
from kd_offline.seeding import uniforms
from kd_offline.types import Array, PolicyOutput, SeedArray, TeamPolicy, View, needs_full


@dataclass(frozen=True, slots=True)
class RandomPolicy:
    """Uniform over the legal actions.

    Its logits are equal, so that it is uniform when sampled. With ``drawn`` it draws the action
    itself and puts all probability on it, so that it is uniform even in a team that acts greedily.
    ``actions`` is the kind of distribution.
    """

    drawn: bool = False
    actions: type[Played] = Categorical

    def start(self, seeds: SeedArray) -> tuple[SeedArray, int]:
        """Return seeds and step as memory."""
        return seeds, 0

    def act(
        self, view: View, memory: tuple[SeedArray, int]
    ) -> tuple[PolicyOutput, tuple[SeedArray, int]]:
        """Return the uniform distribution, or that of the drawn action."""
        seeds, step = memory
        even = self.actions.even(view.available_actions)
        logits = even.parameters
        if self.drawn:
            shape = (view.alive.shape[1], *even.numbers)
            action = even.sample(uniforms(seeds, step, shape, "random policy"))
            logits = even.certain(action, view.available_actions)
        return PolicyOutput(logits), (seeds, step + 1)


@dataclass(frozen=True, slots=True)
class MixedTeam:
    """A team in which agent ``i`` acts by ``policies[owner[i]]``.

    Every policy gets the same views and keeps its own memory, so a recurrent expert among students
    has the same memory as in its own team.
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

    @property
    def needs_full(self) -> bool:
        """Whether one of the policies acts by full observations."""
        return needs_full(*self.policies)

    def start(self, seeds: SeedArray) -> tuple[Any, ...]:
        """Return the memories of all policies."""
        return tuple(policy.start(seeds) for policy in self.policies)

    def act(self, view: View, memory: tuple[Any, ...]) -> tuple[PolicyOutput, tuple[Any, ...]]:
        """Return the logits of each agent's owner; embeddings and values are left out."""
        steps = [p.act(view, m) for p, m in zip(self.policies, memory, strict=True)]
        all_logits: Array = np.stack([output.logits for output, _ in steps])
        chosen = all_logits[list(self.owner), :, range(len(self.owner))]  # [N, B, A]
        logits = np.ascontiguousarray(np.moveaxis(chosen, 0, 1))
        return PolicyOutput(logits), tuple(after for _, after in steps)
