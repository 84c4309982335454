from itertools import product

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kd_offline.errors import UsageError
from kd_offline.evaluation.evaluation_setup import student_shapes
from kd_offline.experts.importers import networks as foreign
from kd_offline.exports.c_source import interleaved, static_bytes
from kd_offline.exports.compact import compact
from kd_offline.exports.network import to_int8
from kd_offline.networks.arithmetic import (
    ExportedShape,
    NetworkCost,
    NetworkShape,
    compacted,
)
from kd_offline.networks.mixers import (
    AttentionMixer,
    DuplexMixer,
    JointAction,
    MixerShape,
    OffsetSumMixer,
    QMixer,
    mixer_cost,
)
from kd_offline.networks.recurrent import RecurrentNetwork
from kd_offline.schemas.recipes import StudentArchitecture
from kd_offline.schemas.student import StudentCard
from kd_offline.students.policy import StudentPolicy, build
from kd_offline.testing.factories import environment_spec

WIDTHS = (1, 8, 16, 24, 32, 48, 64, 96, 128, 256)
SHAPES = [NetworkShape(18, (w,) * d, w, 5) for w in WIDTHS for d in (0, 1, 2)]
SHAPES += [NetworkShape(18, (w,) * d, None, 5) for w in WIDTHS for d in (1, 2, 3)]
SHAPES += [NetworkShape(7, (), None, 3), NetworkShape(11, (64, 48), 32, 5)]
SHAPES += [NetworkShape(54, (64, 64), 64, 1)]  # a critic


def counted(network, *inputs):
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(*inputs)
    return counter.get_total_flops()


