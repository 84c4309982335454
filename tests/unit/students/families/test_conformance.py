"""Every student family of ours keeps the promises of the protocol; what breaks one is found."""

import sys
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from kd_offline.networks.arithmetic import FLOAT, MemoryCost, NetworkCost
from kd_offline.networks.packed import Packed, PackedNetwork, Stacked
from kd_offline.networks.recurrent import RecurrentNetwork
from kd_offline.networks.stacked import StackedAffine
from kd_offline.schemas.recipes import StudentArchitecture
from kd_offline.students.families import FAMILIES
from kd_offline.students.families.base import PlainShape, StudentFamily
from kd_offline.students.families.gru import GRU
from kd_offline.testing.conformance import ConformanceError
from kd_offline.testing.students import check_family


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("gru", {}),
        ("gru", {"depth": 0}),
        ("gru", {"rank_share": 0.25, "depth": 1}),
        ("gru", {"aligner": "linear", "depth": 1}),
        ("mlp", {}),
        ("mlp", {"depth": 0}),
        ("fusion", {}),
        ("fusion", {"depth": 0, "block_width": 3, "block_hidden": 4}),
        ("fusion", {"aligner": "linear"}),
        ("ptde", {}),
        ("ptde", {"depth": 0, "z_width": 3}),
        ("ptde", {"aligner": "linear", "depth": 1}),
    ],
)
def test_our_families_keep_the_protocol(name, settings):
    check_family(name, settings)


@dataclass(frozen=True)
class Shape(PlainShape):
    inputs: int
    width: int
    outputs: int
    kept: int = 0
    layers = ("leaky sum",)

    @property
    def embedding(self):
        return self.width

    def deployed(self, given):
        return replace(self, inputs=given.width, kept=given.kept)

    def cost(self):
        macs = self.width * (self.inputs + self.outputs)
        return NetworkCost(macs + self.width + self.outputs, macs, 0)

    def memory(self, precision="fp32"):
        return MemoryCost(FLOAT * self.cost().parameters, FLOAT * (self.width + self.kept))


class Network(PackedNetwork):
    shape: Shape

    def __init__(self, shape, rng):
        super().__init__()
        self.shape = shape
        self.first = nn.Linear(shape.inputs, shape.width)
        self.head = nn.Linear(shape.width, shape.outputs)
        for layer in (self.first, self.head) if rng is not None else ():
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(rng.normal(0, 0.3, layer.weight.shape)))
                layer.bias.zero_()

    def start(self, batch):
        return torch.zeros(1, batch, self.shape.width)

    def read(self, x, columns):
        weight = self.first.weight if columns is None else self.first.weight[:, columns]
        return nn.functional.linear(x, weight, self.first.bias)

    def states(self, x, sizes, memory, columns):
        states, h = [], memory
        for seen in self.read(x, columns).split(sizes):
            h = 0.5 * h[: len(seen)] + seen
            states.append(h)
        return torch.cat(states)

    def packed(self, x, sizes, memory, columns=None):
        states = self.states(x, sizes, memory, columns)
        return Packed(self.head(states), states, states)


class Good(StudentFamily):
    """A leaky sum of what is seen."""

    description = "leaky sum"
    settings = StudentArchitecture
    drops_columns = True
    built: type[PackedNetwork] = Network

    def shape(self, settings, widths, inputs, outputs):
        return Shape(inputs, widths, outputs)

    def network(self, shape, rng):
        return self.built(shape, rng)


class Wordy(Good):
    description = "two\nlines"


class Open(Good):
    """A setting without a default cannot be left out of a recipe."""

    class settings(StudentArchitecture):
        needed: int


class Strange(Good):
    def declines(self, settings):
        return {"flying": "it has no wings"}


class Silent(Good):
    def declines(self, settings):
        return {"c": ""}


class Swapped(Good):
    def shape(self, settings, widths, inputs, outputs):
        return Shape(outputs, widths, inputs)


class Restless(Good):
    class built(Network):
        def __init__(self, shape, rng):
            super().__init__(shape, rng)
            nn.init.normal_(self.head.weight)


class Born(Good):
    class built(Network):
        def start(self, batch):
            return torch.ones(1, batch, self.shape.width)


class Short(Good):
    class built(Network):
        def packed(self, x, sizes, memory, columns=None):
            found = super().packed(x, sizes, memory, columns)
            return found._replace(embedding=found.embedding[:, :1])


class Averaging(Good):
    class built(Network):
        def read(self, x, columns):
            return super().read(x - x.mean(0), columns)


class Whispering(Good):
    class built(Network):
        def read(self, x, columns):
            return super().read(x, columns) + 1e-6 * x.sum()


class Counting(Good):
    class built(Network):
        def states(self, x, sizes, memory, columns):
            states = super().states(x, sizes, memory, columns).split(sizes)
            return torch.cat([h + 0.1 * step for step, h in enumerate(states)])


