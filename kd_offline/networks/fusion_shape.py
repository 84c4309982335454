"""The shape of networks with a source, and its cost in closed form, without PyTorch.

What they compute is described in :mod:`kd_offline.networks.fusion`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
_NORM = 5  # mean 1, variance 2, shift and scale 2


@dataclass(frozen=True)
class FusionShape:
    """Sizes of a network with a source, from which all costs are computed.

    ``own``: the source is the first ``source`` columns of the local input, as in DDN's local policy
    network; otherwise it stands before the local input. ``readers`` is how many agents read one
    product of the source in a step; each is charged its share of it, rounded up. ``normalised``
    applies a layer normalisation without gains to the source.
    """

    source: int
    local: int
    hyper: int  # m, width of the layer that generates the map
    width: int  # d, of s_hat or z
    dense: tuple[int, ...]  # Linear-ReLU-LayerNorm layers: of DDN after s_hat, of PTDE before h
    recurrent: int | None  # width of the GRU
    outputs: int
    joined: int | None = None  # of PTDE, the layer over (h, z); None: DDN
    own: bool = False
    readers: int = 1
    normalised: bool = False

    trunk: ClassVar[tuple[int, ...]] = ()
    gru: ClassVar[int | None] = None
    units: ClassVar[tuple[int, ...]] = ()

    @property
    def inputs(self) -> int:
        """Number of input features: source and local input, or the latter alone."""
        return self.local if self.own else self.source + self.local

    @property
    def embedding(self) -> int:
        """Width of the embedding, H."""
        return self.body.embedding

    @property
    def taps(self) -> dict[str, int]:
        """Widths of the taps by name."""
        if self.joined is not None:
            return {"z": self.width}
        return {"s_hat": self.width, "feature": (self.width, *self.dense)[-1]}

    @property
    def body(self) -> NetworkShape:
        """Dense layers, GRU and what follows them: the head, or of PTDE the joining layer."""
        if self.joined is None:
            return NetworkShape(self.width, self.dense, self.recurrent, self.outputs)
        return NetworkShape(self.local, self.dense, self.recurrent, self.joined)

    @property
    def maps(self) -> int:
        """Rows of the product of the source, (m + 1) d."""
        return (self.hyper + 1) * self.width

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers in words."""
        fused = f"fusion {self.source} -> {self.width} by {self.hyper}"
        dense = [f"dense {width}" for width in self.dense]
        dense += [] if self.recurrent is None else [f"GRU {self.recurrent}"]
        if self.joined is None:
            return (fused, *dense)
        return (*dense, fused, f"dense {self.joined}")

    def cost(self) -> NetworkCost:
        """Return the exact cost of one decision, with a share of the product of the source."""
        m, d, body = self.hyper, self.width, self.body.cost()
        shared = -(-self.source * self.maps // self.readers)
        macs = self.local * m + shared + m * d + body.macs
        parameters = (self.local + 1) * m + (self.source + 1) * self.maps + body.parameters
        elementwise = 2 * m + d + -(-self.maps // self.readers) + body.elementwise
        elementwise += -(-_NORM * self.source // self.readers) if self.normalised else 0
        if self.joined is not None:
            macs += (d + self.outputs) * self.joined
            parameters += (d + 2) * self.joined + (self.joined + 1) * self.outputs
            elementwise += (1 + _NORM_AND_RELU) * self.joined + self.outputs
        return NetworkCost(parameters, macs, elementwise)

    def memory(self, precision: Precision = "fp32") -> MemoryCost:
        """Return the bytes of parameters, memory and the largest live activation.

        With ``int8`` matrix weights take one byte each and every row of a matrix one float32 scale.
        """
        matrices = sum(rows * columns for rows, columns in self.matrices())
        return self.stored(precision, self.cost().parameters - matrices, self.recurrent or 0)

    def stored(self, precision: Precision, vectors: int, kept: int) -> MemoryCost:
        """Return the bytes of the matrices and ``vectors`` numbers, and of ``kept`` numbers."""
        sizes = self.matrices()
        weights = sum(rows * columns for rows, columns in sizes)
        stored = {
            "fp32": FLOAT * (weights + vectors),
            "fp16": 2 * (weights + vectors),
            "int8": weights + FLOAT * (vectors + sum(rows for rows, _ in sizes)),
        }
        block = max(self.inputs + self.hyper + self.maps, self.maps + self.hyper + self.width)
        live = max(FLOAT * block, self.body.memory().activation or 0)
        return MemoryCost(stored[precision], FLOAT * kept, live)

    def layer_widths(self, units: Sequence[int]) -> NoReturn:
        """Refuse: there are no units that could be removed."""
        raise NotImplementedError

    def without_columns(self, hidden: int, copies: int) -> FusionShape:
        """Return it without ``hidden`` features of its own source."""
        return replace(self, source=self.source - hidden, local=self.local - copies * hidden)

    def deployed(self, inputs: DeployedInputs) -> DeployedFusion:
        """Return the network as it is exported; the source is the agent's own."""
        source = inputs.width if self.source == self.local else inputs.features
        return DeployedFusion(replace(self, source=source, local=inputs.width), inputs)

    def matrices(self) -> list[tuple[int, int]]:
        """Return rows and columns of every matrix."""
        sizes = [(self.hyper, self.local), (self.maps, self.source)]
        width = self.body.inputs
        for layer in self.dense:
            sizes.append((layer, width))
            width = layer
        if self.recurrent is not None:
            sizes += [(3 * self.recurrent, width), (3 * self.recurrent, self.recurrent)]
            width = self.recurrent
        if self.joined is None:
            return [*sizes, (self.outputs, width)]
        return [*sizes, (self.joined, width + self.width), (self.outputs, self.joined)]


@dataclass(frozen=True)
class DeployedFusion:
    """A network whose source is its own input as it is exported: gains are part of matrices."""

    shape: FusionShape
    given: DeployedInputs

    trunk: ClassVar[tuple[int, ...]] = ()
    gru: ClassVar[int | None] = None

    @property
    def inputs(self) -> int:
        """Number of input features."""
        return self.shape.inputs

    @property
    def outputs(self) -> int:
        """Number of actions."""
        return self.shape.outputs

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers in words."""
        return self.shape.layers

    def cost(self) -> NetworkCost:
        """Return the exact cost of one decision."""
        return self.shape.cost()

    def memory(self, precision: Precision = "fp32") -> MemoryCost:
        """Return the bytes of the exported network, and of its C where there is one."""
        shape, matrices = self.shape, self.shape.matrices()
        biases = sum(rows for rows, _ in matrices)
        kept = (shape.recurrent or 0) + self.given.kept or 1
        found = shape.stored(precision, biases + self.given.scaling, kept)
        if not shape.own or shape.recurrent is None or shape.joined is not None:
            return found
        tables = c_tables(matrices, precision) + FLOAT * self.given.scaling
        buffers = max(self.inputs, 1) + shape.hyper + shape.maps + 6 * shape.recurrent
        buffers += max(shape.width, *shape.dense[1::2], 0) + max(shape.dense[::2], default=0)
        return replace(found, flash=tables, ram=FLOAT * (buffers + kept + self.outputs))

    def with_units(self, units: Sequence[int]) -> NoReturn:
        """Refuse: there are no units that could be removed."""
        raise NotImplementedError
