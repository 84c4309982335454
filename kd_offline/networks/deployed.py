"""Parts of a deployed network as plain arrays: affine maps, and a recurrence between two of them.

A recurrence is one class: its step in NumPy, which every other engine is compared with, and how it
is written in each format that can hold it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, takewhile
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Protocol, Self

import numpy as np

from kd_offline.errors import UsageError
from kd_offline.networks.quantise import restored
from kd_offline.types import Array, BoolArray, Float32Array

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Affine:
    """``y = W x + b``; int8 weights have a scale for each row.

    Where ``kept`` is given, the matrix is sparse: weights of other blocks are zero, and formats
    that can leave them out. A block is ``rows / len(kept)`` rows of one column.
    """

    weight: Array  # float32 or int8 [rows, columns]
    bias: Float32Array  # [rows]
    scale: Float32Array | None = None  # [rows]
    kept: BoolArray | None = None  # [rows / block, columns]; None: the matrix is full

    @property
    def values(self) -> Float32Array:
        """Weights as the numbers they stand for, float32 [rows, columns]."""
        return self.weight if self.scale is None else restored(self.weight, self.scale)

    @property
    def block(self) -> int:
        """Rows of a block."""
        return 1 if self.kept is None else len(self.bias) // len(self.kept)

    @property
    def stored(self) -> int:
        """Number of weights that are stored."""
        return self.weight.size if self.kept is None else int(self.kept.sum()) * self.block

    def __call__(self, x: Float32Array) -> Float32Array:
        """Map ``x``: float32 [B, columns] to float32 [B, rows]."""
        return x @ self.values.T + self.bias


Chain = tuple[Affine, ...]
"""Affine maps of one matrix, or of a product of two thin ones, the one that comes first first."""

EPSILON = 1e-5
"""Of the layer normalisation."""

WriteAffine = Callable[[str, Affine, str, str], str]
"""``(name, map, source, target) -> the line of C`` that maps one buffer to another."""


class Graph(Protocol):
    """An ONNX graph under construction; values go by their names."""

    def add(self, operator: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Add a node with one output, and return its name."""
        ...

    def constant(self, name: str, values: Array) -> str:
        """Keep an array under a name, once."""
        ...

    def affine(self, name: str, affine: Affine, x: str) -> str:
        """Map ``x`` [B, columns] to [B, rows]."""
        ...

    def part(self, x: str, start: int, stop: int, name: str) -> str:
        """Return columns ``start`` to ``stop`` of ``x``."""
        ...