class Idle(Good):
    class built(Network):
        def __init__(self, shape, rng):
            super().__init__(shape, rng)
            self.unused = nn.Parameter(torch.zeros(3))


class Forgetful(Good):
    class built(Network):
        def __init__(self, shape, rng):
            super().__init__(shape, rng)
            self.first_weight = self.first.weight.detach().clone()  # no buffer

        def read(self, x, columns):
            weight = self.first_weight if columns is None else self.first_weight[:, columns]
            return super().read(x, columns) + nn.functional.linear(x, weight)


class Misread(Good):
    class built(Network):
        def read(self, x, columns):
            kept = None if columns is None else torch.arange(len(columns))
            return super().read(x, kept)


class Cheap(Good):
    class shape_type(Shape):
        def cost(self):
            claimed = super().cost()
            return replace(claimed, macs=claimed.macs - 1)

    def shape(self, settings, widths, inputs, outputs):
        return self.shape_type(inputs, widths, outputs)


class Light(Cheap):
    class shape_type(Shape):
        def cost(self):
            claimed = super().cost()
            return replace(claimed, parameters=claimed.parameters - 1)


class Everything(Cheap):
    class shape_type(Shape):
        def deployed(self, given):
            return replace(self, kept=given.kept)  # the hidden inputs are still there


class Forgotten(Cheap):
    class shape_type(Shape):
        def deployed(self, given):
            return replace(self, inputs=given.width)  # what its inputs keep is left out


class Together(Good):
    """Networks that are computed at once."""

    class built(Network):
        def stacked(self, x):
            states, h = [], 0.0
            for seen in StackedAffine.of(self.first)(x):
                h = 0.5 * h + seen
                states.append(h)
            return self.answered(torch.stack(states))

        def answered(self, states):
            return Stacked(StackedAffine.of(self.head)(states), states)


class Exchanged(Together):
    class built(Together.built):
        def answered(self, states):
            return super().answered(states.roll(1, 1))


class Sideways(Together):
    class built(Together.built):
        def answered(self, states):
            found = super().answered(states)
            return found._replace(outputs=found.outputs.mT)


class Cut(Together):
    class built(Together.built):
        def answered(self, states):
            return super().answered(states.detach())


class OpenGates(GRU):
    def network(self, shape, rng):
        class Gated(RecurrentNetwork):
            def gated(self, x, sizes, memory, gates):
                return super().gated(x, sizes, memory, [0.5 * gate for gate in gates])

        return Gated(shape, rng)


class DeafGates(GRU):
    def network(self, shape, rng):
        class Gated(RecurrentNetwork):
            def gated(self, x, sizes, memory, gates):
                return self.packed(x, sizes, memory)

        return Gated(shape, rng)


class Unfolded(GRU):
    def network(self, shape, rng):
        class Folding(RecurrentNetwork):
            def run_folded(self, x, sizes, memory, matrices):
                found = super().run_folded(x, sizes, memory, matrices)
                return found._replace(outputs=found.outputs + 1.0)

        return Folding(shape, rng)


class Miswritten(GRU):
    def network(self, shape, rng):
        class Exported(RecurrentNetwork):
            def cell(self, matrices):
                return super().cell([replace(m, bias=m.bias + 1) for m in matrices])

        return Exported(shape, rng)


@pytest.fixture
def registered(monkeypatch):
    """Return what registers a family under the name ``checked``."""

    def register(family):
        monkeypatch.setattr(sys.modules[__name__], "CHECKED", family(), raising=False)
        monkeypatch.setitem(FAMILIES.built_in, "checked", f"{__name__}:CHECKED")

    return register


@pytest.mark.parametrize("family", [Good, Together])
def test_a_small_family_passes(registered, family):
    registered(family)
    check_family("checked")


@pytest.mark.parametrize(
    ("family", "rule"),
    [
        (Wordy, "declaration"),
        (Open, "declaration"),
        (Strange, "declaration"),
        (Silent, "declaration"),
        (Swapped, "shape"),
        (Short, "shape"),
        (Restless, "weights"),
        (Born, "memory"),
        (Averaging, "packing"),
        (Whispering, "episodes"),
        (Counting, "steps"),
        (Idle, "gradients"),
        (Forgetful, "restored state"),
        (Misread, "columns"),
        (Cheap, "cost"),
        (Light, "cost"),
        (Everything, "cost"),
        (Forgotten, "cost"),
        (Exchanged, "stacked"),
        (Sideways, "stacked"),
        (Cut, "stacked"),
        (OpenGates, "gates"),
        (DeafGates, "gates"),
        (Unfolded, "int8"),
        (Miswritten, "export"),
    ],
)
def test_what_breaks_a_rule_is_found(registered, family, rule):
    registered(family)
    with pytest.raises(ConformanceError) as caught:
        check_family("checked", widths=(5,))
    assert caught.value.rule == rule, caught.value
