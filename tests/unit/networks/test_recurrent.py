import numpy as np
import pytest
import torch

from kd_offline.networks.arithmetic import NetworkShape
from kd_offline.networks.recurrent import RecurrentNetwork


def network(gru, trunk=(8, 6)):
    return RecurrentNetwork(NetworkShape(5, trunk, gru, 3), np.random.default_rng(0))


@pytest.mark.parametrize(("gru", "trunk"), [(7, (8, 6)), (None, (8, 6)), (7, ()), (None, ())])
def test_shapes(gru, trunk):
    model = network(gru, trunk)
    out, embedding, memory = model(torch.randn(4, 2, 5), model.start(2))
    assert out.shape == (4, 2, 3)
    assert embedding.shape == (4, 2, model.shape.embedding)
    assert memory.shape == (1, 2, gru or 0)


def test_one_unroll_equals_single_steps():
    model = network(7)
    x = torch.randn(6, 3, 5)
    whole, embedding, last = model(x, model.start(3))
    memory, steps = model.start(3), []
    for t in range(6):
        out, _, memory = model(x[t : t + 1], memory)
        steps.append(out)
    torch.testing.assert_close(torch.cat(steps), whole)
    torch.testing.assert_close(memory, last)
    torch.testing.assert_close(embedding[-1], last[0])


def test_memory_matters_only_with_a_gru():
    x = torch.randn(1, 2, 5)
    for gru, differs in ((7, True), (None, False)):
        model = network(gru)
        fresh = model(x, model.start(2))[0]
        other = model(x, model.start(2) + 1)[0]
        assert (not torch.equal(fresh, other)) is differs


def test_initial_weights_are_orthogonal_and_repeatable():
    a, b = network(7), network(7)
    for left, right in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(left, right)
    weight = a.trunk[0].weight.detach()
    torch.testing.assert_close(weight.T @ weight, 2 * torch.eye(5))
