import numpy as np
import pytest
import torch
from torch import nn

from kd_offline.distillation.recipe import distill_recipe
from kd_offline.errors import UsageError
from kd_offline.networks.arithmetic import ExportedShape, NetworkShape
from kd_offline.networks.low_rank import LowRankGRU
from kd_offline.networks.recurrent import RecurrentNetwork


def network(rank=2):
    shape = NetworkShape(inputs=6, trunk=(), gru=8, outputs=5, rank=rank)
    return RecurrentNetwork(shape, np.random.default_rng(0))


def test_it_is_a_gru_of_the_products():
    low = network()
    gru = nn.GRU(6, 8)
    unit = low.gru
    assert isinstance(unit, LowRankGRU)
    with torch.no_grad():
        products = {
            "weight_ih_l0": unit.weight_ih_out @ unit.weight_ih_in,
            "weight_hh_l0": unit.weight_hh_out @ unit.weight_hh_in,
            "bias_ih_l0": unit.bias_ih.normal_(),
            "bias_hh_l0": unit.bias_hh.normal_(),
        }
    gru.load_state_dict(products)
    x = torch.randn(7, 3, 6)
    output, states, memory = low(x, low.start(3))
    expected, after = gru(x, torch.zeros(1, 3, 8))
    torch.testing.assert_close(states, expected)
    torch.testing.assert_close(memory, after)
    torch.testing.assert_close(output, low.head(expected))
    assert torch.linalg.matrix_rank(unit.weight_hh_out @ unit.weight_hh_in) == 2


def test_cost_by_hand():
    low = network()
    # r (x + 7 h) = 2 (6 + 56) = 124 and the head 8 x 5 = 40; 6 h = 48 and 5 biases.
    cost = low.shape.cost()
    assert cost.macs == 164
    assert cost.parameters == 164 + 48 + 5 == sum(p.numel() for p in low.parameters())
    shape = ExportedShape(features=6, trunk=(), gru=8, outputs=5, rank=2)
    rows = 48 + 5 + 2 * 2  # each with a bias, what a normalisation before it leaves of one
    vectors = rows + 2 * 6
    assert shape.memory().parameters == 4 * (164 + vectors)
    assert shape.memory("int8").parameters == 164 + 4 * (vectors + rows)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"student.rank_share": 0.25, "student.family": "mlp"}, "means nothing to mlp"),
        ({"student.rank_share": 1.0}, "rank_share is 1.0, which should be less than 1"),
    ],
)
def test_what_has_no_low_rank_is_refused(settings, words):
    with pytest.raises(UsageError, match=words):
        distill_recipe(settings=settings)


def test_full_rank_costs_what_it_did():
    full = ExportedShape(features=6, trunk=(), gru=8, outputs=5)
    assert full.cost().macs == 3 * 8 * (6 + 8) + 40
