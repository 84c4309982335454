"""Compute the targets of episodes, by the same function for a whole dataset and for one batch.

Everything is indexed by step [S, ...], whole episodes one after the other. In a batch the steps are
packed: the first of every episode, then the second of all that have one, the longest episode first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kd_offline import distributions
from kd_offline.datasets import ExpertBuffer
from kd_offline.datasets.loading.loader import Batch
from kd_offline.datasets.loading.sampler import epoch_order
from kd_offline.distillation.dataset_statistics import DatasetStatistics, deciding
from kd_offline.distillation.own_episodes import own_episodes, passes_over
from kd_offline.distillation.terms.active import ActiveTerms
from kd_offline.distillation.terms.base import TargetBatch, recorded_expert
from kd_offline.distillation.values import value_logits
from kd_offline.distributions.base import Learned
from kd_offline.distributions.categorical_tensors import last_axis_outermost
from kd_offline.schemas.dataset import ExpertRecord
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.recipes import DistillRecipe
from kd_offline.students.networks import StudentTeam, one_hot
from kd_offline.types import Array, IntArray


@dataclass(frozen=True, slots=True)
class TargetContext:
    """Everything that is needed to compute targets, the same for all episodes."""

    spec: EnvironmentSpec
    expert: ExpertRecord | None
    terms: ActiveTerms
    statistics: DatasetStatistics
    team: StudentTeam  # only its way of taking inputs matters

    @classmethod
    def of(
        cls,
        buffer: ExpertBuffer,
        terms: ActiveTerms,
        statistics: DatasetStatistics,
        team: StudentTeam,
    ) -> TargetContext:
        """Return the context of a dataset, and of students that take inputs as ``team`` does."""
        return cls(buffer.spec, recorded_expert(buffer), terms, statistics, team)

    @property
    def recipe(self) -> DistillRecipe:
        """The recipe of the distillation."""
        return self.terms.recipe


@dataclass(frozen=True, slots=True)
class Targets:
    """Inputs of the ``S`` steps of some episodes, and the targets of the loss terms."""

    inputs: Tensor  # [S, N, O'], scaled and masked
    last_actions: Tensor  # one-hot [S, N, A], zero in the first step; empty where not used
    available: Tensor  # bool [S, N, A]
    weight: Tensor  # [S, N], 1 where an agent's decision counts
    alive: Tensor  # [S, N], 1 where an agent is alive, forced decisions included
    expert_policy: Tensor | None = None  # what is kept of it, [S, N, K]
    terms: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)  # by term and name

    def tensors(self) -> dict[str, Tensor]:
        """Return everything by name; those of terms as ``term/name``."""
        own = {name: getattr(self, name) for name in _SHARED}
        out = {name: values for name, values in own.items() if values is not None}
        for term, targets in self.terms.items():
            out |= {f"{term}/{name}": values for name, values in targets.items()}
        return out

    def to(self, device: torch.device) -> Targets:
        """Return the targets on a device."""
        return Targets.of({name: values.to(device) for name, values in self.tensors().items()})

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Targets:
        """Return targets made from what :meth:`tensors` returned."""
        terms: dict[str, dict[str, Tensor]] = {}
        for name, values in tensors.items():
            term, found, target = name.partition("/")
            if found:
                terms.setdefault(term, {})[target] = values
        own = {name: tensors.get(name) for name in _SHARED}
        return cls(**own, terms=terms)  # type: ignore[arg-type]


_INPUTS = ("inputs", "last_actions")
_SHARED = (*_INPUTS, "available", "weight", "alive", "expert_policy")


class PackedTargets(NamedTuple):
    """A batch of whole episodes."""

    targets: Targets
    sizes: list[int]  # how many episodes have each step; never growing, sum S

    def to(self, device: torch.device) -> PackedTargets:
        """Return the batch on a device."""
        return PackedTargets(self.targets.to(device), self.sizes)


@dataclass(frozen=True, slots=True)
class TargetStore:
    """Whole episodes, one after the other, ``lengths`` [E] of them; batches gather their steps.

    ``share`` of the episodes is what each seed draws for its epochs; None: all.
    """

    targets: Targets
    lengths: IntArray
    share: float | None = None

    @classmethod
    def of(cls, parts: Iterable[TargetStore], lengths: IntArray) -> TargetStore:
        """Join ``parts``, which have episodes of ``lengths`` in all."""
        held: dict[str, Tensor] = {}
        done = 0
        for part in parts:
            steps = slice(done, done + int(part.lengths.sum()))
            for name, values in part.targets.tensors().items():
                if name not in held:
                    held[name] = _room(name, int(lengths.sum()), values)
                held[name][steps] = values
            done = steps.stop
        return cls(Targets.of(held), lengths)

    def take(self, episodes: IntArray) -> PackedTargets:
        """Return a batch of the given episodes."""
        starts = np.cumsum(self.lengths) - self.lengths
        rows, sizes = _packing(starts[episodes], self.lengths[episodes])
        rows = rows.to(self.targets.weight.device)
        taken = {
            # The steps of what has actions outermost in memory are its second axis there.
            name: v.movedim(-1, 0).index_select(1, rows).movedim(0, -1)
            if is_outermost(name, v)
            else v.index_select(0, rows)
            for name, v in self.targets.tensors().items()
        }
        return PackedTargets(Targets.of(taken), sizes)

    def to(self, device: torch.device) -> TargetStore:
        """Return the episodes in the memory of a device."""
        return replace(self, targets=self.targets.to(device))

    def epoch(self, size: int, seed: int, epoch: int) -> Iterator[PackedTargets]:
        """Yield the batches of ``size`` episodes of an epoch, in its order."""
        own = own_episodes(len(self), size, seed, self.share)
        passes = passes_over(len(own), len(self), size)
        orders = (epoch_order(own, seed, passes * epoch + k) for k in range(passes))
        batches = (
            order[first : first + size]
            for order in orders
            for first in range(0, len(order) - size + 1, size)
        )
        for episodes in islice(batches, len(self) // size):
            yield self.take(episodes)

    def parts(self, size: int) -> Iterator[PackedTargets]:
        """Yield all episodes in the order of the file, ``size`` or fewer at a time."""
        for first in range(0, len(self), size):
            yield self.take(np.arange(first, min(first + size, len(self))))

    def packed(self) -> PackedTargets:
        """Return everything as one batch."""
        return self.take(np.arange(len(self)))

    def __len__(self) -> int:
        return len(self.lengths)


def is_outermost(name: str, values: Tensor) -> bool:
    """Tell whether values [S, N, K] lie with their last axis outermost, as losses read them."""
    return values.ndim > 2 and name not in _INPUTS


def _room(name: str, steps: int, like: Tensor) -> Tensor:
    """Return memory for ``steps`` steps of values ``like`` [S, ...]."""
    rest = like.shape[1:]
    if not is_outermost(name, like):
        return like.new_empty((steps, *rest))
    return like.new_empty((rest[-1], steps, *rest[:-1])).movedim(0, -1)


def _packing(starts: IntArray, lengths: IntArray) -> tuple[Tensor, list[int]]:
    """Return the rows of packed episodes that begin at rows ``starts``, and the sizes of steps."""
    longest_first = np.argsort(-lengths, kind="stable")
    there = np.arange(lengths.max())[:, None] < lengths[longest_first]
    rows = np.arange(len(there))[:, None] + starts[longest_first]
    return torch.from_numpy(rows[there]), there.sum(1).tolist()


def build_targets(batch: Batch, context: TargetContext) -> TargetStore:
    """Compute the inputs and targets of whole episodes."""
    there = torch.from_numpy(batch.valid)
    padded = _padded(batch, context)
    steps = {name: values[there] for name, values in padded.tensors().items()}
    return TargetStore(Targets.of(steps), batch.valid.sum(1))


# Of agents that are not alive any finite number may be there, which no weight of zero makes
# harmless behind an exponential or as an index.
_OF_DECISIONS = frozenset(("steps/actions", "steps/behaviour_logprob"))


def _padded(batch: Batch, context: TargetContext) -> Targets:
    """Compute everything as [B, T, ...], what is behind an episode's end included."""
    data = dict(batch.arrays)
    living = data["steps/alive"] & batch.valid[..., None]
    alive = torch.from_numpy(living)
    for name in _OF_DECISIONS & data.keys():
        data[name] = np.where(living, data[name], data[name].dtype.type(0))
    legal = torch.from_numpy(data["steps/available_actions"])
    available = legal | ~(alive & legal.any(-1)).unsqueeze(-1)
    given = TargetBatch(
        arrays=data,
        spec=context.spec,
        expert=context.expert,
        alive=alive,
        weight=torch.from_numpy(deciding(data, living, context.recipe.objective)).float(),
        available=available,
        expert_policy=_expert_policy(data, available, context),
    )
    return Targets(
        inputs=_inputs(data, context),
        last_actions=_last_actions(data, available, context.team),
        available=available,
        weight=given.weight,
        alive=alive.float(),
        expert_policy=None if given.expert_policy is None else given.expert_policy.kept(),
        terms=context.terms.targets(given),
    )


