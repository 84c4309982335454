"""The protocol of a loss term, and the batches that it receives.

A term is created once for a distillation, from its settings and the recipe. Then, in this order:

1. :meth:`LossTerm.arrays` returns the recorded arrays that it reads;
2. :meth:`LossTerm.fit` may go over the training episodes once, for statistics of the dataset;
3. :meth:`LossTerm.targets` computes the targets of the loss, once for every step;
4. :meth:`LossTerm.auxiliary_heads` may create networks that exist during training only;
5. :meth:`LossTerm.loss` computes the loss in every update of the students.

Only the first and the last must be implemented. S is the number of steps in a batch, packed; B x T
are whole episodes, padded; N agents, A actions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from pydantic import Field
from torch import Tensor, nn

from kd_offline import distributions
from kd_offline.datasets import ExpertBuffer
from kd_offline.datasets.edit.merge_compatibility import capture_conflicts
from kd_offline.datasets.format.layout import ACTION_SOURCES
from kd_offline.distributions.base import Learned
from kd_offline.errors import MismatchError, Remedy
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
    """An unreduced loss; its weighted mean times ``scale`` enters the objective.

    ``values`` and ``weight`` have one shape, usually [S, N]; elements with weight 0 are ignored.
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
        """The dataset's record of its expert; None where it has none."""
        return recorded_expert(self.buffer)


def recorded_expert(buffer: ExpertBuffer) -> ExpertRecord | None:
    """Return the record of the expert whose policy and values a dataset holds.

    With several experts this is the record of the first: the arrays have the same meaning for all.

    Raises
    ------
    MismatchError
        The arrays have different meanings; merging refuses to make such a dataset.
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
        """Return the episodes without noise and partners, in which the expert acted alone: [B]."""
        if "steps/action_source" not in self.arrays:
            return np.ones(len(self.alive), bool)
        by_others = self.alive & (self.arrays["steps/action_source"] != ACTION_SOURCES["expert"])
        expert_only: BoolArray = ~by_others.any((1, 2))
        return expert_only


class Accumulator(Protocol):
    """Collects a term's statistics in one pass over the training episodes, shared by all terms.

    Batches come in the order of the file, in parts whose size follows from the dataset alone, so
    the statistics are the same bits whether the data are in memory or streamed.
    """

    @property
    def arrays(self) -> Sequence[str]:
        """Names of the arrays that :meth:`add` reads, besides ``steps/available_actions``."""
        ...

    def add(self, batch: RecordedBatch) -> None:
        """Count in a batch."""
        ...

    def finish(self) -> Any:
        """Return the statistics."""
        ...


@dataclass(frozen=True, slots=True)
class TargetBatch:
    """Whole episodes for which targets are computed, padded to one length.

    ``arrays`` is as in :class:`RecordedBatch`. An agent that is absent or waits has no legal
    action; ``available`` is True for all its actions, so that its softmax is defined.
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
    """Outputs of the students for the steps of a batch, and the weights that all terms share."""

    policy: Learned  # of [S, N] agents, at temperature 1; its parameters are the outputs
    embeddings: Sequence[Tensor]  # of each agent [S, H_i]: its last hidden layer, or GRU state
    weight: Tensor  # [S, N], 1 where an agent's decision counts
    alive: Tensor  # [S, N], 1 where an agent is alive, forced decisions included
    expert_policy: Learned | None  # as in TargetBatch, of [S, N] agents
    side_of: tuple[int, ...]  # the side of each agent
    taps: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)
    """Inner layers by name, of each agent [S, W_i]; none where the students' family has none."""


class LossTerm(Generic[Settings]):
    """Base class of loss terms; the module describes the order of the calls.

    ``settings`` are validated, ``recipe`` is that of the distillation, and ``statistics`` is the
    result of :meth:`fit`, available from :meth:`targets` on.
    """

    description: ClassVar[str] = ""
    """One line that describes the term."""

    settings_type: ClassVar[type[TermSettings]] = TermSettings

    any_axes: ClassVar[bool] = False
    """Whether :meth:`loss` takes any axes in the place of S, treats every element by itself and
    gives ``values`` and ``weight`` these axes, so that several seeds can be computed at once."""

    maximised: ClassVar[bool] = False
    """Whether higher is better; the weighted term is then subtracted from the loss."""

    def __init__(self, settings: Settings, recipe: DistillRecipe) -> None:
        self.settings = settings
        self.recipe = recipe
        self.statistics: Any = None
        self.tap_widths: Sequence[Mapping[str, int]] = ()
        """Widths of each agent's inner layers by name, from :meth:`auxiliary_heads` on."""

    @property
    def criterion(self) -> str:
        """The figure of :meth:`validation` that chooses the best epoch; empty: held-out KL does.

        For terms whose target is another policy than the recorded one.
        """
        return ""

    @property
    def saves_heads(self) -> bool:
        """Whether the auxiliary networks are kept after training, as ``auxiliary.safetensors``."""
        return False

    def arrays(self, present: Iterable[str]) -> Sequence[str]:
        """Return the full names of the recorded arrays that the term reads.

        ``present``: the arrays of the dataset. Include arrays that are missing: the distillation
        then stops with an error that names them. ``steps/obs``, ``steps/available_actions``,
        ``steps/alive`` and ``steps/actions`` are always read.
        """
        return ()

    def recorded_by(self) -> Remedy | None:
        """Return how the arrays of the term are recorded; None if most recordings have them.

        It is told where a dataset lacks them.
        """
        return None

    def fit(self, episodes: TrainingEpisodes) -> Accumulator | None:
        """Return an accumulator of statistics of the dataset; None where the term needs none."""
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
        """Return networks that are trained with the students and discarded after training.

        Parameters
        ----------
        widths
            Width of each agent's embedding.
        rng
            The only source of initial weights, so that they follow from the seed.

        Where unit gates may narrow embeddings during training, this must be a ``ModuleList`` that
        begins with one module for each agent: a linear layer, or a sequence that starts with one,
        on the embedding. Modules behind these read something else.
        """
        return None

    def frozen(self, heads: nn.Module, update: int) -> Iterable[Tensor]:
        """Return the parameters of ``heads`` that an update does not change.

        ``update`` is counted from 0 over the whole training. A network that is stepped once in
        four updates is frozen in the other three.
        """
        return ()

    def loss(
        self, students: StudentBatch, targets: Mapping[str, Tensor], heads: nn.Module | None
    ) -> Elements | Mapping[str, Elements] | None:
        """Return the loss of every element; differentiable in the students and the heads.

        Several named losses are summed, and each is reported by its name. None: the dataset has
        nothing that this term can be computed from.
        """
        raise NotImplementedError

    def validation(
        self, students: StudentBatch, targets: Mapping[str, Tensor], counted: Tensor
    ) -> Mapping[str, Elements]:
        """Return additional metrics of held-out episodes, by name; lower is better.

        ``counted`` [S, N]: 1 where an agent decides between two or more legal actions.
        """
        return {}
