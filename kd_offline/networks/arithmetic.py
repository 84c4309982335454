"""Shapes of networks and their cost in closed form, without PyTorch.

One convention for everything: a multiply-accumulate (MAC) is one of a matrix product, a FLOP count
is 2 for each MAC, and both are of one decision of one agent. Biases, activations, normalisation
and the arithmetic between GRU gates are counted separately, as ``elementwise``. With inputs ``o``,
trunk widths ``w1..wn``, GRU width ``h`` and ``a`` actions::

    linear  x -> y : MACs x y          parameters x y + y          elementwise y
    relu + norm y  :                   parameters 2 y              elementwise 8 y
    gru     x -> h : MACs 3 h (x + h)  parameters 3 h (x + h + 2)  elementwise 17 h
    gru of rank r  : MACs r (x + 7 h)  parameters r (x + 7 h) + 6 h  elementwise 17 h

Every matrix weight is used once in a decision, so the number of MACs is also the number of matrix
weights. The other parameters are vectors (biases, gains). Of a sparse matrix only the weights that
are stored count; their column indices and row pointers count as bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, Protocol, Self, TypeVar, get_args

from kd_offline.errors import UsageError
from kd_offline.schemas.layers import LayerWidths, SparseMatrices

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

FLOAT = 4  # bytes
LANES = 8  # rows of the exported C that are computed together
_NORM_AND_RELU = 8  # relu 1; mean 1, variance 2, shift and scale 2, gain and bias 2
_GRU_GATES = 17  # two biases 6, sums 3, reset product 1, sigmoids and tanh 3, blend 4


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
class MemoryCost:
    """Bytes of one network without its code; None where unknown.

    ``hidden`` is kept from step to step. ``activation`` is the largest set of values that is alive
    at once within a step: input and output of a layer, for a GRU its input and both sides' gates.
    ``flash`` and ``ram`` are the tables and the static buffers of the exported C, whose rows are
    padded to blocks of 8; None where no C is exported.
    """

    parameters: int
    hidden: int | None = None
    activation: int | None = None
    flash: int | None = None
    ram: int | None = None

    @property
    def working(self) -> int | None:
        """Bytes that a step writes to: static buffers, or memory and live activations."""
        if self.ram is not None or self.hidden is None or self.activation is None:
            return self.ram
        return self.hidden + self.activation


@dataclass(frozen=True, slots=True)
class ValuePart:
    """A network that estimates values: a critic or a mixer, run ``calls`` times a team step."""

    cost: NetworkCost
    calls: int = 1


class Shape(Protocol):
    """The numbers of one network from which all costs are computed."""

    @property
    def inputs(self) -> int:
        """Number of input features."""
        ...

    @property
    def trunk(self) -> tuple[int, ...]:
        """Widths of the Linear-ReLU-LayerNorm layers; empty for other networks."""
        ...

    @property
    def gru(self) -> int | None:
        """Width of the GRU, or None."""
        ...

    @property
    def layers(self) -> tuple[str, ...]:
        """Descriptions of other layers, such as ``gated recurrence 16``."""
        ...

    @property
    def outputs(self) -> int:
        """Number of actions."""
        ...

    def cost(self) -> NetworkCost:
        """Return the exact cost of one decision."""
        ...

    def memory(self, precision: Precision = "fp32") -> MemoryCost | None:
        """Return the bytes that it needs; None where it has no such precision."""
        ...


@dataclass(frozen=True, slots=True)
class DeployedInputs:
    """The inputs of one agent's deployed network.

    ``features`` are those that a fixed mask leaves, or all. ``motion`` adds the change of each,
    ``mask_bits`` (of masks drawn for each episode) a bit for each, ``last_action`` the one-hot own
    last action, of ``actions`` numbers.
    """

    features: int
    actions: int
    motion: bool = False
    mask_bits: bool = False
    last_action: bool = False

    @property
    def width(self) -> int:
        """Number of inputs."""
        copies = 1 + self.motion + self.mask_bits
        return self.features * copies + self.actions * self.last_action

    @property
    def scaling(self) -> int:
        """Stored numbers that scale the features: centre, scale, and that of its change."""
        return self.features * (2 + self.motion)

    @property
    def kept(self) -> int:
        """Number of values kept from step to step to compute the inputs."""
        return (self.features + 1) * self.motion + self.actions * self.last_action


class StudentShape(Shape, Protocol):
    """One agent's network while it is trained, in numbers."""

    @property
    def embedding(self) -> int:
        """Width of the embedding, H: what loss terms read beside the logits."""
        ...

    @property
    def taps(self) -> Mapping[str, int]:
        """Widths of the inner layers that loss terms can read, by name."""
        ...

    @property
    def units(self) -> tuple[int, ...]:
        """Widths of the layers whose units can be removed, in the order of the computation."""
        ...

    def layer_widths(self, units: Sequence[int]) -> LayerWidths:
        """Return the widths of a network with other numbers of ``units``."""
        ...

    def deployed(self, inputs: DeployedInputs) -> DeployedShape:
        """Return the network as it is deployed."""
        ...


