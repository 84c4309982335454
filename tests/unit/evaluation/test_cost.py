import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kd_offline.errors import UsageError
from kd_offline.evaluation.cost import LayerShape, compacted, compare, network_cost, team_cost
from kd_offline.networks.recurrent import NetworkShape, RecurrentNetwork

SHAPES = [
    NetworkShape(18, (32,), None, 5),
    NetworkShape(18, (), 32, 5),
    NetworkShape(11, (64, 48), 32, 5),
    NetworkShape(30, (32,), 32, 9),
    NetworkShape(7, (), None, 3),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_macs_equal_the_flop_counter_on_the_meta_device(shape):
    network = RecurrentNetwork(shape, np.random.default_rng(0)).to("meta")
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 1, shape.inputs, device="meta"), network.start(1))
    assert network_cost(shape).flops == counter.get_total_flops()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_parameters_equal_the_module(shape):
    network = RecurrentNetwork(shape, np.random.default_rng(0))
    assert network_cost(shape).parameters == sum(p.numel() for p in network.parameters())


def test_hand_worked():
    # 4 -> 3 -> gru 2 -> 5: MACs 12 + 6 (3 + 2) + 10; parameters 15 + 6 + 6 (3 + 2 + 2) + 15
    cost = network_cost(LayerShape(4, (3,), 2, 5))
    assert (cost.macs, cost.flops, cost.parameters) == (52, 104, 78)
    assert cost.elementwise == 9 * 3 + 17 * 2 + 5


def test_compaction_drops_hidden_columns_only():
    shape = LayerShape(21, (32,), None, 5)  # 18 observed features and 3 of an agent id
    assert compacted(shape, seen=10, width=18) == LayerShape(13, (32,), None, 5)
    saved = network_cost(shape).macs - network_cost(compacted(shape, seen=10, width=18)).macs
    assert saved == 8 * 32
    with pytest.raises(UsageError, match="cannot keep 19 of 18"):
        compacted(shape, seen=19, width=18)


def test_team_and_episode_add_up():
    shapes = [LayerShape(4, (8,), None, 3), LayerShape(6, (8,), None, 3)]
    each = [network_cost(shape).flops for shape in shapes]
    team = team_cost(["a", "b"], shapes, [10.0, 5.5], 10.0, 25)
    assert team.flops == sum(each) == 2 * team.macs
    assert team.episode.flops == each[0] * 10 + each[1] * 5.5
    assert team.episode.flops_at_limit == 25 * team.flops
    both = compare(
        team_cost(["a"], [shapes[1]], [1], 1, 1), team_cost(["a"], [shapes[0]], [1], 1, 1)
    )
    assert both.flops_reduction == pytest.approx(each[1] / each[0])
