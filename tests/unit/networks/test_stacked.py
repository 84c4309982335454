"""Networks that are computed together give what each gives alone, forth and back."""

import pytest
import torch
from torch.nn import functional

from kd_offline.networks.gru import Weights, packed_gru
from kd_offline.networks.stacked import Affine, dense, stacked_gru

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
    dense(x, Affine(weight, bias), 1e-5).backward(upstream)
    for k in range(K):
        (w, b), given = alone((weight, bias), k), as_rows(x, k)
        functional.layer_norm(functional.linear(given, w, b).relu(), (WIDTH,)).backward(
            as_rows(upstream, k)
        )
        torch.testing.assert_close(as_rows(x.grad, k), given.grad, check_stride=False)
        torch.testing.assert_close(weight.grad[k], w.grad)
        torch.testing.assert_close(bias.grad[k], b.grad)


def test_gain_and_offset_before_a_layer_become_part_of_it():
    layer = Affine(drawn(K, WIDTH, INPUTS), drawn(K, WIDTH))
    gain, offset = drawn(K, INPUTS), drawn(K, INPUTS)
    x = drawn(T, K, INPUTS, B)
    moved = layer(x * gain.unsqueeze(-1) + offset.unsqueeze(-1))
    torch.testing.assert_close(layer.after(gain, offset)(x), moved)
