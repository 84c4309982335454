"""The packed GRU against PyTorch's, and its gradients against differences."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from kd_offline.networks.arithmetic import NetworkShape
from kd_offline.networks.gru import Weights, packed_gru, steps_before
from kd_offline.networks.recurrent import RecurrentNetwork
from kd_offline.seeding import generator

LENGTHS = torch.tensor([4, 7, 1, 6])


@pytest.fixture
def pieces():
    torch.manual_seed(0)
    reference = nn.GRU(3, 5).double()
    x = torch.randn(7, 4, 3, dtype=torch.float64, requires_grad=True)
    memory = torch.randn(1, 4, 5, dtype=torch.float64, requires_grad=True)
    return reference, x, memory


def packed(x):
    return pack_padded_sequence(x, LENGTHS, enforce_sorted=False)


def own(reference, x, memory):
    given = packed(x)
    weights = Weights(*reference.parameters())
    begun = memory[0, given.sorted_indices]
    return packed_gru(given.data, given.batch_sizes.tolist(), begun, weights)


def test_states_and_gradients_are_those_of_pytorch(pieces):
    reference, x, memory = pieces
    theirs = reference(packed(x), memory)[0].data
    ours = own(reference, x, memory)
    torch.testing.assert_close(ours, theirs)
    into = torch.linspace(-1, 1, ours.numel(), dtype=torch.float64).view_as(ours)
    everything = [x, memory, *reference.parameters()]
    for one, other in zip(
        torch.autograd.grad((ours * into).sum(), everything),
        torch.autograd.grad((theirs * into).sum(), everything),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_gradients_are_those_of_differences(pieces):
    reference, x, memory = pieces
    assert torch.autograd.gradcheck(lambda *given: own(reference, *given), (x, memory))


def test_one_step_of_one_sequence_is_the_equation():
    """r = s(-1 + 2 h), z = s(1), n = tanh(x + r (3 h)), h' = n + z (h - n), at x = 1, h = 1/2."""
    ih = torch.tensor([[-1.0], [1.0], [1.0]])
    hh = torch.tensor([[2.0], [0.0], [3.0]])
    none = torch.zeros(3)
    state = packed_gru(torch.ones(1, 1), [1], torch.full((1, 1), 0.5), Weights(ih, hh, none, none))
    new = torch.tanh(torch.tensor(1 + 0.5 * 1.5))
    update = torch.sigmoid(torch.tensor(1.0))
    torch.testing.assert_close(state, (new + update * (0.5 - new)).view(1, 1))


def test_the_row_of_the_step_before():
    assert steps_before([3, 2, 2, 1]).tolist() == [0, 1, 2, 0, 1, 3, 4, 5]


@pytest.mark.parametrize("shape", [(8, 6, None), (8, None, None), (8, 6, 2)], ids=str)
def test_nothing_is_said_behind_the_end_of_a_sequence(shape):
    trunk, gru, rank = shape
    network = RecurrentNetwork(NetworkShape(3, (trunk,), gru, 2, rank), generator(0, "weights"))
    x, memory = torch.linspace(-1, 1, 84).view(7, 4, 3), network.start(4)
    outputs, embeddings, after = network(x, memory, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = network(x[:length, row : row + 1], memory[:, :1])
        torch.testing.assert_close(outputs[:length, row : row + 1], alone[0])
        torch.testing.assert_close(embeddings[:length, row : row + 1], alone[1])
        torch.testing.assert_close(after[:, row : row + 1], alone[2])
        assert not outputs[length:, row].any()
        assert not embeddings[length:, row].any()