class DeployedShape(Shape, Protocol):
    """One agent's network as it is deployed, in numbers."""

    def with_units(self, units: Sequence[int]) -> Self:
        """Return it with other numbers of units; they may be tensors, whose costs are tensors."""
        ...


class _Widths(Protocol):
    """A trunk, an optional GRU and a linear head, by their widths."""

    @property
    def inputs(self) -> int: ...
    @property
    def trunk(self) -> tuple[int, ...]: ...
    @property
    def gru(self) -> int | None: ...
    @property
    def outputs(self) -> int: ...
    @property
    def rank(self) -> int | None: ...
    @property
    def sparse(self) -> SparseMatrices | None: ...


@dataclass(frozen=True, slots=True)
class NetworkShape:
    """Widths of inputs, trunk layers, GRU (None: no memory) and outputs."""

    inputs: int
    trunk: tuple[int, ...]
    gru: int | None
    outputs: int
    rank: int | None = None  # of both matrices of the GRU; None: full
    sparse: SparseMatrices | None = None  # of the deployed matrices

    @property
    def embedding(self) -> int:
        """Width of the embedding, H."""
        return self.gru if self.gru is not None else (self.inputs, *self.trunk)[-1]

    @property
    def taps(self) -> Mapping[str, int]:
        """Widths of the inner layers that loss terms can read: none."""
        return MappingProxyType({})

    @property
    def units(self) -> tuple[int, ...]:
        """Widths of the hidden layers, in the order of the computation."""
        return (*self.trunk, *([] if self.gru is None else [self.gru]))

    @property
    def layers(self) -> tuple[str, ...]:
        """Other layers: none."""
        return ()

    def cost(self) -> NetworkCost:
        """Return the exact cost of one decision."""
        return _cost(self)

    def memory(self, precision: Precision = "fp32") -> MemoryCost:
        """Return the bytes of parameters, memory and the largest live activation.

        With ``int8`` matrix weights take one byte each and every row of a matrix one float32 scale;
        vectors, memory and activations stay float32. With ``fp16`` all parameters take two bytes.
        """
        cost = self.cost()
        return _memory(self, precision, cost.parameters - cost.macs, self.gru or 0)

    def layer_widths(self, units: Sequence[int]) -> LayerWidths:
        """Return the widths of a network with other numbers of ``units``, or with its own."""
        own = self.sparse if tuple(units) == self.units else None
        return LayerWidths(**_split(self, units), sparse=own)

    def without_columns(self, hidden: int, copies: int) -> NetworkShape:
        """Return it without ``hidden`` features, each of which has ``copies`` columns."""
        return replace(self, inputs=self.inputs - copies * hidden)

    def deployed(self, inputs: DeployedInputs) -> ExportedShape:
        """Return the network as it is exported."""
        return ExportedShape(
            features=inputs.features,
            trunk=self.trunk,
            gru=self.gru,
            outputs=self.outputs,
            motion=inputs.motion,
            mask_bits=inputs.mask_bits,
            last_action=inputs.last_action,
            rank=self.rank,
            sparse=self.sparse,
        )


