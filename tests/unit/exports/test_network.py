import numpy as np
import pytest

from kd_offline.exports.network import AgentNetwork, to_floats, to_int8
from kd_offline.networks.deployed import Affine, GRUCell


def f(values):
    return np.array(values, np.float32)


def affine(weight, bias):
    return Affine(f(weight), f(bias))


def network(**changes):
    plain = {
        "agent": "a",
        "seen": np.array([2]),
        "centre": f([1.0]),
        "scale": f([2.0]),
        "motion": None,
        "last_action": False,
        "drawn": False,
        "mask_input": False,
        "trunk": (),
        "cell": None,
        "head": affine([[1.0], [-1.0]], [0.0, 0.5]),
    }
    return AgentNetwork(**(plain | changes))


LEGAL = np.ones((1, 2), bool)


def test_a_linear_policy_by_hand():
    net = network()
    assert (net.inputs, net.actions, net.memory, net.memory_width) == (1, 2, {}, 1)
    action, logits, memory = net.step(f([[3.0]]), LEGAL, np.zeros((1, 1), np.float32))
    assert logits.tolist() == [[4.0, -3.5]]  # (3 - 1) * 2 = 4
    assert action.tolist() == [0]
    assert memory.tolist() == [[0.0]]
    assert net.step(f([[3.0]]), ~LEGAL, memory)[0].tolist() == [0]
    only = np.array([[False, True]])
    assert net.step(f([[3.0]]), only, memory)[0].tolist() == [1]


def test_the_trunk_rectifies_and_normalises():
    net = network(trunk=(affine([[1.0], [-1.0]], [0.0, 0.0]),), head=affine(np.eye(2), [0, 0]))
    logits = net.step(f([[3.0]]), LEGAL, np.zeros((1, 1), np.float32))[1]
    # relu gives [4, 0]: mean 2, variance 4.
    assert logits == pytest.approx(f([[1.0, -1.0]]), abs=2e-6)


def test_the_gates_of_the_recurrent_unit_by_hand():
    mine = affine([[0.0], [0.0], [1.0]], [0.3, -0.2, 0.1])
    theirs = affine([[1.0], [2.0], [3.0]], [0.0, 0.0, 0.4])
    net = network(cell=GRUCell((mine,), (theirs,)), head=affine([[1.0], [0.0]], [0.0, 0.0]))
    h, x = 0.5, 4.0
    reset = 1 / (1 + np.exp(-(0.3 + h)))
    update = 1 / (1 + np.exp(-(-0.2 + 2 * h)))
    new = np.tanh(x + 0.1 + reset * (3 * h + 0.4))
    _, logits, memory = net.step(f([[3.0]]), LEGAL, f([[h]]))
    assert memory == pytest.approx(f([[(1 - update) * new + update * h]]))
    assert logits[0, 0] == memory[0, 0]


def test_motion_is_zero_at_the_first_step_and_a_scaled_change_after_it():
    net = network(motion=f([10.0]), head=affine([[0.0, 1.0], [0.0, 0.0]], [0.0, 0.0]))
    assert net.memory == {"previous": (0, 1), "started": (1, 2)}
    _, logits, memory = net.step(f([[3.0]]), LEGAL, np.zeros((1, 2), np.float32))
    assert logits[0, 0] == 0.0
    assert memory.tolist() == [[4.0, 1.0]]
    _, logits, memory = net.step(f([[2.5]]), LEGAL, memory)
    assert logits[0, 0] == pytest.approx((3.0 - 4.0) * 10)
    assert memory.tolist() == [[3.0, 1.0]]


def test_the_last_action_is_remembered_and_taken():
    net = network(last_action=True, head=affine([[0.0, 0.0, 0.0], [0.0, 0.0, 7.0]], [0.0, 1.0]))
    action, _, memory = net.step(f([[3.0]]), LEGAL, np.zeros((1, 2), np.float32))
    assert (action.tolist(), memory.tolist()) == ([1], [[0.0, 1.0]])
    assert net.step(f([[3.0]]), LEGAL, memory)[1].tolist() == [[0.0, 8.0]]


def test_under_a_drawn_mask_hidden_features_are_nothing():
    net = network(drawn=True, mask_input=True, head=affine([[1.0, 5.0], [0.0, 0.0]], [0.0, 0.0]))
    zero = np.zeros((1, 1), np.float32)
    assert net.inputs == 2
    assert net.step(f([[3.0, 1.0]]), LEGAL, zero)[1][0, 0] == 9.0
    assert net.step(f([[3.0, 0.0]]), LEGAL, zero)[1][0, 0] == 0.0


def test_sizes_count_what_is_stored():
    net = network(trunk=(affine(np.ones((3, 1)), [0, 0, 0]),), head=affine(np.ones((2, 3)), [0, 0]))
    assert net.macs == 3 + 6
    assert net.parameters == 9 + 5 + 2  # weights, biases, centre and scale
    assert net.parameter_bytes == 4 * net.parameters
    small = to_int8(net)
    assert small.parameter_bytes == 9 + 4 * (5 + 2) + 4 * 5  # a scale for each of five rows
    assert small.parameters == net.parameters + 5


def test_restored_weights_step_alike():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(2, 1)).astype(np.float32)
    small = to_int8(network(head=Affine(weight, f([0.0, 0.0]))))
    zero = np.zeros((4, 1), np.float32)
    obs, legal = rng.normal(size=(4, 1)).astype(np.float32), np.ones((4, 2), bool)
    once, again = (n.step(obs, legal, zero)[1] for n in (small, to_floats(small)))
    assert np.array_equal(once, again)
