"""Students with a gated linear recurrence (minGRU, Feng et al., 2024)."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from kd_offline.networks.arithmetic import FLOAT, MemoryCost, NetworkCost
from kd_offline.networks.deployed import Affine, Cell, sigmoid
from kd_offline.networks.packed import (
    Packed,
    PackedNetwork,
    Stacked,
    affine,
    compose,
    unchanged,
)
from kd_offline.networks.stacked import StackedAffine
from kd_offline.schemas.recipes import StudentArchitecture
from kd_offline.students.families.base import PlainShape, StudentFamily


class MinGRUSettings(StudentArchitecture):
    """Settings, by their paths ``student.*``, beside those of all families."""

    state_share: float = Field(default=1.0, gt=0, le=4, description="width of the state, by hidden")


@dataclass(frozen=True)
class MinGRUShape(PlainShape):
    """One agent's network in numbers."""

    inputs: int
    hidden: int
    state: int
    outputs: int
    kept: int = 0  # numbers that a deployed agent keeps for the sake of its inputs
    scaling: int = 0  # and that scale them

    @property
    def layers(self):
        """In words, for reports."""
        return (f"linear {self.hidden}", f"minGRU {self.state}")

    @property
    def embedding(self):
        """Width of what loss terms read."""
        return self.state

    def deployed(self, given):
        """Return the network with the inputs that it is given when it is deployed."""
        return replace(self, inputs=given.width, kept=given.kept, scaling=given.scaling)

    def cost(self):
        """Count one decision."""
        matrices = self.hidden * (self.inputs + 2 * self.state) + self.state * self.outputs
        rows = self.hidden + 2 * self.state + self.outputs
        return NetworkCost(matrices + rows, matrices, rows + self.hidden + 5 * self.state)

    def memory(self, precision="fp32"):
        """Count bytes; None where weights cannot have the precision."""
        sizes = {"fp32": FLOAT, "fp16": 2}
        if precision not in sizes:
            return None
        live = max(self.inputs + self.hidden, self.hidden + 2 * self.state)
        parameters = sizes[precision] * (self.cost().parameters + self.scaling)
        return MemoryCost(parameters, FLOAT * (self.state + self.kept), FLOAT * live)


class MinGRUNetwork(PackedNetwork):
    """A linear layer, ``h' = (1 - z) h + z c`` with gate and candidate of the input, a head."""

    shape: MinGRUShape

    def __init__(self, shape, rng):
        super().__init__()
        self.shape = shape
        self.first = nn.Linear(shape.inputs, shape.hidden)
        self.gates = nn.Linear(shape.hidden, 2 * shape.state)
        self.head = nn.Linear(shape.state, shape.outputs)
        for layer in (self.first, self.gates, self.head) if rng is not None else ():
            drawn = rng.normal(0.0, layer.in_features**-0.5, layer.weight.shape)
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(drawn.astype(np.float32)))
                layer.bias.zero_()

    def start(self, batch):
        """Return the memory of fresh episodes, [1, B, M]."""
        return self.head.weight.new_zeros(1, batch, self.shape.state)

    def packed(self, x, sizes, memory, columns=None):
        """Run over packed ``x`` [S, I] from ``memory`` [B, M].

        ``sizes``: how many sequences run in each step, the longest first; ``columns``: which inputs
        ``x`` has, None for all.
        """
        weight = self.first.weight if columns is None else self.first.weight[:, columns]
        x = functional.linear(x, weight, self.first.bias).relu()
        gate, candidate = self.gates(x).split(self.shape.state, 1)
        gate = gate.sigmoid()
        keep, add = (1 - gate).split(sizes), (gate * candidate).split(sizes)
        states, h = [], memory
        for kept, added in zip(keep, add, strict=True):
            h = kept * h[: len(kept)] + added
            states.append(h)
        h = torch.cat(states)
        return Packed(self.head(h), h, h)

    def stacked(self, x):
        """Run K networks at once, whose weights are [K, ...], over ``x`` [T, K, I, B]."""
        x = StackedAffine.of(self.first)(x).relu()
        gate, candidate = StackedAffine.of(self.gates)(x).split(self.shape.state, 2)
        gate, states, h = gate.sigmoid(), [], torch.zeros_like(gate[0])
        for kept, added in zip(1 - gate, gate * candidate, strict=True):
            h = kept * h + added
            states.append(h)
        h = torch.stack(states)
        return Stacked(StackedAffine.of(self.head)(h), h)

    def folded(self, before=None, inputs=unchanged):
        """Return the matrices as they are exported, the aligner and the mask in the first."""
        return inputs(compose(before, affine(self.first))), affine(self.gates), affine(self.head)

    def cell(self, matrices):
        """Return what stands before the head of an exported network."""
        return MinGRUCell(*matrices)


@dataclass(frozen=True)
class MinGRUCell(Cell):
    """The same step of plain arrays, and in ONNX."""

    name = "min_gru"

    first: Affine
    gates: Affine

    @property
    def width(self):
        """Numbers of memory."""
        return len(self.gates.bias) // 2

    @property
    def matrices(self):
        """By name, in the order of the computation."""
        return {"min_gru.first": self.first, "min_gru.gates": self.gates}

    def mapped(self, change):
        """Return the cell with both matrices changed."""
        return MinGRUCell(change(self.first), change(self.gates))

    def step(self, x, h):
        """Return the next memory, which the head reads."""
        gate, candidate = np.split(self.gates(np.maximum(self.first(x), 0)), 2, axis=1)
        return h + sigmoid(gate) * (candidate - h)

    def onnx(self, graph, x, h):
        """Add the step to a graph; names begin with the cell's."""
        seen = graph.add("Relu", graph.affine("min_gru.first", self.first, x), name="min_gru.seen")
        both = graph.affine("min_gru.gates", self.gates, seen)
        total = graph.part(both, 0, self.width, "min_gru.total")
        candidate = graph.part(both, self.width, 2 * self.width, "min_gru.candidate")
        gate = graph.add("Sigmoid", total, name="min_gru.gate")
        gap = graph.add("Sub", candidate, h, name="min_gru.gap")
        return graph.add("Add", h, graph.add("Mul", gate, gap, name="min_gru.step"), name="min_gru")


class MinGRU(StudentFamily):
    """A small recurrence whose gates read the input alone."""

    description = "gated linear recurrence (minGRU)"
    settings = MinGRUSettings
    drops_columns = True

    def shape(self, settings, widths, inputs, outputs):
        """Return one agent's network in numbers; ``widths`` is its hidden width."""
        state = max(1, round(settings.state_share * widths))
        return MinGRUShape(inputs, widths, state, outputs)

    def network(self, shape, rng):
        """Return a network; ``rng`` draws its first weights."""
        return MinGRUNetwork(shape, rng)

    def declines(self, settings):
        """Return what is not offered, and what to do instead."""
        return {
            "gates": "its units are no layers that could be narrowed, so allocate by worth",
            "int8": "no rounding of its gates is defined, so keep fp32",
            "expert": "experts are of other networks, so train further students of gru or mlp",
            "c": "its recurrence is not written in C, so export to onnx",
            "torch": "the reader of that format does not know it, so export to onnx",
        }


FAMILY = MinGRU()
