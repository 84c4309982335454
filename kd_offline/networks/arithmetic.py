"""What small networks cost, in closed form: integers only, without PyTorch, to be called often.

One convention for everything: a multiply-accumulate (MAC) is one of a matrix product, a FLOP count
is 2 for each MAC, and both are of one decision of one agent. Biases, activations, normalisation
and the arithmetic between GRU gates are counted apart, as ``elementwise``. With inputs ``o``, trunk
widths ``w1..wn``, GRU width ``h`` and ``a`` actions::

    linear  x -> y : MACs x y          parameters x y + y          elementwise y
    relu + norm y  :                   parameters 2 y              elementwise 8 y
    gru     x -> h : MACs 3 h (x + h)  parameters 3 h (x + h + 2)  elementwise 17 h
    gru of rank r  : MACs r (x + 7 h)  parameters r (x + 7 h) + 6 h  elementwise 17 h

Every weight of a matrix is used once in a decision, so the number of MACs is also the number of
matrix weights; what is left of the parameters are vectors (biases, gains).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from kd_offline.errors import UsageError

Precision = Literal["fp32", "fp16", "int8"]

FLOAT = 4  # bytes
LANES = 8  # rows of the exported C that are computed together
_NORM_AND_RELU = 8  # relu 1; mean 1, variance 2, shift and scale 2, gain and bias 2
_GRU_GATES = 17  # two biases 6, sums 3, reset product 1, sigmoids and tanh 3, blend 4


class Shape(Protocol):
    """What the counter needs to know of a network: its widths."""

    @property
    def inputs(self) -> int:
        """Number of input features."""
        ...

    @property
    def trunk(self) -> tuple[int, ...]:
        """Widths of the Linear-ReLU-LayerNorm layers."""
        ...

    @property
    def gru(self) -> int | None:
        """Width of the GRU, or None."""
        ...

    @property
    def outputs(self) -> int:
        """Number of actions."""
        ...


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Widths of one deployed network."""

    inputs: int
    trunk: tuple[int, ...]
    gru: int | None
    outputs: int


@dataclass(frozen=True, slots=True)
class ExportedShape:
    """A student as it is exported, in numbers; what allocators and budgets ask about.

    ``features`` are those that its mask leaves. ``motion`` adds the change of each, ``mask_bits``
    (of masks drawn for each episode) a bit for each, ``last_action`` the one-hot own last action.
    """

    features: int
    trunk: tuple[int, ...]
    gru: int | None
    outputs: int
    motion: bool = False
    mask_bits: bool = False
    last_action: bool = False
    rank: int | None = None  # of both matrices of the GRU

    @property
    def inputs(self) -> int:
        """Columns of the first matrix."""
        copies = 1 + self.motion + self.mask_bits
        return self.features * copies + self.outputs * self.last_action

    @property
    def vectors(self) -> int:
        """Stored numbers beside the matrices and their row scales: biases, scaling of inputs."""
        return _rows(self) + self.features * (2 + self.motion)

    @property
    def memory_width(self) -> int:
        """Numbers kept from step to step; 1 for a network without a memory."""
        seen_before = (self.features + 1) * self.motion
        return (self.gru or 0) + seen_before + self.outputs * self.last_action or 1


@dataclass(frozen=True, slots=True)
class NetworkCost:
    """Cost of one decision of one network."""

    parameters: int
    macs: int
    elementwise: int

    @property
    def flops(self) -> int:
        """Two for each multiply-accumulate."""
        return 2 * self.macs


@dataclass(frozen=True, slots=True)
class ValuePart:
    """A network that says values: a critic, or a mixer; ``calls`` of it make one team step."""

    cost: NetworkCost
    calls: int = 1


@dataclass(frozen=True, slots=True)
class MemoryCost:
    """Bytes that one network needs beside its code.

    ``hidden`` is kept from step to step. ``activation`` is the largest that is alive at once
    within a step: input and output of a layer, for a GRU its input and both sides' gates. Of a
    student as it is exported, ``flash`` and ``ram`` are the tables and the static buffers of the
    C code, whose rows are padded to blocks of 8; of any other network, parameters and the sum of
    the two others.
    """

    parameters: int
    hidden: int
    activation: int
    flash: int
    ram: int


def network_cost(shape: Shape) -> NetworkCost:
    """Return the exact cost of one decision of a network of this shape.

    Networks of another family, as experts of other libraries have them, bring a count of their
    own: parameters, multiply-accumulates and elementwise arithmetic, as ``counted``.
    """
    counted = getattr(shape, "counted", None)
    if counted is not None:
        return NetworkCost(*counted)
    parameters = macs = elementwise = 0
    width = shape.inputs
    for layer in shape.trunk:
        macs += width * layer
        parameters += (width + 1) * layer + 2 * layer
        elementwise += (1 + _NORM_AND_RELU) * layer
        width = layer
    if shape.gru is not None:
        weights = sum(rows * columns for rows, columns in _gru_matrices(shape, width, shape.gru))
        macs += weights
        parameters += weights + 6 * shape.gru
        elementwise += _GRU_GATES * shape.gru
        width = shape.gru
    macs += width * shape.outputs
    parameters += (width + 1) * shape.outputs
    return NetworkCost(parameters, macs, elementwise + shape.outputs)