@dataclass(frozen=True, slots=True)
class ExportedShape:
    """Shape of an exported student, from which allocators and budgets compute costs.

    ``features`` and what is added to them are those of :class:`DeployedInputs`. What is stored are
    other vectors than those that are trained: normalisations are folded into the matrix that
    follows, and each feature has a centre and a scale.
    """

    features: int
    trunk: tuple[int, ...]
    gru: int | None
    outputs: int
    motion: bool = False
    mask_bits: bool = False
    last_action: bool = False
    rank: int | None = None  # of both matrices of the GRU
    sparse: SparseMatrices | None = None

    @property
    def _given(self) -> DeployedInputs:
        return DeployedInputs(
            self.features, self.outputs, self.motion, self.mask_bits, self.last_action
        )

    @property
    def inputs(self) -> int:
        """Columns of the first matrix."""
        return self._given.width

    @property
    def vectors(self) -> int:
        """Stored numbers beside the matrices and their row scales: biases, scaling of inputs."""
        return _rows(self) + self._given.scaling

    @property
    def memory_width(self) -> int:
        """Numbers kept from step to step; 1 for a network without a memory."""
        return (self.gru or 0) + self._given.kept or 1

    def with_units(self, units: Sequence[int]) -> ExportedShape:
        """Return it with other widths of trunk and GRU; they may be tensors."""
        return replace(self, **_split(self, units))

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """Rows and columns of every matrix, in the order of the computation."""
        return list(_matrices(self))

    @property
    def layers(self) -> tuple[str, ...]:
        """Other layers: none."""
        return ()

    def cost(self) -> NetworkCost:
        """Return the exact cost of one decision."""
        return _cost(self)

    def memory(self, precision: Precision = "fp32") -> MemoryCost:
        """Return the bytes of the exported network, and of its C."""
        plain = _memory(self, precision, self.vectors, self.memory_width)
        return replace(plain, flash=self._c_tables(precision), ram=self._c_buffers())

    def _c_tables(self, precision: Precision) -> int:
        """Return the bytes of the constant tables of the C."""
        return c_tables(_matrices(self), precision, self.sparse) + FLOAT * self._given.scaling

    def _c_buffers(self) -> int:
        """Return the bytes of the static buffers of the C, its memory and its logits.

        Layers write into two buffers in turn, beginning with the second.
        """
        first = max(self.inputs, *self.trunk[1::2], 1)
        second = max(self.trunk[::2], default=0)
        floats = first + second + 6 * (self.gru or 0) + self.memory_width + self.outputs
        floats += self.rank or 0
        return FLOAT * floats


@dataclass(frozen=True, slots=True)
class CountedShape:
    """Shape of a network whose cost was counted layer by layer, such as an imported expert's."""

    inputs: int
    outputs: int
    counted: tuple[int, int, int]  # parameters, multiply-accumulates, other arithmetic
    trunk: tuple[int, ...] = ()
    gru: int | None = None
    layers: tuple[str, ...] = ()

    def cost(self) -> NetworkCost:
        """Return the cost of one decision."""
        return NetworkCost(*self.counted)

    def memory(self, precision: Precision = "fp32") -> MemoryCost | None:
        """Return the bytes of the parameters; None at int8, which needs rows of matrices."""
        size = {"fp32": FLOAT, "fp16": 2}.get(precision)
        return None if size is None else MemoryCost(size * self.counted[0])


class _Compactable(Protocol):
    """A shape that can do without observation columns."""

    @property
    def inputs(self) -> int: ...
    def without_columns(self, hidden: int, copies: int) -> Self: ...


_Kind = TypeVar("_Kind", bound=_Compactable)


def compacted(shape: _Kind, *, seen: int, width: int, copies: int = 1) -> _Kind:
    """Return the shape after dropping the observation columns that the agent does not see.

    Parameters
    ----------
    shape
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
    return shape.without_columns(width - seen, copies)


def c_tables(
    matrices: Iterable[tuple[int, int]],
    precision: Precision,
    sparse: SparseMatrices | None = None,
) -> int:
    """Return the bytes of matrices of ``(rows, columns)`` and their biases in the exported C.

    Rows of full matrices are padded to blocks; int8 has a scale for each row.
    """
    weight = {"fp32": FLOAT, "fp16": 2, "int8": 1}[precision]
    row_bytes = FLOAT * (2 if precision == "int8" else 1)
    sizes, total = list(matrices), 0
    for (rows, columns), kept in zip(sizes, _kept(sparse, sizes), strict=True):
        if kept is None or sparse is None:
            total += (rows + -rows % LANES) * (columns * weight + row_bytes)
        else:
            stored = kept * sparse.block * weight + index_bytes(rows // sparse.block, columns, kept)
            total += stored + rows * row_bytes
    return total


def sparse_of(shape: Shape) -> SparseMatrices | None:
    """Return which weights of a network's matrices are stored; None where all are."""
    return shape.sparse if isinstance(shape, NetworkShape | ExportedShape) else None