def parameters(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_networks_cost_what_the_flop_counter_and_the_module_say(shape):
    with torch.device("meta"):
        network = RecurrentNetwork(shape, None)
        flops = counted(network, torch.zeros(1, 1, shape.inputs), network.start(1))
    cost = shape.cost()
    assert (cost.flops, cost.parameters) == (flops, parameters(network))


def test_hand_worked():
    # 4 -> 3 -> gru 2 -> 5: MACs 12 + 6 (3 + 2) + 10; parameters 15 + 6 + 6 (3 + 2 + 2) + 15
    cost = NetworkShape(4, (3,), 2, 5).cost()
    assert (cost.macs, cost.flops, cost.parameters) == (52, 104, 78)
    assert cost.elementwise == 9 * 3 + 17 * 2 + 5
    memory = NetworkShape(4, (3,), 2, 5).memory()
    # alive at once: 4 + 3, 3 + 6 x 2, 2 + 5
    assert (memory.parameters, memory.hidden, memory.activation) == (4 * 78, 8, 4 * 15)
    assert (memory.working, memory.ram) == (68, None)
    assert NetworkShape(4, (3,), 2, 5).memory("fp16").parameters == 2 * 78
    # 52 weights of a byte; 78 - 52 vectors and 3 + 12 + 5 row scales of four
    assert NetworkShape(4, (3,), 2, 5).memory("int8").parameters == 52 + 4 * (26 + 20)


def test_hand_worked_export():
    shape = ExportedShape(3, (2,), 2, 4, motion=True, last_action=True)
    assert (shape.inputs, shape.memory_width) == (3 + 3 + 4, 2 + 3 + 1 + 4)
    assert shape.cost().macs == 10 * 2 + 6 * (2 + 2) + 2 * 4
    # vectors: biases 2 + 12 + 4; centre, scale and motion of 3 features
    assert shape.memory().parameters == 4 * (52 + 18 + 9)
    assert shape.memory("int8").parameters == 52 + 4 * (18 + 18 + 9)
    # every matrix has 8 rows after padding, and a bias for each
    assert shape.memory().flash == 4 * (8 * 11 + 8 * 3 + 8 * 3 + 8 * 3 + 9)
    # x of 10, y of 2, two gates of 6, memory of 10, 4 logits
    assert shape.memory().ram == 4 * (10 + 2 + 12 + 10 + 4)
    assert ExportedShape(3, (2,), None, 4).memory_width == 1


@pytest.mark.parametrize("hidden", [None, 8])
@pytest.mark.parametrize(("agents", "state", "embedding"), [(2, 5, 3), (5, 48, 32)])
def test_mixers_cost_what_the_flop_counter_says(agents, state, embedding, hidden):
    shape = MixerShape(agents, state, embedding, hidden, hidden, 4)
    with torch.device("meta"):
        mixer = QMixer(shape)
        flops = counted(mixer, torch.zeros(1, agents), torch.zeros(1, state))
    cost = mixer_cost(shape)
    assert (cost.flops, cost.parameters) == (flops, parameters(mixer))


@pytest.mark.parametrize(
    ("kind", "transformed"),
    [(AttentionMixer, True), (DuplexMixer, True), (DuplexMixer, False), (OffsetSumMixer, True)],
)
@pytest.mark.parametrize("hidden", [None, 8])
def test_other_mixers_cost_what_the_flop_counter_says(kind, transformed, hidden):
    shape = MixerShape(5, 48, 32, hidden, None, 4, heads=3, actions=6, transformed=transformed)
    with torch.device("meta"):
        mixer = kind(shape)
        q, state = torch.zeros(1, 5), torch.zeros(1, 48)
        joint = JointAction(torch.zeros(1, 5, dtype=torch.int64), q)
        flops = counted(mixer, q, state, joint)
    assert (mixer.cost().flops, mixer.cost().parameters) == (flops, parameters(mixer))


def test_a_mixer_worked_by_hand():
    # one-layer hypernetworks of 5 inputs with 2 x 3, 3, 3 and 1 outputs, and q W1
    cost = mixer_cost(MixerShape(2, 5, 3, None, None, None))
    assert cost == NetworkCost(6 * 13, 5 * 13 + 6, 13 + 9 + 4 + 3 + 5)


@pytest.mark.parametrize("layers", [0, 1, 2])
@pytest.mark.parametrize("normed", [False, True])
def test_rebuilt_networks_cost_what_the_flop_counter_says(layers, normed):
    with torch.device("meta"):
        front = [torch.nn.Linear(9, 12), torch.nn.Tanh()] + [torch.nn.LayerNorm(12)] * normed
        gru = torch.nn.GRU(12, 7, num_layers=layers) if layers else None
        width = 7 if layers else 12
        after = [torch.nn.Linear(width, 6), torch.nn.ReLU()]
        network = foreign.Network(front, torch.nn.Linear(6, 4), gru, after)
        flops = counted(network, torch.zeros(1, 9), network.start(1))
    assert network.count()[:2] == (parameters(network), flops // 2)


def padded(values):
    return 4 * 8 * -(-len(values) // 8)


OPTIONS = list(
    product(("gru", "mlp"), (0, 2), ("identity", "linear"), (False, True), (False, True))
)


@pytest.mark.parametrize(("kind", "depth", "aligner", "motion", "bits"), OPTIONS)
@pytest.mark.parametrize("drawn", [False, True])
def test_students_cost_what_is_exported(kind, depth, aligner, motion, bits, drawn):
    spec = environment_spec((6, 4), (5, 3))
    seen = np.array([[1, 0, 1, 1, 0, 1], [1, 1, 0, 1, 0, 0]], bool)
    card = StudentCard(
        environment=spec,
        architecture=StudentArchitecture(kind=kind, depth=depth, aligner=aligner),
        widths=(8, 3),
        mask="limited",
        mask_features=None if drawn else seen.tolist(),
        random_k=2 if drawn else None,
        mask_as_input=bits,
        motion=motion,
        last_action=motion,
        method="kd-marl",
        dataset="sha256:" + "0" * 64,
        seeds=(0,),
    )
    student = StudentPolicy(card, 0, build(card, np.random.default_rng(0)))
    for shape, network in zip(student_shapes(student), compact(student), strict=True):
        assert shape.cost().macs == network.macs
        assert shape.memory().parameters == network.parameter_bytes
        assert shape.memory("int8").parameters == to_int8(network).parameter_bytes
        assert shape.memory().hidden == 4 * network.memory_width
        assert shape.memory().ram == static_bytes(network)
        tables = [interleaved(m.weight).nbytes + padded(m.bias) for m in network.matrices.values()]
        inputs = [network.centre, network.scale, *([network.motion] if motion else [])]
        assert shape.memory().flash == np.sum(tables) + np.sum([a.nbytes for a in inputs])
        small = to_int8(network).matrices.values()
        tables = [interleaved(m.weight).nbytes + padded(m.bias) + padded(m.scale) for m in small]
        int8 = shape.memory("int8").flash
        assert int8 == np.sum(tables) + np.sum([a.nbytes for a in inputs])


def test_compaction_drops_hidden_columns_only():
    shape = NetworkShape(21, (32,), None, 5)  # 18 observed features and 3 of an agent id
    assert compacted(shape, seen=10, width=18) == NetworkShape(13, (32,), None, 5)
    saved = shape.cost().macs - compacted(shape, seen=10, width=18).cost().macs
    assert saved == 8 * 32
    # With the change of every feature beside it, each hidden one is there twice.
    moving = NetworkShape(39, (32,), None, 5)
    assert compacted(moving, seen=10, width=18, copies=2).inputs == 23
    with pytest.raises(UsageError, match="cannot keep 10 of 18 observation columns, 2 times"):
        compacted(shape, seen=10, width=18, copies=2)
    with pytest.raises(UsageError, match="cannot keep 19 of 18"):
        compacted(shape, seen=19, width=18)
