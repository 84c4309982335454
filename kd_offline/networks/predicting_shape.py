"""The shape of PTDE's student, and its cost in closed form, without PyTorch.

With inputs ``o``, trunk, a GRU of width ``h``, a layer of ``p`` that predicts, ``z`` numbers and
``a`` actions, after what :mod:`kd_offline.networks.arithmetic` counts up to the GRU::

    predict h -> p : MACs h p          parameters (h + 1) p          elementwise p
    relu + norm p  :                   parameters 2 p                elementwise 8 p
    z       p -> z : MACs p z          parameters (p + 1) z          elementwise z
    head    h+z -> a : MACs (h + z) a  parameters (h + z + 1) a      elementwise a
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, NoReturn

from kd_offline.networks.arithmetic import (
    FLOAT,
    DeployedInputs,
    MemoryCost,
    NetworkCost,
    NetworkShape,
    Precision,
    c_tables,
)

_NORM_AND_RELU = 8  # as in kd_offline.networks.arithmetic


@dataclass(frozen=True, slots=True)
class PredictingShape:
    """Sizes of a network that predicts ``z`` from the state of its GRU, and acts on both.

    ``given``: the inputs of the deployed network; None while it is trained.
    """

    inputs: int
    trunk: tuple[int, ...]
    recurrent: int  # h
    predictor: int  # p
    z: int
    outputs: int
    given: DeployedInputs | None = None

    gru: ClassVar[int | None] = None
    units: ClassVar[tuple[int, ...]] = ()

    @property
    def embedding(self) -> int:
        """Width of the embedding: the state of the GRU, and z."""
        return self.recurrent + self.z

    @property
    def taps(self) -> Mapping[str, int]:
        """Width of the prediction."""
        return {"z": self.z}

    @property
    def body(self) -> NetworkShape:
        """Trunk, GRU and the layer that predicts."""
        return NetworkShape(self.inputs, self.trunk, self.recurrent, self.predictor)

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers behind the trunk in words."""
        return (f"GRU {self.recurrent}", f"dense {self.predictor}", f"z {self.z}")

    def cost(self) -> NetworkCost:
        """Return the exact cost of one decision."""
        body, read = self.body.cost(), self.embedding
        vectors = 2 * self.predictor + self.z + self.outputs
        macs = self.predictor * self.z + read * self.outputs
        elementwise = _NORM_AND_RELU * self.predictor + self.z + self.outputs
        return NetworkCost(
            body.parameters + macs + vectors, body.macs + macs, body.elementwise + elementwise
        )

    def memory(self, precision: Precision = "fp32") -> MemoryCost:
        """Return the bytes of parameters, memory and the largest live activation.

        With ``int8`` matrix weights take one byte each and every row of a matrix one float32 scale.
        What is deployed has no gains: they are part of matrices, and each feature has a centre and
        a scale.
        """
        cost, rows = self.cost(), sum(rows for rows, _ in self.matrices())
        vectors = cost.parameters - cost.macs
        kept = self.embedding
        if self.given is not None:
            vectors, kept = rows + self.given.scaling, kept + self.given.kept
        stored = {
            "fp32": FLOAT * (cost.macs + vectors),
            "fp16": 2 * (cost.macs + vectors),
            "int8": cost.macs + FLOAT * (vectors + rows),
        }
        live = max(self.embedding + self.outputs, self.predictor + self.z)
        activation = max(self.body.memory().activation or 0, FLOAT * live)
        found = MemoryCost(stored[precision], FLOAT * kept, activation)
        if self.given is None:
            return found
        tables = c_tables(self.matrices(), precision) + FLOAT * self.given.scaling
        return replace(found, flash=tables, ram=self._c_buffers(kept))

    def deployed(self, inputs: DeployedInputs) -> PredictingShape:
        """Return the network as it is exported."""
        return replace(self, inputs=inputs.width, given=inputs)

    def layer_widths(self, units: Sequence[int]) -> NoReturn:
        """Refuse: there are no units that could be removed."""
        raise NotImplementedError

    def with_units(self, units: Sequence[int]) -> NoReturn:
        """Refuse: there are no units that could be removed."""
        raise NotImplementedError

    def matrices(self) -> list[tuple[int, int]]:
        """Return rows and columns of every matrix."""
        h, widths = self.recurrent, (self.inputs, *self.trunk)
        sizes = [(rows, columns) for columns, rows in pairwise(widths)]
        sizes += [(3 * h, widths[-1]), (3 * h, h), (self.predictor, h), (self.z, self.predictor)]
        return [*sizes, (self.outputs, self.embedding)]

    def _c_buffers(self, kept: int) -> int:
        """Return the bytes of the static buffers of the C, its memory and its logits."""
        first = max(self.inputs, *self.trunk[1::2], 1)
        second = max(self.trunk[::2], default=0)
        gates = 6 * self.recurrent
        return FLOAT * (first + second + gates + self.predictor + kept + self.outputs)