class Cell(ABC):
    """The recurrent part between trunk and head of a deployed network.

    A family that exports its students subclasses it, see
    :meth:`kd_offline.networks.packed.PackedNetwork.cell`. A format that it does not override is
    refused.
    """

    name: ClassVar[str]
    """Of its part of the memory vector, and the beginning of its matrices' names."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Numbers of memory, H."""

    @property
    @abstractmethod
    def matrices(self) -> dict[str, Affine]:
        """All affine maps by name, in the order of the computation."""

    @classmethod
    def of(cls, matrices: Mapping[str, Affine]) -> Self:
        """Return the cell of its :attr:`matrices`, and of others that it does not use.

        Asked only of the cells in :data:`CELLS`, whose exports are read again.
        """
        raise NotImplementedError

    @property
    def products(self) -> int:
        """Multiply-accumulates of a step beside those of the matrices."""
        return 0

    @abstractmethod
    def mapped(self, change: Callable[[Affine], Affine]) -> Self:
        """Return the cell with every affine map changed."""

    @abstractmethod
    def step(self, x: Float32Array, h: Float32Array) -> Float32Array:
        """Return the next memory [B, H], which the head reads, of ``x`` [B, I] and ``h`` [B, H]."""

    def onnx(self, graph: Graph, x: str, h: str) -> str:
        """Add the step to an ONNX graph, and return the name of the next memory.

        Names of values begin with that of the cell, so that they are no other part's.
        """
        self._refuse("ONNX")

    def c_buffers(self) -> dict[str, int]:
        """Return the static buffers that its C needs, in floats."""
        self._refuse("C")

    def c_lines(self, affine: WriteAffine, x: str) -> Iterator[str]:
        """Yield lines of C that bring ``memory`` up to date, from a buffer ``x``."""
        self._refuse("C")

    def torch_step(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the step in PyTorch, as quick as it can be; to be timed."""
        self._refuse("PyTorch")

    def _refuse(self, engine: str) -> NoReturn:
        msg = f"the recurrence {self.name!r} has no step in {engine}: choose another format"
        raise UsageError(msg)


@dataclass(frozen=True, slots=True)
class FusionCell(Cell):
    """DDN's block on the agent's own input, a trunk and a GRU, see :mod:`networks.fusion`.

    The first ``maps.weight.shape[1]`` inputs are the source.
    """

    name: ClassVar[str] = "fusion"

    hyper: Affine  # [m, I]
    maps: Affine  # [(m + 1) d, source]
    trunk: tuple[Affine, ...]  # each followed by ReLU and normalisation
    gru: GRUCell

    @property
    def width(self) -> int:
        """Numbers of memory, H."""
        return self.gru.width

    @property
    def matrices(self) -> dict[str, Affine]:
        """All affine maps by name, in the order of the computation."""
        layers = {f"fusion.trunk.{k}": layer for k, layer in enumerate(self.trunk)}
        return {"fusion.hyper": self.hyper, "fusion.maps": self.maps} | layers | self.gru.matrices

    @classmethod
    def of(cls, matrices: Mapping[str, Affine]) -> FusionCell:
        """Return the cell of its matrices."""
        names = takewhile(matrices.__contains__, (f"fusion.trunk.{k}" for k in count()))
        trunk = tuple(matrices[name] for name in names)
        hyper, maps = matrices["fusion.hyper"], matrices["fusion.maps"]
        return cls(hyper, maps, trunk, GRUCell.of(matrices))

    @property
    def products(self) -> int:
        """Multiply-accumulates of the generating layer with the product of the source, m d."""
        return len(self.maps.bias) - self._fused

    @property
    def _fused(self) -> int:
        return len(self.maps.bias) // (len(self.hyper.bias) + 1)

    def mapped(self, change: Callable[[Affine], Affine]) -> FusionCell:
        """Return the cell with every affine map changed."""
        trunk = tuple(map(change, self.trunk))
        return FusionCell(change(self.hyper), change(self.maps), trunk, self.gru.mapped(change))

    def step(self, x: Float32Array, h: Float32Array) -> Float32Array:
        """Return the next memory [B, H]."""
        hyper = np.maximum(self.hyper(x), 0)[:, None]
        product = self.maps(x[:, : self.maps.weight.shape[1]])
        main, constant = product[:, : self.products], product[:, self.products :]
        y = (hyper @ main.reshape(len(x), -1, self._fused))[:, 0] + constant
        for layer in self.trunk:
            y = normalised(np.maximum(layer(y), 0))
        return self.gru.step(y, h)

    def onnx(self, graph: Graph, x: str, h: str) -> str:
        """Add the step to an ONNX graph."""
        hyper = graph.add("Relu", graph.affine("fusion.hyper", self.hyper, x), name="fusion.relu")
        source = graph.part(x, 0, self.maps.weight.shape[1], "fusion.source")
        product = graph.affine("fusion.maps", self.maps, source)
        main = graph.part(product, 0, self.products, "fusion.main")
        constant = graph.part(product, self.products, len(self.maps.bias), "fusion.constant")

        def shaped(values: str, name: str, *sizes: int) -> str:
            shape = graph.constant(f"{name}.shape", np.array([0, *sizes], np.int64))  # 0: as it is
            return graph.add("Reshape", values, shape, name=name)

        m, d = len(self.hyper.bias), self._fused
        row, maps = shaped(hyper, "fusion.row", 1, m), shaped(main, "fusion.map", m, d)
        fused = shaped(graph.add("MatMul", row, maps, name="fusion.product"), "fusion.flat", d)
        y = graph.add("Add", fused, constant, name="fusion.s_hat")
        for k, layer in enumerate(self.trunk):
            name = f"fusion.trunk.{k}"
            ones = graph.constant(f"ones_{len(layer.bias)}", np.ones(len(layer.bias), np.float32))
            z = graph.add("Relu", graph.affine(name, layer, y), name=f"{name}.relu")
            y = graph.add(
                "LayerNormalization", z, ones, name=f"{name}.normalised", axis=-1, epsilon=EPSILON
            )
        return self.gru.onnx(graph, y, h)

    def c_buffers(self) -> dict[str, int]:
        """Return the buffers of the block, of the trunk and of the GRU."""
        widths = [len(layer.bias) for layer in self.trunk]
        own = {"hyper": len(self.hyper.bias), "maps": len(self.maps.bias)}
        own["fused"] = max(self._fused, *widths[1::2], 0)
        if widths:
            own["layer"] = max(widths[::2])
        return own | self.gru.c_buffers()

    def c_lines(self, affine: WriteAffine, x: str) -> Iterator[str]:
        """Yield lines of C that bring ``memory`` up to date."""
        d = self._fused
        yield affine("fusion_hyper", self.hyper, x, "hyper")
        yield affine("fusion_maps", self.maps, x, "maps")
        yield f"for (int k = 0; k < {d}; k++) {{"
        yield f"    float sum = maps[{self.products} + k];"
        yield f"    for (int j = 0; j < {len(self.hyper.bias)}; j++)"
        yield f"        sum += hyper[j] > 0.0f ? hyper[j] * maps[j * {d} + k] : 0.0f;"
        yield "    fused[k] = sum;"
        yield "}"
        now, other = "fused", "layer"
        for k, layer in enumerate(self.trunk):
            yield affine(f"fusion_trunk_{k}", layer, now, other)
            yield f"kd_normalise({other}, {len(layer.bias)});"
            now, other = other, now
        yield from self.gru.c_lines(affine, now)

    def torch_step(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the step of PyTorch operators."""
        import torch
        from torch.nn.functional import layer_norm, linear

        hyper, maps, *trunk = (
            (torch.from_numpy(each.values), torch.from_numpy(each.bias))
            for each in (self.hyper, self.maps, *self.trunk)
        )
        gru, split, d = self.gru.torch_step(), self.products, self._fused

        def step(x: Tensor, h: Tensor) -> Tensor:
            product = linear(x[:, : maps[0].shape[1]], *maps)
            row = linear(x, *hyper).relu_().unsqueeze(1)
            main = product[:, :split].view(len(x), -1, d)
            y = torch.baddbmm(product[:, split:].unsqueeze(1), row, main).squeeze(1)
            for weight, bias in trunk:
                y = layer_norm(linear(y, weight, bias).relu_(), bias.shape, eps=EPSILON)
            return gru(y, h)

        return step


@dataclass(frozen=True, slots=True)
class GRUCell(Cell):
    """A GRU as PyTorch has it: gates reset, update and new; the reset gate acts on ``W h + b``."""

    name: ClassVar[str] = "gru"

    input: Chain
    memory: Chain

    @property
    def width(self) -> int:
        """Numbers of memory, H."""
        return int(self.memory[0].weight.shape[1])

    @property
    def sides(self) -> dict[str, Chain]:
        """The matrices that are applied to the input and to the memory, by name."""
        return {"gru.input": self.input, "gru.memory": self.memory}

    @property
    def matrices(self) -> dict[str, Affine]:
        """All affine maps by name, in the order of the computation."""
        found: dict[str, Affine] = {}
        for side, chain in self.sides.items():
            found |= dict(zip((f"{side}.thin", side)[-len(chain) :], chain, strict=True))
        return found

    @classmethod
    def of(cls, matrices: Mapping[str, Affine]) -> GRUCell:
        """Return the cell of its matrices."""

        def chain(name: str) -> Chain:
            return tuple(matrices[part] for part in (f"{name}.thin", name) if part in matrices)

        return cls(chain("gru.input"), chain("gru.memory"))

    def mapped(self, change: Callable[[Affine], Affine]) -> GRUCell:
        """Return the cell with every affine map changed."""
        return GRUCell(tuple(map(change, self.input)), tuple(map(change, self.memory)))

    def step(self, x: Float32Array, h: Float32Array) -> Float32Array:
        """Return the next memory [B, H]."""
        values = []
        for chain, value in zip(self.sides.values(), (x, h), strict=True):
            for affine in chain:
                value = affine(value)
            values.append(np.split(value, 3, axis=1))
        ours, theirs = values
        reset, update = (sigmoid(a + b) for a, b in zip(ours[:2], theirs[:2], strict=True))
        new = np.tanh(ours[2] + reset * theirs[2])
        result: Float32Array = new + update * (h - new)
        return result

    def onnx(self, graph: Graph, x: str, h: str) -> str:
        """Add the step to an ONNX graph."""
        width = self.width
        mine, theirs = (
            _chained(graph, side, chain, value)
            for (side, chain), value in zip(self.sides.items(), (x, h), strict=True)
        )

        def gate(name: str, k: int) -> tuple[str, str]:
            span = (k * width, (k + 1) * width)
            ours = graph.part(mine, *span, f"{name}.ours")
            return ours, graph.part(theirs, *span, f"{name}.theirs")

        def squashed(name: str, k: int) -> str:
            total = graph.add("Add", *gate(name, k), name=f"{name}.total")
            return graph.add("Sigmoid", total, name=name)

        reset, update = squashed("gru.reset", 0), squashed("gru.update", 1)
        ours, remembered = gate("gru.new", 2)
        let = graph.add("Mul", reset, remembered, name="gru.new.reset")
        new = graph.add("Tanh", graph.add("Add", ours, let, name="gru.new.total"), name="gru.new")
        gap = graph.add("Sub", h, new, name="gru.gap")
        return graph.add("Add", new, graph.add("Mul", update, gap, name="gru.kept"), name="gru")

    def c_buffers(self) -> dict[str, int]:
        """Return the buffers of both sides, and of thin products."""
        gates = len(self.input[-1].bias)
        thin = [len(chain[0].bias) for chain in self.sides.values() if len(chain) > 1]
        return {"mine": gates, "theirs": gates} | ({"thin": max(thin)} if thin else {})

    def c_lines(self, affine: WriteAffine, x: str) -> Iterator[str]:
        """Yield lines of C that bring ``memory`` up to date."""
        ends = ((x, "mine"), ("memory", "theirs"))
        for (side, chain), (source, target) in zip(self.sides.items(), ends, strict=True):
            label = side.replace(".", "_")
            if len(chain) > 1:
                yield affine(f"{label}_thin", chain[0], source, "thin")
            yield affine(label, chain[-1], "thin" if len(chain) > 1 else source, target)
        yield f"kd_gru(mine, theirs, memory, {self.width});"

    def torch_step(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Return ``torch.gru_cell`` of these matrices, which knows full ones."""
        import torch

        sides = [_product(chain) for chain in self.sides.values()]
        weights, biases = (
            [torch.from_numpy(values) for values in each]
            for each in zip(*((side.values, side.bias) for side in sides), strict=True)
        )
        return lambda x, h: torch.gru_cell(x, h, *weights, *biases)


@dataclass(frozen=True, slots=True)
class PredictingCell(Cell):
    """A GRU and what PTDE's student predicts from its state, see :mod:`networks.predicting`.

    The memory is the state of the GRU and behind it the prediction, which is made anew in each
    step.
    """

    name: ClassVar[str] = "ptde"

    gru: GRUCell
    predict: Affine  # [p, H], followed by ReLU and normalisation
    z: Affine  # [Z, p]

    @property
    def width(self) -> int:
        """Numbers of memory, H + Z."""
        return self.gru.width + len(self.z.bias)

    @property
    def matrices(self) -> dict[str, Affine]:
        """All affine maps by name, in the order of the computation."""
        return self.gru.matrices | {"ptde.predict": self.predict, "ptde.z": self.z}

    @classmethod
    def of(cls, matrices: Mapping[str, Affine]) -> PredictingCell:
        """Return the cell of its matrices."""
        return cls(GRUCell.of(matrices), matrices["ptde.predict"], matrices["ptde.z"])

    def mapped(self, change: Callable[[Affine], Affine]) -> PredictingCell:
        """Return the cell with every affine map changed."""
        return PredictingCell(self.gru.mapped(change), change(self.predict), change(self.z))

    def step(self, x: Float32Array, h: Float32Array) -> Float32Array:
        """Return the next memory [B, H + Z]."""
        state = self.gru.step(x, h[:, : self.gru.width])
        z = self.z(normalised(np.maximum(self.predict(state), 0)))
        return np.concatenate([state, z], axis=1)

    def onnx(self, graph: Graph, x: str, h: str) -> str:
        """Add the step to an ONNX graph."""
        before = graph.part(h, 0, self.gru.width, "ptde.before")
        state, name = self.gru.onnx(graph, x, before), "ptde.predict"
        seen = graph.add("Relu", graph.affine(name, self.predict, state), name=f"{name}.relu")
        width = len(self.predict.bias)
        ones = graph.constant(f"ones_{width}", np.ones(width, np.float32))
        y = graph.add(
            "LayerNormalization", seen, ones, name=f"{name}.normalised", axis=-1, epsilon=EPSILON
        )
        z = graph.affine("ptde.z", self.z, y)
        return graph.add("Concat", state, z, name="ptde", axis=1)

    def c_buffers(self) -> dict[str, int]:
        """Return the buffers of the GRU, and of the layer that predicts."""
        return {**self.gru.c_buffers(), "predicted": len(self.predict.bias)}

    def c_lines(self, affine: WriteAffine, x: str) -> Iterator[str]:
        """Yield lines of C that bring ``memory`` up to date."""
        yield from self.gru.c_lines(affine, x)
        yield affine("ptde_predict", self.predict, "memory", "predicted")
        yield f"kd_normalise(predicted, {len(self.predict.bias)});"
        yield affine("ptde_z", self.z, "predicted", f"memory + {self.gru.width}")

    def torch_step(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the step of PyTorch operators."""
        import torch
        from torch.nn.functional import layer_norm, linear

        (p_weight, p_bias), (z_weight, z_bias) = (
            (torch.from_numpy(each.values), torch.from_numpy(each.bias))
            for each in (self.predict, self.z)
        )
        gru, width = self.gru.torch_step(), self.gru.width

        def step(x: Tensor, h: Tensor) -> Tensor:
            state = gru(x, h[:, :width])
            y = layer_norm(linear(state, p_weight, p_bias).relu_(), p_bias.shape, eps=EPSILON)
            return torch.cat([state, linear(y, z_weight, z_bias)], 1)

        return step


CELLS: Mapping[str, type[Cell]] = {
    cell.name: cell for cell in (GRUCell, FusionCell, PredictingCell)
}
"""The cells that the PyTorch format holds, by name."""


def _chained(graph: Graph, name: str, chain: Chain, x: str) -> str:
    x = graph.affine(f"{name}.thin", chain[0], x) if len(chain) > 1 else x
    return graph.affine(name, chain[-1], x)


def _product(chain: Chain) -> Affine:
    if len(chain) == 1:
        return chain[0]
    thin, wide = chain
    return Affine(wide.values @ thin.values, wide(thin.bias))


def normalised(x: Float32Array) -> Float32Array:
    """Return every row less its mean, divided by its deviation: [B, W]."""
    centred = x - x.mean(axis=1, keepdims=True)
    variance = (centred * centred).mean(axis=1, keepdims=True)
    result: Float32Array = centred / np.sqrt(variance + np.float32(EPSILON))
    return result


def sigmoid(x: Float32Array) -> Float32Array:
    """Return the logistic function, which overflows nowhere."""
    half = np.float32(0.5)
    result: Float32Array = half * np.tanh(half * x) + half
    return result
