"""A trained expert as a team policy, and in one team with opponents that others play."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kd_offline.errors import MismatchError
from kd_offline.experts.algorithms import ALGORITHMS
from kd_offline.experts.algorithms.base import Team
from kd_offline.experts.card import ExpertCard
from kd_offline.experts.parameter_sharing import actor_groups
from kd_offline.experts.protocol import Expert
from kd_offline.networks.arithmetic import Shape, ValuePart, compacted
from kd_offline.rollout.active_episodes import Selective
from kd_offline.schemas.dataset import ExpertRecord
from kd_offline.schemas.foreign import ValueCalibration
from kd_offline.types import Array, BoolArray, IntArray, PolicyOutput, SeedArray, TeamPolicy, View


@dataclass(frozen=True, slots=True)
class TrainedExpert:
    """A frozen team of experts: a policy, its card, and the digest of its weights.

    An expert with Q-values acts by them epsilon-greedily, with the epsilon that its training ended
    with, so that greedy play is the argmax of its values over the legal actions.
    """

    card: ExpertCard
    digest: str
    team: Team
    reference: str
    with_value: bool = True
    opponents: Expert | None = None  # who plays the sides that it did not learn

    def start(self, seeds: SeedArray) -> tuple[Any, ...]:
        """Return the memory of fresh episodes, its own and those of its opponents."""
        others = () if self.opponents is None else (self.opponents.start(seeds),)
        return self._policy.start(seeds), *others

    def act(self, view: View, memory: tuple[Any, ...]) -> tuple[PolicyOutput, tuple[Any, ...]]:
        """Return logits or Q-values, embeddings [B, N, H] and values [B, N] in raw reward units."""
        output, after = self._policy.act(view, memory[0])
        if self.opponents is None:
            return output, (after,)
        others, theirs = self.opponents.act(view, memory[1])
        return joined(output, others, self.learned), (after, theirs)

    def keep(self, memory: tuple[Any, ...], episodes: IntArray) -> tuple[Any, ...] | None:
        """Return the memory of some episodes of a batch; None where there are opponents."""
        if self.opponents is not None or not isinstance(self._policy, Selective):
            return None
        kept = self._policy.keep(memory[0], episodes)
        return None if kept is None else (kept,)

    @property
    def missing(self) -> tuple[str, ...]:
        """Nothing: what is ours is read whole."""
        return ()

    @property
    def embedding_width(self) -> int:
        """Width of its embeddings, H."""
        return max(group.shape.embedding for group in self.team.actors.groups)

    @property
    def mask_name(self) -> str | None:
        """Name of the mask that it was trained under; None: it sees everything."""
        return self.card.recipe.mask

    @property
    def learned_sides(self) -> tuple[str, ...] | None:
        """Sides that it learned; None: all."""
        return self.card.recipe.learn

    @property
    def modules(self) -> Mapping[int, Any]:
        """Nothing: its networks are exported instead."""
        return {}

    @property
    def value_units(self) -> None:
        """There is nothing to find out: values are in raw units."""

    def calibrated(self, calibration: ValueCalibration | None) -> TrainedExpert:
        """Return the expert as it is."""
        return self

    def actor_shapes(self) -> tuple[Shape, ...]:
        """Return the actor that each agent carries, without inputs that a mask hides."""
        spec, architecture = self.card.environment, self.card.recipe.architecture
        by_agent = {i: g.shape for g in actor_groups(spec, architecture) for i in g.agents}
        own = [by_agent[i] for i in range(spec.n_agents)]
        if (seen := self.mask()) is not None:
            copies = 1 + architecture.motion
            own = [
                compacted(shape, seen=int(row.sum()), width=width, copies=copies)
                for shape, row, width in zip(own, seen, spec.obs_widths, strict=True)
            ]
        if self.opponents is None:
            return tuple(own)
        others = self.opponents.actor_shapes()
        return tuple(
            mine if learned else theirs
            for mine, theirs, learned in zip(own, others, self.learned, strict=True)
        )

    def actor_parameters(self) -> int:
        """Return the parameters of all actors, a shared network counted once."""
        theirs = 0 if self.opponents is None else self.opponents.actor_parameters()
        return self.card.parameters.get("actor", 0) + theirs

    def value_parts(self) -> tuple[ValuePart, ...]:
        """Return its critics or its mixer."""
        return self.team.value_parts()

    @property
    def learned(self) -> BoolArray:
        """Whether the agent's side learned, bool [N]; the others' networks are as they began."""
        spec, learn = self.card.environment, self.card.recipe.learn
        names = list(spec.sides)
        return np.array([learn is None or names[k] in learn for k in spec.side_of])

    @property
    def _policy(self) -> TeamPolicy:
        return self.team.policy(with_value=self.with_value)

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
        recorded = ALGORITHMS.load(recipe.algorithm).recorded(recipe)
        architecture: dict[str, Any] = recipe.architecture.model_dump(mode="json")
        return ExpertRecord(
            id=0,
            kind=recipe.algorithm,
            reference=self.reference if self.reference.startswith("bundled") else "trained",
            architecture=architecture | dict(recorded.architecture),
            parameters=self.card.parameters["actor"],
            digest=self.digest,
            capture=recorded.capture,
            gamma=recipe.gamma,
            bootstraps_truncation=recipe.bootstrap_on_truncation,
            opponents=self._opponents(),
            value_of=recorded.value_of,
        )


def joined(own: PolicyOutput, others: PolicyOutput, learned: BoolArray) -> PolicyOutput:
    """Return what a team says whose agents ``learned`` (bool [N]) are ``own`` and the rest others.

    Embeddings are padded with zeros to the wider of the two; what only one of them says is left
    out.

    Raises
    ------
    MismatchError
        One acts by Q-values, the other does not: no array could hold what both say.
    """
    if (own.q_values is None) != (others.q_values is None):
        msg = (
            "an expert with Q-values and one with logits cannot be recorded as one team: "
            "train all sides by algorithms of one kind"
        )
        raise MismatchError(msg)

    def either(mine: Array | None, theirs: Array | None) -> Array | None:
        if mine is None or theirs is None:
            return None
        chosen = learned.reshape(-1, *[1] * (mine.ndim - 2))
        width = max(mine.shape[-1], theirs.shape[-1])
        if mine.ndim == 3:
            mine, theirs = (_padded(x, width) for x in (mine, theirs))
        return np.where(chosen, mine, theirs)

    logits = either(own.logits, others.logits)
    assert logits is not None  # noqa: S101 - every policy has logits
    return PolicyOutput(
        logits=logits,
        embedding=either(own.embedding, others.embedding),
        value=either(own.value, others.value),
        q_values=either(own.q_values, others.q_values),
    )


def _padded(values: Array, width: int) -> Array:
    return np.pad(values, ((0, 0), (0, 0), (0, width - values.shape[-1])))
