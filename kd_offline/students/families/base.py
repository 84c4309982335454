"""The protocol of a student family: settings, shapes of networks, and optional operations.

Two objects, the second made by the first:

* the :class:`StudentFamily` itself, which describes, counts and builds, and needs no PyTorch to be
  imported;
* a :class:`~kd_offline.networks.packed.PackedNetwork` for every agent, which training, play and
  export run.

A family has to say its shape and its cost, and to build networks that run over packed sequences.
Everything in :data:`OPTIONAL` may be declined, each in one sentence. Networks with
:meth:`~kd_offline.networks.packed.PackedNetwork.stacked` can be trained with all seeds at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Generic, Self, TypeVar

from kd_offline.networks.arithmetic import StudentShape
from kd_offline.schemas.layers import LayerWidths, Widths
from kd_offline.schemas.recipes import StudentArchitecture

if TYPE_CHECKING:
    import numpy as np

    from kd_offline.networks.packed import PackedNetwork

OPTIONAL: dict[str, str] = {
    "gates": "unit gates",
    "int8": "int8 weights",
    "sparse": "sparse matrices",
    "onnx": "ONNX export",
    "c": "C export",
    "torch": "PyTorch export",
    "expert": "experts that start from them",
}
"""What a family may decline: name -> what it is, in words."""


class PlainShape:
    """Base of shapes whose units cannot be removed, and that have neither trunk nor GRU.

    A subclass says ``inputs``, ``outputs``, ``embedding``, ``layers``, ``cost``, ``memory`` and
    ``deployed``, as :class:`~kd_offline.networks.arithmetic.StudentShape` describes them.
    """

    trunk: ClassVar[tuple[int, ...]] = ()
    gru: ClassVar[int | None] = None
    units: ClassVar[tuple[int, ...]] = ()
    taps: ClassVar[Mapping[str, int]] = MappingProxyType({})

    def layer_widths(self, units: Sequence[int]) -> LayerWidths:
        """Refuse: there are no units."""
        raise NotImplementedError

    def with_units(self, units: Sequence[int]) -> Self:
        """Refuse: there are no units."""
        raise NotImplementedError


Settings = TypeVar("Settings", bound=StudentArchitecture)
Numbers = TypeVar("Numbers", bound=StudentShape)


class StudentFamily(ABC, Generic[Settings, Numbers]):
    """A kind of student network; the module docstring states the requirements."""

    description: ClassVar[str] = ""
    """One line of what the networks are."""

    settings: type[Settings]
    """The settings: a subclass of ``StudentArchitecture`` that adds the family's own.

    They stand beside the shared ones in recipes, each with a default. A field that it declares
    again has a default of its own.
    """

    drops_columns: ClassVar[bool] = False
    """Whether inputs that are always zero can be left out, and the weights that read them too.

    Networks are then given ``columns``, and what is deployed is counted without those inputs.
    """

    @abstractmethod
    def shape(self, settings: Settings, widths: Widths, inputs: int, outputs: int) -> Numbers:
        """Return one agent's network in numbers.

        Parameters
        ----------
        settings
        widths
            One hidden width for all layers; or a width for each, where unit gates chose them.
        inputs, outputs
            Features with all that is appended to them, and actions.
        """

    @abstractmethod
    def network(self, shape: Numbers, rng: np.random.Generator | None) -> PackedNetwork:
        """Return a network of a shape.

        Draw the first weights from ``rng`` alone, so that a seed decides them; None leaves them
        arbitrary, for weights that are loaded next.
        """

    def declines(self, settings: Settings) -> Mapping[str, str]:
        """Return the operations that networks of these settings decline, each with its reason.

        Names are those of :data:`OPTIONAL`; each reason ends a sentence that begins with ``they
        have no ...:``, and says what to do instead.
        """
        return dict.fromkeys(OPTIONAL, "the family does not offer it, so choose another one")