def memory_cost(shape: Shape, precision: Precision = "fp32") -> MemoryCost:
    """Return the bytes of a network's parameters, memory and largest live activation.

    With ``int8`` matrix weights take one byte each and every row of a matrix one float32 scale;
    vectors, memory and activations stay float32. With ``fp16`` all parameters take two bytes.
    A student as it is exported stores other vectors than one that is trained: normalisations are
    folded into the matrix that follows, and each feature has a centre and a scale.
    """
    cost = network_cost(shape)
    vectors, kept = cost.parameters - cost.macs, shape.gru or 0
    if isinstance(shape, ExportedShape):
        vectors, kept = shape.vectors, shape.memory_width
    sizes = {
        "fp32": FLOAT * (cost.macs + vectors),
        "fp16": 2 * (cost.macs + vectors),
        "int8": cost.macs + FLOAT * (vectors + _rows(shape)),
    }
    hidden, live = FLOAT * kept, FLOAT * max(_live(shape))
    if isinstance(shape, ExportedShape):
        flash, ram = _c_tables(shape, precision), _c_buffers(shape)
    else:
        flash, ram = sizes[precision], hidden + live
    return MemoryCost(sizes[precision], hidden, live, flash, ram)


def compacted(shape: Shape, *, seen: int, width: int, copies: int = 1) -> LayerShape:
    """Return the shape after dropping the observation columns that the agent does not see.

    Parameters
    ----------
    shape : Shape
        With ``copies`` times ``width`` observation columns among its inputs.
    seen : int
        How many of ``width`` remain.
    width : int
    copies : int
        2 where the network also takes the change of every feature since the last step.

    Raises
    ------
    UsageError
        More columns would be dropped than there are.
    """
    if not (0 <= seen <= width and copies * width <= shape.inputs):
        msg = (
            f"cannot keep {seen} of {width} observation columns, {copies} times, of a network with "
            f"{shape.inputs} inputs: give 0 <= seen <= width and copies * width <= inputs"
        )
        raise UsageError(msg)
    whole = LayerShape(shape.inputs, tuple(shape.trunk), shape.gru, shape.outputs)
    return replace(whole, inputs=shape.inputs - copies * (width - seen))


def _rows(shape: Shape) -> int:
    """Return the number of rows of all matrices."""
    return sum(shape.trunk) + 6 * (shape.gru or 0) + 2 * (_rank(shape) or 0) + shape.outputs


def _rank(shape: Shape) -> int | None:
    """Return the rank of a GRU's matrices; None where they are full."""
    rank: int | None = getattr(shape, "rank", None)
    return rank


def _gru_matrices(shape: Shape, inputs: int, width: int) -> list[tuple[int, int]]:
    """Return rows and columns of a GRU's matrices; of rank r, each is a product of two."""
    rank = _rank(shape)
    if rank is None:
        return [(3 * width, inputs), (3 * width, width)]
    return [(rank, inputs), (3 * width, rank), (rank, width), (3 * width, rank)]


def _matrices(shape: Shape) -> Iterator[tuple[int, int]]:
    """Yield rows and columns of every matrix."""
    width = shape.inputs
    for layer in shape.trunk:
        yield layer, width
        width = layer
    if shape.gru is not None:
        yield from _gru_matrices(shape, width, shape.gru)
        width = shape.gru
    yield shape.outputs, width


def _c_tables(shape: ExportedShape, precision: Precision) -> int:
    """Return the bytes of the constant tables of the exported C; int8 has a scale for each row."""
    weight = {"fp32": FLOAT, "fp16": 2, "int8": 1}[precision]
    beside = FLOAT * (2 if precision == "int8" else 1)
    padded = ((rows + -rows % LANES, columns) for rows, columns in _matrices(shape))
    tables = sum(rows * (columns * weight + beside) for rows, columns in padded)
    return tables + FLOAT * shape.features * (2 + shape.motion)


def _c_buffers(shape: ExportedShape) -> int:
    """Return the bytes of the static buffers of the exported C, its memory and its logits.

    Layers write into two buffers in turn, beginning with the second.
    """
    first = max(shape.inputs, *shape.trunk[1::2], 1)
    second = max(shape.trunk[::2], default=0)
    floats = first + second + 6 * (shape.gru or 0) + shape.memory_width + shape.outputs
    floats += shape.rank or 0
    return FLOAT * floats


def _live(shape: Shape) -> Iterator[int]:
    """Yield how many numbers each layer needs at once, the hidden state left out."""
    width = shape.inputs
    for layer in shape.trunk:
        yield width + layer
        width = layer
    if shape.gru is not None:
        yield width + 6 * shape.gru
        width = shape.gru
    yield width + shape.outputs
