"""What a loss term of distillation is, and what it is given.

A term is made once for a distillation, of its settings and the recipe. Then, in this order:

1. :meth:`LossTerm.arrays` says which recorded arrays it reads;
2. :meth:`LossTerm.fit` may go over the training episodes once, for statistics of the dataset;
3. :meth:`LossTerm.targets` computes, once for every step, what the loss compares students with;
4. :meth:`LossTerm.auxiliary_heads` may make networks that exist during training only;
5. :meth:`LossTerm.loss` compares, in every update of the students.

Only the first and the last have to be written. S is the number of steps in a batch, packed; B x T
are whole episodes, padded; N agents, A actions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from pydantic import Field
from torch import Tensor, nn

from kd_offline import distributions
from kd_offline.datasets import ExpertBuffer
from kd_offline.datasets.edit.merge_compatibility import capture_conflicts
from kd_offline.datasets.format.layout import ACTION_SOURCES
from kd_offline.distributions.base import Learned
from kd_offline.errors import MismatchError
from kd_offline.schemas.dataset import ExpertRecord
from kd_offline.schemas.environment import EnvironmentSpec, Strict
from kd_offline.schemas.recipes import DistillRecipe
from kd_offline.types import Array, BoolArray, IntArray


class TermSettings(Strict):
    """Settings of a loss term; subclasses add their own, each with a default."""

    warmup: float = Field(
        default=0.0, ge=0, le=1, description="share of the updates before the term sets in"
    )


Settings = TypeVar("Settings", bound=TermSettings)


class Elements(NamedTuple):
    """A loss before it is reduced: its weighted mean times ``scale`` counts.

    ``values`` and ``weight`` have one shape, mostly [S, N]; ``weight`` is 0 where nothing counts.
    """

    values: Tensor
    weight: Tensor
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class TrainingEpisodes:
    """The episodes that students are trained on."""

    buffer: ExpertBuffer
    indices: IntArray

    @property
    def spec(self) -> EnvironmentSpec:
        """The recorded environment."""
        return self.buffer.spec

    @property
    def expert(self) -> ExpertRecord | None:
        """What the dataset says of its expert; None where it says nothing."""
        return recorded_expert(self.buffer)


def recorded_expert(buffer: ExpertBuffer) -> ExpertRecord | None:
    """Return what a dataset says of the expert whose policy and values it holds.

    Of several experts, the arrays of one dataset mean the same, so that any of their records will
    do.

    Raises
    ------
    MismatchError
        They do not: no merge makes such a dataset.
    """
    experts = buffer.manifest.experts
    if reasons := capture_conflicts(experts, buffer.names):
        msg = (
            f"the dataset at {buffer.where!r} has {len(experts)} experts, and {reasons[0]}: distil "
            "from the episodes of one, as kd-offline filter keeps them"
        )
        raise MismatchError(msg)
    return next(iter(experts), None)


@dataclass(frozen=True, slots=True)
class RecordedBatch:
    """Whole episodes as they were recorded, padded to one length.

    ``arrays`` maps full names to values: ``steps/*`` [B, T, ...], ``final/*`` and ``episodes/*``
    [B, ...].
    """

    arrays: Mapping[str, Array]
    alive: BoolArray  # [B, T, N], False behind an episode's end
    deciding: BoolArray  # [B, T, N], where an agent's decision counts

    def played_by_expert(self) -> BoolArray:
        """Return which episodes the expert played without noise and partners, [B]."""
        if "steps/action_source" not in self.arrays:
            return np.ones(len(self.alive), bool)
        other = self.alive & (self.arrays["steps/action_source"] != ACTION_SOURCES["expert"])
        alone: BoolArray = ~other.any((1, 2))
        return alone


class Accumulator(Protocol):
    """Collects a term's statistics in one pass over the training episodes, shared by all terms.

    Batches come in the order of the file, in parts whose size follows from the dataset alone, so
    the statistics are the same bits whether the data are in memory or streamed.
    """

    @property
    def arrays(self) -> Sequence[str]:
        """Names of what :meth:`add` reads, beside ``steps/available_actions``."""
        ...

    def add(self, batch: RecordedBatch) -> None:
        """Count in a batch."""
        ...

    def finish(self) -> Any:
        """Return the statistics."""
        ...


@dataclass(frozen=True, slots=True)
class TargetBatch:
    """Whole episodes of which targets are computed, padded to one length.

    ``arrays`` is as in :class:`RecordedBatch`. An agent that is absent or waits has no legal
    action; ``available`` gives it all, so that its softmax is defined.
    """

    arrays: Mapping[str, Array]
    spec: EnvironmentSpec
    expert: ExpertRecord | None
    alive: Tensor  # bool [B, T, N]
    weight: Tensor  # float [B, T, N], 1 where an agent's decision counts
    available: Tensor  # bool [B, T, N, A]
    expert_policy: Learned | None  # of [B, T, N] agents, from logits or scaled Q-values

    def executed(self) -> Tensor:
        """Return the executed actions, int64 [B, T, N]; 0 where an agent is not alive."""
        return distributions.learned(self.spec).recorded_actions(self.arrays["steps/actions"])


@dataclass(frozen=True, slots=True)
class StudentBatch:
    """What students put out for the steps of a batch, and what all terms know of these."""

    policy: Learned  # of [S, N] agents, at temperature 1; its parameters are the outputs
    embeddings: Sequence[Tensor]  # of each agent [S, H_i]: its last hidden layer, or GRU state
    weight: Tensor  # [S, N], 1 where an agent's decision counts
    alive: Tensor  # [S, N], 1 where an agent is alive, forced decisions included
    expert_policy: Learned | None  # as in TargetBatch, of [S, N] agents
    side_of: tuple[int, ...]  # the side of each agent


class LossTerm(Generic[Settings]):
    """Base of loss terms; see the module for what is called when.

    ``settings`` are checked, ``recipe`` is that of the distillation, and ``statistics`` is what
    :meth:`fit` gave, from :meth:`targets` on.
    """

    description: ClassVar[str] = ""
    """One line on what the term does."""

    settings_type: ClassVar[type[TermSettings]] = TermSettings

    any_axes: ClassVar[bool] = False
    """Whether :meth:`loss` takes any axes in the place of S, treats every element by itself and
    gives ``values`` and ``weight`` these axes, so that several seeds can be computed at once."""

    maximised: ClassVar[bool] = False
    """Whether more is better, so that the weighted term is subtracted from the loss."""

    def __init__(self, settings: Settings, recipe: DistillRecipe) -> None:
        self.settings = settings
        self.recipe = recipe
        self.statistics: Any = None

    def arrays(self, present: Iterable[str]) -> Sequence[str]:
        """Return the full names of the recorded arrays that the term reads.

        ``present``: those of the dataset. Name what is missing too: the distillation is then
        refused with a sentence that names it. ``steps/obs``, ``steps/available_actions``,
        ``steps/alive`` and ``steps/actions`` are always read.
        """
        return ()

    def fit(self, episodes: TrainingEpisodes) -> Accumulator | None:
        """Return what collects statistics of the dataset; None where the term needs none."""
        return None

    def targets(self, batch: TargetBatch) -> dict[str, Tensor]:
        """Return named tensors [B, T, ...] that :meth:`loss` reads, as [S, ...].

        Tensors of four axes are kept with the last one outermost in memory, see
        :mod:`kd_offline.distillation.losses`.
        """
        return {}

    def auxiliary_heads(
        self, widths: Sequence[int], spec: EnvironmentSpec, rng: np.random.Generator
    ) -> nn.Module | None:
        """Return networks that are trained beside the students and thrown away with the optimiser.

        Parameters
        ----------
        widths
            Of each agent's embedding.
        rng
            Draw initial weights from this alone, so that a seed decides them.

        Where unit gates may narrow embeddings during training, this has to be a ``ModuleList``
        of one module an agent, each a linear layer or a sequence that begins with one, which read
        the embedding.
        """
        return None

    def loss(
        self, students: StudentBatch, targets: Mapping[str, Tensor], heads: nn.Module | None
    ) -> Elements | Mapping[str, Elements] | None:
        """Return the loss of every element; differentiable in the students and the heads.

        Several named losses are added up, and each is reported by its name. None: there is nothing
        to learn from this dataset.
        """
        raise NotImplementedError

    def validation(
        self, students: StudentBatch, targets: Mapping[str, Tensor], counted: Tensor
    ) -> Mapping[str, Elements]:
        """Return further figures of held-out episodes, by name; the less the better.

        ``counted`` [S, N]: 1 where an agent decides between two actions or more.
        """
        return {}
