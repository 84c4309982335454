"""The protocol of an algorithm: its settings, the networks of its experts, and its learner.

Three objects, each built by the one before:

* the :class:`Algorithm`, which describes and builds, and needs no PyTorch to be imported;
* a :class:`Team`, the networks of the finished expert, as ``weights.safetensors`` holds them;
* a :class:`Learner`, which plays batches of episodes and learns from each. Its complete state can
  be taken and restored between two batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from kd_offline.schemas.dataset import Capture
from kd_offline.schemas.expert import TrainRecipe

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from kd_offline.experts.team import ActorCritic
    from kd_offline.networks.arithmetic import ValuePart
    from kd_offline.rollout.collect import Trajectories
    from kd_offline.schemas.environment import EnvironmentSpec
    from kd_offline.types import BoolArray, TeamPolicy

Figures = dict[str, float]
"""What a learner says of one batch, for the learning curve: name -> number."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Progress of a training before one batch of episodes."""

    iteration: int = 0  # batches that were learned from
    frames: int = 0  # joint steps that were played
    remaining: float = 1.0  # share of the training that is still to come


@dataclass(frozen=True, slots=True)
class State:
    """Everything that a learner changes while it learns, between two batches.

    ``tensors`` are copies. ``plain`` holds values that JSON can represent. ``deferred`` returns
    further tensors on demand, of data that are never changed in place, such as replayed episodes: a
    state is taken before every batch and rarely used.
    """

    tensors: dict[str, Tensor]
    plain: dict[str, Any] = field(default_factory=dict)
    deferred: Callable[[], dict[str, Tensor]] | None = None

    def every_tensor(self) -> dict[str, Tensor]:
        """Return all tensors, including deferred ones."""
        return self.tensors | (self.deferred() if self.deferred else {})


@dataclass(frozen=True, slots=True)
class Recorded:
    """Description of an expert's outputs in a recording.

    ``capture`` states the stored output and the layer of the embedding. ``value_of`` describes the
    meaning of values in words, empty where there are none. ``architecture`` is added to the
    description of the networks.
    """

    capture: Capture
    value_of: str
    architecture: Mapping[str, Any] = field(default_factory=dict)


class Team(Protocol):
    """The networks of one expert."""

    @property
    def actors(self) -> ActorCritic:
        """The networks that act; they are exported, timed and counted in the cost."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """Return the content of ``weights.safetensors``."""
        ...

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Load what :meth:`weights` returned and freeze the networks."""
        ...

    def parameter_counts(self) -> dict[str, int]:
        """Return the number of parameters of each part, such as actor and critic."""
        ...

    def policy(self, *, with_value: bool = True) -> TeamPolicy:
        """Return the policy of the finished expert; without ``with_value`` it returns no values."""
        ...

    def value_parts(self) -> tuple[ValuePart, ...]:
        """Return the cost of the networks that estimate values: critics or a mixer."""
        ...


class Learner(Protocol):
    """A team that learns from one batch of episodes after another."""

    @property
    def team(self) -> Team:
        """The networks that are saved as the expert."""
        ...

    @property
    def against(self) -> str:
        """Digest of the expert that plays the sides that do not learn, or ``itself``."""
        ...

    def policy(self, moment: Moment) -> TeamPolicy:
        """Return the policy of the batch at ``moment``, or after the last, the one to evaluate."""
        ...

    def learn(self, trajectories: Trajectories, moment: Moment) -> Figures:
        """Learn from the batch that :meth:`policy` played at ``moment``.

        Returns some or all of the metrics in :attr:`Algorithm.figures`.
        """
        ...

    def state(self) -> State:
        """Return all that :meth:`learn` changes: networks, optimisers, targets, replay, counters.

        Draw random numbers from the recipe's seed and the moment's iteration, see
        :func:`kd_offline.seeding.generator`; then no generator state has to be stored.
        """
        ...

    def restore(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        """Restore what :meth:`state` returned: every tensor, and ``plain``.

        Raises ``KeyError``, ``ValueError`` or ``RuntimeError`` for the state of another training.
        """
        ...


@dataclass(frozen=True, slots=True)
class Left:
    """A further expert that a training leaves: how its networks are built, and how they play."""

    recipe: TrainRecipe
    team: Team
    policy: TeamPolicy


@runtime_checkable
class Teaching(Protocol):
    """Optional protocol of a learner that also trains other experts from its own."""

    def students(self) -> Mapping[str, Left]:
        """Return them by the names of the folders inside the expert's that they are saved in."""
        ...


class Algorithm(Protocol):
    """How experts are trained, and how their networks are built."""

    @property
    def description(self) -> str:
        """One line that describes it and names its publication."""
        ...

    @property
    def recipe(self) -> type[TrainRecipe]:
        """The settings: a subclass of :class:`TrainRecipe` that adds the algorithm's own.

        A field that it declares again has a default of its own.
        """
        ...

    @property
    def figures(self) -> Mapping[str, str]:
        """The metrics of the learning curve: name of each and its meaning."""
        ...

    def recorded(self, recipe: TrainRecipe) -> Recorded:
        """Return the description of its experts' outputs in a recording."""
        ...

    def team(
        self,
        spec: EnvironmentSpec,
        recipe: TrainRecipe,
        mask: BoolArray | None,
        rng: np.random.Generator | None,
    ) -> Team:
        """Return the networks of a recipe of this algorithm.

        ``mask``, bool [N, O], gives the features that the actors see. ``rng`` draws the initial
        weights; None leaves them uninitialised, for weights that are loaded next.

        Raises
        ------
        UsageError
            It cannot learn in such an environment.
        """
        ...

    def learner(self, team: Team, spec: EnvironmentSpec, recipe: TrainRecipe) -> Learner:
        """Return a learner for ``team``, which :meth:`team` built, before its first batch.

        Raises
        ------
        CheckpointError, MismatchError, UnknownNameError, UsageError
            An expert that the recipe names cannot be used.
        """
        ...
