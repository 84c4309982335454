"""A trained expert as a team policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kd_offline.experts.one_sided import joined
from kd_offline.experts.ppo import ValueNorm
from kd_offline.experts.team import ActorCritic, Memory
from kd_offline.experts.value_team import ValuePolicy, ValueTeam
from kd_offline.schemas.dataset import Capture, ExpertRecord
from kd_offline.schemas.expert import ExpertCard
from kd_offline.types import BoolArray, IntArray, PolicyOutput, SeedArray, TeamPolicy, View

if TYPE_CHECKING:
    from kd_offline.experts.load import AnyExpert


class NetworkPolicy:
    """Actors, and critics where ``with_value``, as a :class:`~kd_offline.types.TeamPolicy`."""

    def __init__(self, model: ActorCritic, norm: ValueNorm, *, with_value: bool = True) -> None:
        self._model = model
        self._norm = norm
        self._with_value = with_value

    def start(self, seeds: SeedArray) -> Memory:
        """Return the memory of fresh episodes."""
        return self._model.start(len(seeds))

    @torch.inference_mode()
    def act(self, view: View, memory: Memory) -> tuple[PolicyOutput, Memory]:
        """Return logits, embeddings and values in raw reward units."""
        obs, last = torch.from_numpy(view.obs), view.last_actions
        taken = None if last is None else torch.from_numpy(last)
        logits, embedding, memory = self._model.act(obs, memory, taken)
        value = None
        if self._with_value:
            normal, memory = self._model.value(torch.from_numpy(view.state), obs, memory)
            mean, deviation = self._norm.statistics(self._model.side_of)
            value = (normal * deviation + mean).numpy()
        return PolicyOutput(logits.numpy(), embedding.numpy(), value), memory

    def keep(self, memory: Memory, episodes: IntArray) -> Memory:
        """Return the memory of some episodes of a batch."""
        return self._model.keep(memory, episodes)


@dataclass(frozen=True, slots=True)
class Expert:
    """A frozen team of experts: a policy, its card, and the digest of its weights.

    An expert with Q-values acts by them epsilon-greedily, with the epsilon that its training ended
    with, so that greedy play is the argmax of its values over the legal actions.
    """

    card: ExpertCard
    digest: str
    model: ActorCritic | ValueTeam
    norm: ValueNorm
    reference: str
    with_value: bool = True
    opponents: AnyExpert | None = None  # who plays the sides that it did not learn

    def start(self, seeds: SeedArray) -> tuple[Any, ...]:
        """Return the memory of fresh episodes, its own and those of its opponents."""
        others = () if self.opponents is None else (self.opponents.start(seeds),)
        return self.model.start(len(seeds)), *others

    def act(self, view: View, memory: tuple[Any, ...]) -> tuple[PolicyOutput, tuple[Any, ...]]:
        """Return logits or Q-values, embeddings [B, N, H] and values [B, N] in raw reward units."""
        output, after = self._policy().act(view, memory[0])
        if self.opponents is None:
            return output, (after,)
        others, theirs = self.opponents.act(view, memory[1])
        return joined(output, others, self.learned), (after, theirs)

    def keep(self, memory: tuple[Any, ...], episodes: IntArray) -> tuple[Any, ...] | None:
        """Return the memory of some episodes of a batch; None where there are opponents."""
        return None if self.opponents is not None else (self.model.keep(memory[0], episodes),)

    @property
    def learned(self) -> BoolArray:
        """Whether the agent's side learned, bool [N]; the others' networks are as they began."""
        spec, learn = self.card.environment, self.card.recipe.learn
        names = list(spec.sides)
        return np.array([learn is None or names[k] in learn for k in spec.side_of])

    def _policy(self) -> TeamPolicy:
        if isinstance(self.model, ValueTeam):
            epsilon = self.model.settings.epsilon_end
            return ValuePolicy(self.model, self.norm, epsilon, with_value=self.with_value)
        return NetworkPolicy(self.model, self.norm, with_value=self.with_value)

    def _opponents(self) -> dict[str, str]:
        """Return who plays each side that it did not learn; never a path of this machine."""
        if self.opponents is None:
            return {}
        theirs = self.opponents.describe()
        who = f"{theirs.reference} {theirs.kind} ({(theirs.digest or '')[:19]})"
        learn = self.card.recipe.learn or ()
        return {side: who for side in self.card.environment.sides if side not in learn}

    def mask(self) -> BoolArray | None:
        """Return what the actor may see, bool [N, O], or None for everything."""
        return None if self.card.mask is None else np.array(self.card.mask, bool)

    def describe(self) -> ExpertRecord:
        """Return the expert's entry of a manifest; a path of this machine is not part of it."""
        recipe = self.card.recipe
        layer = "GRU state after the step" if recipe.architecture.gru else "last hidden layer"
        architecture: dict[str, Any] = recipe.architecture.model_dump(mode="json")
        if recipe.value_based:
            architecture["mixer"] = recipe.algorithm
        return ExpertRecord(
            id=0,
            kind=recipe.algorithm,
            reference=self.reference if self.reference.startswith("bundled") else "trained",
            architecture=architecture,
            parameters=self.card.parameters["actor"],
            digest=self.digest,
            capture=Capture(output="q_values" if recipe.value_based else "logits", embedding=layer),
            gamma=recipe.gamma,
            bootstraps_truncation=recipe.bootstrap_on_truncation,
            opponents=self._opponents(),
            value_of=(
                "discounted sum of the team's mean reward under its greedy actions, raw units"
                if recipe.value_based
                else "discounted sum of the mean reward of the agent's side, raw units"
            ),
        )
