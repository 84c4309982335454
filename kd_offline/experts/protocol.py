"""The protocol of an expert for recording, evaluation and export, wherever it was trained."""

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
    """Units of an expert's values, for the comparison with the returns of a trial.

    ``raw``: they are declared to be in raw reward units.
    """

    gamma: float
    bootstrap_on_truncation: bool
    raw: bool


class Expert(Protocol):
    """A team policy with the description, the costs and the units that a recording needs.

    Unknown properties are None or empty. No caller distinguishes kinds of experts.
    """

    @property
    def reference(self) -> str:
        """The reference that the user gave."""
        ...

    @property
    def digest(self) -> str:
        """Digest of everything that determines its outputs."""
        ...

    @property
    def with_value(self) -> bool:
        """Whether it returns values, if it has any."""
        ...

    @property
    def missing(self) -> tuple[str, ...]:
        """Descriptions of settings and files that an import did not find."""
        ...

    @property
    def layer_widths(self) -> Mapping[str, int] | None:
        """Widths of the layers that it gives: ``embedding``, and each tap as ``embedding_<tap>``.

        None if they are only known when it acts.
        """
        ...

    @property
    def mask_name(self) -> str | None:
        """Name of the mask that it was trained under; None: it sees everything."""
        ...

    @property
    def learned_sides(self) -> tuple[str, ...] | None:
        """Sides that it learned; its opponents play the others. None: all."""
        ...

    @property
    def opponents(self) -> Expert | None:
        """The expert that plays the sides that it did not learn."""
        ...

    @property
    def team(self) -> Team | None:
        """Its networks, where they are ours and can be exported; else None."""
        ...

    @property
    def modules(self) -> Mapping[int, Any]:
        """The PyTorch module of each agent where its networks are not ours; else empty."""
        ...

    @property
    def value_units(self) -> ValueUnits | None:
        """Units of its values, for a calibration trial; None where none is needed."""
        ...

    def calibrated(self, calibration: ValueCalibration | None) -> Expert:
        """Return the expert with calibrated values, or unchanged where none is needed."""
        ...

    def start(self, seeds: SeedArray) -> Any:
        """Return the memory at the start of episodes; ``seeds``: uint64 [B]."""
        ...

    def act(self, view: View, memory: Any) -> tuple[PolicyOutput, Any]:
        """Return its outputs for ``view``, values in raw reward units, and its memory."""
        ...

    def keep(self, memory: Any, episodes: IntArray) -> Any:
        """Return the memory of some episodes of a batch; None where it cannot be selected."""
        ...

    def mask(self) -> BoolArray | None:
        """Return the features that its actors see, bool [N, O]; None for all."""
        ...

    def describe(self) -> ExpertRecord:
        """Return the expert's record for a manifest: recorded outputs and their conventions."""
        ...

    def actor_shapes(self) -> tuple[Shape, ...]:
        """Return the actor of each agent; agents that share a network have a copy each.

        Raises
        ------
        MismatchError
            It does not say what a decision costs.
        """
        ...

    def actor_parameters(self) -> int:
        """Return the parameters of all actors, shared networks counted once; 0: unknown."""
        ...

    def value_parts(self) -> tuple[ValuePart, ...]:
        """Return the networks that estimate its values, and their calls in a team step."""
        ...
