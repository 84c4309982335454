"""A trained expert as a team policy, alone or together with its opponents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd_offline.errors import MismatchError
from kd_offline.experts.algorithms import ALGORITHMS
from kd_offline.experts.algorithms.base import Team
from kd_offline.experts.card import ExpertCard
from kd_offline.experts.parameter_sharing import actor_groups
from kd_offline.experts.protocol import Expert
from kd_offline.networks.accelerator import moved
from kd_offline.networks.arithmetic import Shape, ValuePart, compacted
from kd_offline.rollout.active_episodes import Selective
from kd_offline.rollout.collect import TAP
from kd_offline.schemas.dataset import ExpertRecord
from kd_offline.schemas.foreign import ValueCalibration
from kd_offline.types import (
    Array,
    BoolArray,
    IntArray,
    PolicyOutput,
    SeedArray,
    TeamPolicy,
    View,
    needs_full,
)


@dataclass(frozen=True, slots=True)
class TrainedExpert:
    """A frozen expert: its networks, its card, and the digest of its weights.

    An expert with Q-values acts epsilon-greedily with the final epsilon of its training. Greedy
    play is the argmax of its Q-values over the legal actions.
    """

    card: ExpertCard
    digest: str
    team: Team
    reference: str
    with_value: bool = True
    opponents: Expert | None = None  # plays the sides that it did not learn

    def to(self, device: torch.device) -> None:
        """Move the networks, and those of its opponents, to ``device``."""
        for part in (self.team, self.opponents):
            moved(part, device)

    def start(self, seeds: SeedArray) -> tuple[Any, ...]:
        """Return the memory at the start of episodes, its own and its opponents'."""
        opponent_memory = () if self.opponents is None else (self.opponents.start(seeds),)
        return self._policy.start(seeds), *opponent_memory

    def act(self, view: View, memory: tuple[Any, ...]) -> tuple[PolicyOutput, tuple[Any, ...]]:
        """Return logits or Q-values, embeddings [B, N, H] and values [B, N] in raw reward units.

        Raises
        ------
        MismatchError
            It acts by full observations, and the view holds none, or others.
        """
        self._check_full(view)
        output, next_memory = self._policy.act(view, memory[0])
        if self.opponents is None:
            return output, (next_memory,)
        opponent_output, opponent_memory = self.opponents.act(view, memory[1])
        return combine(output, opponent_output, self.learned), (next_memory, opponent_memory)

    def keep(self, memory: tuple[Any, ...], episodes: IntArray) -> tuple[Any, ...] | None:
        """Return the memory of some episodes of a batch; None where there are opponents."""
        if self.opponents is not None or not isinstance(self._policy, Selective):
            return None
        selected = self._policy.keep(memory[0], episodes)
        return None if selected is None else (selected,)

    @property
    def differentiable(self) -> bool:
        """Whether all agents' logits have a gradient by their observations."""
        own = getattr(self._policy, "differentiable", False)
        return self.opponents is None and bool(own)

    def differentiable_logits(self, obs: Tensor, view: View, memory: tuple[Any, ...]) -> Tensor:
        """Return the logits [B, N, A] for ``obs`` [B, N, O], with a graph; memory stays as it is.

        Of value-based experts they are the Q-values.
        """
        found: Tensor = self._policy.differentiable_logits(obs, view, memory[0])  # type: ignore[attr-defined]
        return found

    @property
    def needs_full(self) -> bool:
        """Whether it, or an opponent, acts by full observations."""
        return self.card.environment.full is not None or needs_full(self.opponents)

    @property
    def missing(self) -> tuple[str, ...]:
        """Empty: our own experts are read completely."""
        return ()

    @property
    def layer_widths(self) -> Mapping[str, int]:
        """Widths of its embeddings and taps by the names of their arrays; narrower are padded."""
        widths: dict[str, int] = {}
        for group in self.team.actors.groups:
            taps = {f"{TAP}{name}": width for name, width in group.shape.taps.items()}
            for name, width in {"embedding": group.shape.embedding, **taps}.items():
                widths[name] = max(width, widths.get(name, 0))
        return widths

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
        """Empty: its networks are exported instead."""
        return {}

    @property
    def value_units(self) -> None:
        """None: values are in raw reward units."""

    def calibrated(self, calibration: ValueCalibration | None) -> TrainedExpert:
        """Return the expert unchanged."""
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
        opponent_shapes = self.opponents.actor_shapes()
        return tuple(
            own_shape if learned else opponent_shape
            for own_shape, opponent_shape, learned in zip(
                own, opponent_shapes, self.learned, strict=True
            )
        )

    def actor_parameters(self) -> int:
        """Return the parameters of all actors, a shared network counted once."""
        opponent_parameters = 0 if self.opponents is None else self.opponents.actor_parameters()
        return self.card.parameters.get("actor", 0) + opponent_parameters

    def value_parts(self) -> tuple[ValuePart, ...]:
        """Return its critics or its mixer."""
        return self.team.value_parts()

    @property
    def learned(self) -> BoolArray:
        """Whether each agent's side was learned, bool [N]; other networks are untrained."""
        spec, learn = self.card.environment, self.card.recipe.learn
        names = list(spec.sides)
        return np.array([learn is None or names[k] in learn for k in spec.side_of])

    def _check_full(self, view: View) -> None:
        full, given = self.card.environment.full, view.obs_full
        if full is None or (given is not None and given.shape[-1] == full.width):
            return
        numbers = "none" if given is None else f"{given.shape[-1]} numbers of each agent"
        msg = (
            f"expert {self.reference!r} acts by full observations of {full.width} numbers of each "
            f"agent, but is given {numbers}: choose the environment that it was trained for, or a "
            "dataset that was recorded with its full observations"
        )
        raise MismatchError(msg)

    @property
    def _policy(self) -> TeamPolicy:
        return self.team.policy(with_value=self.with_value)

    def _opponents(self) -> dict[str, str]:
        """Return the name of the opponent of each side that was not learned, without paths."""
        if self.opponents is None:
            return {}
        record = self.opponents.describe()
        opponent_name = f"{record.reference} {record.kind} ({(record.digest or '')[:19]})"
        learn = self.card.recipe.learn or ()
        return {side: opponent_name for side in self.card.environment.sides if side not in learn}

    def mask(self) -> BoolArray | None:
        """Return the features that the actors see, bool [N, O]; None for all."""
        return None if self.card.mask is None else np.array(self.card.mask, bool)

    def describe(self) -> ExpertRecord:
        """Return its record for a manifest, without paths of this machine."""
        recipe = self.card.recipe
        recorded = ALGORITHMS.load(recipe.algorithm).recorded(recipe)
        architecture: dict[str, Any] = recipe.architecture.model_dump(mode="json")
        architecture |= recorded.architecture
        origin = ALGORITHMS.origin(recipe.algorithm)
        if not origin.ours:
            architecture["algorithm_package"] = str(origin)
        return ExpertRecord(
            id=0,
            kind=recipe.algorithm,
            reference=self.reference if self.reference.startswith("bundled") else "trained",
            architecture=architecture,
            parameters=self.card.parameters["actor"],
            digest=self.digest,
            capture=recorded.capture,
            gamma=recipe.gamma,
            bootstraps_truncation=recipe.bootstrap_on_truncation,
            opponents=self._opponents(),
            value_of=recorded.value_of,
        )


def combine(own: PolicyOutput, others: PolicyOutput, learned: BoolArray) -> PolicyOutput:
    """Return the outputs of a team in which agents ``learned`` (bool [N]) are ``own``.

    Embeddings are zero-padded to the wider of the two. Outputs that only one of them has are left
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

    def either(own_values: Array | None, other_values: Array | None) -> Array | None:
        if own_values is None or other_values is None:
            return None
        chosen = learned.reshape(-1, *[1] * (own_values.ndim - 2))
        width = max(own_values.shape[-1], other_values.shape[-1])
        if own_values.ndim == 3:
            own_values, other_values = (_padded(x, width) for x in (own_values, other_values))
        return np.where(chosen, own_values, other_values)

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
