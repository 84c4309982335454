"""What an expert is to recording, evaluation and export, wherever it was trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from kd_offline.networks.arithmetic import Shape, ValuePart
from kd_offline.schemas.dataset import ExpertRecord
from kd_offline.schemas.foreign import ValueCalibration
from kd_offline.types import BoolArray, IntArray, PolicyOutput, SeedArray, View

if TYPE_CHECKING:
    from kd_offline.experts.algorithms.base import Team


@dataclass(frozen=True, slots=True)
class ValueUnits:
    """How an expert's values are to be compared with the returns of a trial.

    ``raw``: it claims that they are in raw reward units already.
    """

    gamma: float
    bootstrap_on_truncation: bool
    raw: bool


class Expert(Protocol):
    """A team policy that says what it is, what it costs and what a recording of it holds.

    All that nothing is known of is None or empty; nobody asks which kind of expert it is.
    """

    @property
    def reference(self) -> str:
        """How the user named it."""
        ...

    @property
    def digest(self) -> str:
        """Digest of what decides its outputs."""
        ...

    @property
    def with_value(self) -> bool:
        """Whether it says values, where it has any."""
        ...

    @property
    def missing(self) -> tuple[str, ...]:
        """What an import looked for and did not find, in words."""
        ...

    @property
    def embedding_width(self) -> int | None:
        """Width of its embeddings, H; None where it is known when it acts."""
        ...

    @property
    def mask_name(self) -> str | None:
        """Name of the mask that it was trained under; None: it sees everything."""
        ...

    @property
    def learned_sides(self) -> tuple[str, ...] | None:
        """Sides that it learned, the others being played by its opponents; None: all."""
        ...

    @property
    def opponents(self) -> Expert | None:
        """The expert that plays the sides that it did not learn."""
        ...

    @property
    def team(self) -> Team | None:
        """Its networks, where they are ours, so that they can be exported."""
        ...

    @property
    def modules(self) -> Mapping[int, Any]:
        """The module of each agent where networks are not ours and run here; else empty."""
        ...

    @property
    def value_units(self) -> ValueUnits | None:
        """What a trial may find out about its values; None: there is nothing to find out."""
        ...

    def calibrated(self, calibration: ValueCalibration | None) -> Expert:
        """Return the expert with values read so, where there was something to find out."""
        ...

    def start(self, seeds: SeedArray) -> Any:
        """Return the memory of fresh episodes; ``seeds``: uint64 [B]."""
        ...

    def act(self, view: View, memory: Any) -> tuple[PolicyOutput, Any]:
        """Return what it says of ``view``, values in raw reward units, and its memory."""
        ...

    def keep(self, memory: Any, episodes: IntArray) -> Any:
        """Return the memory of some episodes of a batch; None: it cannot be cut down."""
        ...

    def mask(self) -> BoolArray | None:
        """Return what its actors may see, bool [N, O]; None for everything."""
        ...

    def describe(self) -> ExpertRecord:
        """Return its entry of a manifest: what is recorded, and how it was taken."""
        ...

    def actor_shapes(self) -> tuple[Shape, ...]:
        """Return the actor that each agent carries; agents that share one carry a copy each.

        Raises
        ------
        MismatchError
            It does not say what a decision costs.
        """
        ...

    def actor_parameters(self) -> int:
        """Return the parameters of all actors, a shared network counted once; 0: not known."""
        ...

    def value_parts(self) -> tuple[ValuePart, ...]:
        """Return the networks that say its values, and how often each runs in a team step."""
        ...