def zeros_of(shape: Shape) -> int:
    """Return the number of weights that sparse matrices do without."""
    if not isinstance(shape, NetworkShape | ExportedShape) or shape.sparse is None:
        return 0
    return sum(rows * columns for rows, columns in _matrices(shape)) - shape.cost().macs


def index_bytes(block_rows: int, columns: int, kept: int) -> int:
    """Return the bytes of the indices of a matrix in compressed rows of blocks.

    Each block has the index of its column, and each row of blocks, and the end, a pointer to its
    first block. Both have the smallest type that holds them.
    """
    return kept * index_size(columns - 1) + (block_rows + 1) * index_size(kept)


def index_size(largest: int) -> int:
    """Return the bytes of the smallest unsigned integer that holds ``largest``: 1, 2 or 4."""
    return 1 if largest < 1 << 8 else 2 if largest < 1 << 16 else 4


def _kept(
    sparse: SparseMatrices | None, matrices: Sequence[tuple[int, int]]
) -> Sequence[int | None]:
    return [None] * len(matrices) if sparse is None else sparse.kept


def _stored(shape: _Widths) -> Iterator[Any]:
    """Yield the number of stored weights of every matrix."""
    matrices = list(_matrices(shape))
    for (rows, columns), kept in zip(matrices, _kept(shape.sparse, matrices), strict=True):
        if kept is None or shape.sparse is None:
            yield rows * columns
        else:
            yield kept * shape.sparse.block


def _indices(shape: _Widths) -> int:
    """Return the bytes of the indices of all sparse matrices."""
    if shape.sparse is None:
        return 0
    pairs = zip(_matrices(shape), shape.sparse.kept, strict=True)
    return sum(
        index_bytes(rows // shape.sparse.block, columns, kept)
        for (rows, columns), kept in pairs
        if kept is not None
    )


def _split(shape: _Widths, units: Sequence[int]) -> dict[str, Any]:
    """Return numbers of units as widths of trunk and GRU."""
    depth = len(shape.trunk)
    return {"trunk": tuple(units[:depth]), "gru": None if shape.gru is None else units[depth]}


def _cost(shape: _Widths) -> NetworkCost:
    # In this order: gates learn from sums of expected widths, whose rounding depends on it.
    *hidden, head = _stored(shape)
    depth = len(shape.trunk)
    macs = sum(hidden[:depth]) + sum(hidden[depth:]) + head
    vectors = elementwise = shape.outputs
    for layer in shape.trunk:
        vectors += 3 * layer
        elementwise += (1 + _NORM_AND_RELU) * layer
    if shape.gru is not None:
        vectors += 6 * shape.gru
        elementwise += _GRU_GATES * shape.gru
    return NetworkCost(macs + vectors, macs, elementwise)


def _memory(shape: _Widths, precision: Precision, vectors: int, kept: int) -> MemoryCost:
    weights = _cost(shape).macs
    sizes = {
        "fp32": FLOAT * (weights + vectors),
        "fp16": 2 * (weights + vectors),
        "int8": weights + FLOAT * (vectors + _rows(shape)),
    }
    stored = sizes[precision] + _indices(shape)
    return MemoryCost(stored, FLOAT * kept, FLOAT * max(_live(shape)))


def _rows(shape: _Widths) -> int:
    """Return the number of rows of all matrices."""
    return sum(shape.trunk) + 6 * (shape.gru or 0) + 2 * (shape.rank or 0) + shape.outputs


def _gru_matrices(shape: _Widths, inputs: int, width: int) -> list[tuple[int, int]]:
    """Return rows and columns of a GRU's matrices; of rank r, each is a product of two."""
    rank = shape.rank
    if rank is None:
        return [(3 * width, inputs), (3 * width, width)]
    return [(rank, inputs), (3 * width, rank), (rank, width), (3 * width, rank)]


def _matrices(shape: _Widths) -> Iterator[tuple[int, int]]:
    """Yield rows and columns of every matrix."""
    width = shape.inputs
    for layer in shape.trunk:
        yield layer, width
        width = layer
    if shape.gru is not None:
        yield from _gru_matrices(shape, width, shape.gru)
        width = shape.gru
    yield shape.outputs, width


def _live(shape: _Widths) -> Iterator[int]:
    """Yield how many numbers each layer needs at once, the hidden state left out."""
    width = shape.inputs
    for layer in shape.trunk:
        yield width + layer
        width = layer
    if shape.gru is not None:
        yield width + 6 * shape.gru
        width = shape.gru
    yield width + shape.outputs
