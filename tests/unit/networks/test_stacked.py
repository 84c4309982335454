"""Networks that are computed together give what each gives alone, forth and back."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from kd_offline.networks.fusion import FusionNetwork
from kd_offline.networks.fusion_shape import FusionShape
from kd_offline.networks.gru import Weights, packed_gru
from kd_offline.networks.packed import PackedNetwork
from kd_offline.networks.predicting import PredictingNetwork
from kd_offline.networks.recurrent import RecurrentNetwork
from kd_offline.networks.stacked import StackedAffine, dense, scaled, stacked_gru, stacked_module

T, K, INPUTS, WIDTH, B = 4, 3, 6, 5, 7


DRAW = torch.Generator()


def drawn(*shape):
    return torch.randn(shape, dtype=torch.float64, generator=DRAW).requires_grad_()


@pytest.fixture(autouse=True)
def _seeded():
    DRAW.manual_seed(0)


def alone(tensors, k):
    return [each.detach()[k].clone().requires_grad_() for each in tensors]


def as_rows(values, k):
    """Values of one network as its own functions take them, [T B, H]."""
    return values.detach()[:, k].mT.reshape(T * B, -1).clone().requires_grad_()


def test_grus_and_their_gradients():
    shapes = (3 * WIDTH, INPUTS), (3 * WIDTH, WIDTH), (3 * WIDTH,), (3 * WIDTH,)
    weights = Weights(*(drawn(K, *shape) for shape in shapes))
    x, upstream = drawn(T, K, INPUTS, B), drawn(T, K, WIDTH, B)
    states = stacked_gru(x, weights)
    states.backward(upstream)
    for k in range(K):
        own, given = Weights(*alone(weights, k)), as_rows(x, k)
        found = packed_gru(given, [B] * T, torch.zeros(B, WIDTH, dtype=torch.float64), own)
        found.backward(as_rows(upstream, k))
        torch.testing.assert_close(as_rows(states, k), found, check_stride=False)
        torch.testing.assert_close(as_rows(x.grad, k), given.grad, check_stride=False)
        for mine, theirs in zip(weights, own, strict=True):
            torch.testing.assert_close(mine.grad[k], theirs.grad)


@pytest.mark.parametrize("part", [1, 2**16])  # step by step, and all steps at once
def test_dense_layers_and_their_gradients(monkeypatch, part):
    monkeypatch.setattr("kd_offline.networks.stacked._PART", part)
    weight, bias = drawn(K, WIDTH, INPUTS), drawn(K, WIDTH)
    x, upstream = drawn(T, K, INPUTS, B), drawn(T, K, WIDTH, B)
    dense(x, StackedAffine(weight, bias), 1e-5).backward(upstream)
    for k in range(K):
        (w, b), given = alone((weight, bias), k), as_rows(x, k)
        functional.layer_norm(functional.linear(given, w, b).relu(), (WIDTH,)).backward(
            as_rows(upstream, k)
        )
        torch.testing.assert_close(as_rows(x.grad, k), given.grad, check_stride=False)
        torch.testing.assert_close(weight.grad[k], w.grad)
        torch.testing.assert_close(bias.grad[k], b.grad)


def test_gain_and_offset_before_a_layer_become_part_of_it():
    layer, norm = StackedAffine(drawn(K, WIDTH, INPUTS), drawn(K, WIDTH)), nn.LayerNorm(INPUTS)
    norm.weight.data, norm.bias.data = drawn(K, INPUTS).data, drawn(K, INPUTS).data
    x = drawn(T, K, INPUTS, B)
    torch.testing.assert_close(layer.after(norm)(x), layer(scaled(x, norm)))
    assert layer.after(None) is layer
    assert scaled(x, None) is x


class Counting(nn.Module):
    """A layer without bias that is frozen, and a number of each network that is no parameter."""

    layer: nn.Linear
    count: torch.Tensor

    def __init__(self, count):
        super().__init__()
        self.layer = nn.Linear(INPUTS, WIDTH, bias=False).requires_grad_(False)
        self.register_buffer("count", torch.tensor(count))


def test_modules_read_their_numbers_from_the_stack_and_share_no_others():
    modules = [Counting(k) for k in range(K)]
    before = [module.layer.weight.clone() for module in modules]
    whole = stacked_module(modules)
    assert whole.count.tolist() == [0, 1, 2]
    assert not whole.layer.weight.requires_grad
    x = torch.randn(T, K, INPUTS, B, generator=DRAW)
    for k, module in enumerate(modules):
        torch.testing.assert_close(module.layer.weight, before[k])
        rows = as_rows(StackedAffine.of(whole.layer)(x), k)
        torch.testing.assert_close(rows, module.layer(as_rows(x, k)), check_stride=False)
    whole.layer.weight.zero_()
    whole.count.add_(1)
    assert [int(module.count) for module in modules] == [1, 2, 3]
    assert not any(module.layer.weight.any() for module in modules)


@pytest.mark.parametrize(
    "shape",
    [
        FusionShape(3, INPUTS, 4, 3, (6,), WIDTH, outputs=2, own=True),
        FusionShape(3, INPUTS - 3, 4, 3, (6,), WIDTH, outputs=2),
        FusionShape(3, INPUTS - 3, 4, 3, (6,), WIDTH, outputs=2, normalised=True),
    ],
    ids=["first columns", "beside", "normalised"],
)
def test_a_source_may_be_a_part_of_the_input(shape):
    networks = [FusionNetwork(shape, np.random.default_rng(k)) for k in range(K)]
    x = drawn(T, K, INPUTS, B).detach().float()
    said = stacked_module(copy.deepcopy(networks)).stacked(x)
    for k, network in enumerate(networks):
        own = network.packed(as_rows(x, k), [B] * T, network.start(B)[0])
        torch.testing.assert_close(as_rows(said.outputs, k), own.outputs, check_stride=False)
        torch.testing.assert_close(as_rows(said.embedding, k), own.embedding, check_stride=False)


def test_only_who_says_how_its_own_networks_run_together_is_stackable():
    """Otherwise the function of the parent class would be trained, and another one played."""

    class Changed(RecurrentNetwork):
        def packed(self, x, sizes, memory, columns=None):
            said = super().packed(x, sizes, memory, columns)
            return said._replace(outputs=2 * said.outputs)

    class Renamed(RecurrentNetwork):
        pass

    class Both(Changed):
        def stacked(self, x):
            raise AssertionError

    assert not PackedNetwork.is_stackable()
    assert not Changed.is_stackable()
    assert Renamed.is_stackable()
    assert Both.is_stackable()
    assert FusionNetwork.is_stackable()
    assert PredictingNetwork.is_stackable()
