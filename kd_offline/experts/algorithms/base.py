"""What an algorithm is: its settings, the networks of its experts, and how they learn.

Three objects, each made by the one before:

* the :class:`Algorithm` itself, which describes and builds and needs no PyTorch to be imported;
* a :class:`Team`, the networks that are left when training ends: they play, say what an action is
  worth, and are what ``weights.safetensors`` holds;
* a :class:`Learner`, which plays batches of episodes and learns from each, and whose whole state
  can be taken and put back between two batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

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
    """How far a training has come before one batch of episodes."""

    iteration: int = 0  # batches that were learned from
    frames: int = 0  # joint steps that were played
    remaining: float = 1.0  # share of the training that is still to come


@dataclass(frozen=True, slots=True)
class State:
    """All that a learner changes while it learns, as it was between two batches.

    ``tensors`` are copies. ``plain`` is whatever JSON can hold. ``deferred`` makes further tensors
    when they are needed, of what never changes in place, such as replayed episodes: a state is
    taken before every batch and seldom used.
    """

    tensors: dict[str, Tensor]
    plain: dict[str, Any] = field(default_factory=dict)
    deferred: Callable[[], dict[str, Tensor]] | None = None

    def every_tensor(self) -> dict[str, Tensor]:
        """Return all tensors, those that were deferred too."""
        return self.tensors | (self.deferred() if self.deferred else {})


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a recording of an expert says about its outputs.

    ``capture`` says which output is stored, and which layer is the embedding; ``value_of`` says in
    words what a value means, empty where there is none; ``architecture`` is added to the
    description of the networks.
    """

    capture: Capture
    value_of: str
    architecture: Mapping[str, Any] = field(default_factory=dict)


class Team(Protocol):
    """The networks of one expert."""

    @property
    def actors(self) -> ActorCritic:
        """The networks that act; their cost is counted, and they are exported and timed."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """Return everything that ``weights.safetensors`` holds."""
        ...

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`weights` returned, and learn no more."""
        ...

    def parameter_counts(self) -> dict[str, int]:
        """Return the number of parameters of each part, such as actor and critic."""
        ...

    def policy(self, *, with_value: bool = True) -> TeamPolicy:
        """Return how the finished expert plays; without ``with_value`` it says no values."""
        ...

    def value_parts(self) -> tuple[ValuePart, ...]:
        """Return the cost of what says values beside the actors: critics or a mixer."""
        ...


class Learner(Protocol):
    """A team that learns, from one batch of episodes after another."""

    @property
    def team(self) -> Team:
        """The networks that are saved as the expert."""
        ...

    @property
    def against(self) -> str:
        """Digest of the expert that plays the sides that do not learn, or ``itself``."""
        ...

    def policy(self, moment: Moment) -> TeamPolicy:
        """Return who plays the batch at ``moment``; after the last one, who is scored."""
        ...

    def learn(self, played: Trajectories, moment: Moment) -> Figures:
        """Learn from the batch that :meth:`policy` played at ``moment``.

        Returns figures of :attr:`Algorithm.figures`, all or some of them.
        """
        ...

    def state(self) -> State:
        """Return all that :meth:`learn` changes: networks, optimisers, targets, replay, counters.

        Random numbers are to be drawn from the recipe's seed and the moment's iteration, see
        :func:`kd_offline.seeding.generator`: then no generator has a state.
        """
        ...

    def restore(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        """Put back what :meth:`state` returned: every tensor, and what was plain.

        Raises ``KeyError``, ``ValueError`` or ``RuntimeError`` where it is of another training.
        """
        ...


class Algorithm(Protocol):
    """How experts are trained, and what they are."""

    @property
    def description(self) -> str:
        """One line of what it does and who published it."""
        ...

    @property
    def recipe(self) -> type[TrainRecipe]:
        """The settings: a subclass of :class:`TrainRecipe` that adds the algorithm's own.

        A field that it declares again has a default of its own.
        """
        ...

    @property
    def figures(self) -> Mapping[str, str]:
        """What it writes to the learning curve: the name of each figure and what it means."""
        ...

    def recorded(self, recipe: TrainRecipe) -> Recorded:
        """Return what a recording of its experts says about their outputs."""
        ...

    def team(
        self,
        spec: EnvironmentSpec,
        recipe: TrainRecipe,
        mask: BoolArray | None,
        rng: np.random.Generator | None,
    ) -> Team:
        """Return networks for a recipe of this algorithm.

        ``mask``, bool [N, O], is what the actors may see. ``rng`` draws the first weights; None
        leaves them arbitrary, for weights that are loaded next.

        Raises
        ------
        UsageError
            It cannot learn in such an environment.
        """
        ...

    def learner(self, team: Team, spec: EnvironmentSpec, recipe: TrainRecipe) -> Learner:
        """Return what trains ``team``, which :meth:`team` made, from its first batch on.

        Raises
        ------
        CheckpointError, MismatchError, UnknownNameError, UsageError
            An expert that the recipe names cannot be used.
        """
        ...