def _inputs(data: Mapping[str, Array], context: TargetContext) -> Tensor:
    seen = torch.from_numpy(data[f"masks/{context.recipe.mask}"].astype(np.float32))
    if seen.dim() == 3:
        seen = seen.unsqueeze(1)
    with torch.no_grad():
        return context.team.prepare(torch.from_numpy(data["steps/obs"]), seen)


def _last_actions(data: Mapping[str, Array], available: Tensor, team: StudentTeam) -> Tensor:
    if not team.inputs.last_action:
        return torch.zeros((*available.shape[:2], 0))
    taken = one_hot(data["steps/actions"].astype(np.int64), tuple(available.shape))
    return torch.cat([torch.zeros_like(taken[:, :1]), taken[:, :-1]], 1)


def _expert_policy(
    data: Mapping[str, Array], available: Tensor, context: TargetContext
) -> Learned | None:
    """Return the expert's policy, from its logits or scaled Q-values; None: no term reads it."""
    scale = context.statistics.q_scale
    if scale is not None and "steps/q_values" in data:
        q, unit = torch.from_numpy(data["steps/q_values"]), scale.astype(np.float32)
        logits = value_logits(q, available, torch.from_numpy(unit), context.recipe.objective)
    elif "steps/logits" in data:
        logits = torch.from_numpy(data["steps/logits"])
    else:
        return None
    return distributions.learned(context.spec)(last_axis_outermost(logits), available)
