"""Networks with a source: DDN's fusion block and PTDE's hypernetwork."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kd_offline.networks.fusion import (
    FusionBlock,
    FusionNetwork,
    PersonalisedNetwork,
    source_network,
)
from kd_offline.networks.fusion_shape import FusionShape

SIZES = [3, 3, 2, 1]  # sequences of 4, 3 and 2 steps
ROWS = sum(SIZES)
GUIDING = FusionShape(11, 7, 5, 4, (6,), 8, 3)
SHAPES = [
    GUIDING,
    FusionShape(11, 7, 5, 4, (), 8, 3, normalised=True),
    FusionShape(11, 7, 5, 4, (6, 9), None, 3),
    FusionShape(5, 7, 5, 4, (6,), 8, 3, own=True),
    FusionShape(11, 7, 5, 4, (6,), 8, 3, joined=10),
    FusionShape(11, 7, 5, 4, (), None, 3, joined=10, normalised=True),
]


def network(shape, seed=0):
    return source_network(shape, np.random.default_rng(seed), head_gain=1.0)


def drawn(*size, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(size)).float()


def run(model, x, sizes=SIZES):
    return model.packed(x, sizes, model.start(sizes[0])[0])


def literal(block, source, local):
    """S W + B with the map of every row written out, as the paper states it."""
    m, d = block.shape.hyper, block.shape.width
    generator = block.maps.weight.view(m + 1, d, -1).double()
    offsets = block.maps.bias.view(m + 1, d).double()
    rows = []
    for s, x in zip(source.double(), local.double(), strict=True):
        hyper = torch.relu(block.hyper.weight.double() @ x + block.hyper.bias.double())
        weights = generator[-1] + sum(h * generator[j] for j, h in enumerate(hyper))
        bias = offsets[-1] + sum(h * offsets[j] for j, h in enumerate(hyper))
        rows.append(s @ weights.T + bias)
    return torch.stack(rows)


def test_the_block_is_the_state_times_generated_weights_plus_a_generated_bias():
    block = FusionBlock(FusionShape(211, 40, 32, 32, (), None, 1), np.random.default_rng(1))
    source, local = drawn(6, 211), drawn(6, 40, seed=1)
    with torch.no_grad():
        found = block(source, local.unsqueeze(1)).squeeze(1)
        wanted = literal(block, source, local)
    scale = wanted.abs().max()
    assert ((found - wanted).abs().max() / scale) < 2e-6


def test_hand_worked_block():
    block = FusionBlock(FusionShape(2, 1, 1, 1, (), None, 1), None)
    with torch.no_grad():
        block.hyper.weight.fill_(2.0)
        block.hyper.bias.fill_(-1.0)  # hyper = relu(2 x - 1)
        block.maps.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
        block.maps.bias.copy_(torch.tensor([0.5, -1.0]))
        # W = (hyper, 3), B = 0.5 hyper - 1; of x = 2: hyper 3, of x = 0: hyper 0
        said = block(torch.tensor([[4.0, 5.0]]), torch.tensor([[[2.0], [0.0]]]))
    # 4 * 3 + 5 * 3 + 1.5 - 1, and 5 * 3 - 1
    assert said.tolist() == [[[27.5], [14.0]]]


def test_agents_that_read_one_source_get_what_each_gets_alone():
    for shape in SHAPES:
        if shape.own:
            continue
        model = network(shape)
        source, local = drawn(4, 11), drawn(4, 3, 7, seed=1)
        rows = torch.cat([source.unsqueeze(1).expand(4, 3, 11), local], -1).flatten(0, 1)
        with torch.no_grad():
            alone = run(model, rows, [12])
            together = model.after(
                model.fuse(source, local).flatten(0, 1),
                local.flatten(0, 1),
                [12],
                model.start(12)[0],
            )
        torch.testing.assert_close(alone.outputs, together.outputs)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_one_unroll_equals_single_steps(shape):
    model, x = network(shape), drawn(ROWS, shape.inputs)
    whole = run(model, x)
    memory, at = model.start(SIZES[0])[0], 0
    for size in SIZES:
        step = model.packed(x[at : at + size], [size], memory[:size])
        torch.testing.assert_close(step.outputs, whole.outputs[at : at + size])
        torch.testing.assert_close(step.embedding, whole.embedding[at : at + size])
        for name, values in step.taps.items():
            torch.testing.assert_close(values, whole.taps[name][at : at + size])
        memory, at = step.memory, at + size


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_networks_cost_what_the_flop_counter_and_the_module_say(shape):
    model = network(shape)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        fused = model.fuse(torch.zeros(1, shape.source), torch.zeros(1, 1, shape.local)).squeeze(1)
        given = fused if shape.joined is None else torch.zeros(1, shape.local)
        _, embedding, _ = model.body(given.unsqueeze(0), model.body.start(1))
        if shape.joined is not None:
            model.answers(embedding[0], fused)
    again = 0 if shape.joined is None else model.body.head.weight.numel()  # counted twice
    cost = shape.cost()
    assert cost.flops == counter.get_total_flops() - 2 * again
    assert cost.parameters == sum(p.numel() for p in model.parameters())
    assert shape.memory().parameters == 4 * cost.parameters
    vectors = sum(p.numel() for p in model.parameters() if p.ndim == 1)
    rows = sum(len(p) for p in model.parameters() if p.ndim == 2)
    rows -= 0 if shape.joined is None else len(model.join.weight)  # one matrix over (h, z)
    assert shape.memory("int8").parameters == cost.parameters - vectors + 4 * (vectors + rows)


def test_a_shared_product_is_charged_in_shares():
    # 10 x 10 board with 8 predators: the map of every agent literally, and its share of one product
    alone = FusionShape(200, 64, 32, 32, (64,), 64, 5)
    shared = FusionShape(200, 64, 32, 32, (64,), 64, 5, readers=8)
    saved = 200 * 33 * 32 * 7 // 8
    assert alone.cost().macs - shared.cost().macs == saved
    assert alone.cost().parameters == shared.cost().parameters
    model = network(shared)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.fuse(torch.zeros(1, 200), torch.zeros(1, 8, 64))
    assert counter.get_total_flops() == 2 * (200 * 33 * 32 + 8 * (64 * 32 + 32 * 32))


def test_taps_are_what_comes_after_the_block_and_before_the_gru():
    model, x = network(GUIDING), drawn(ROWS, 18)
    said = run(model, x)
    assert {name: values.shape for name, values in said.taps.items()} == {
        "s_hat": (ROWS, 4),
        "feature": (ROWS, 6),
    }
    with torch.no_grad():
        fused = model.block(x[:, :11], x[:, 11:].unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(said.taps["s_hat"], fused)
        torch.testing.assert_close(said.taps["feature"], model.body.trunk(fused))
    personal = network(SHAPES[4])
    assert isinstance(personal, PersonalisedNetwork)
    assert run(personal, x).taps["z"].shape == (ROWS, 4)


def test_a_normalised_source_has_no_scale():
    model = network(SHAPES[1])
    x = drawn(ROWS, 18)
    scaled = torch.cat([10 * x[:, :11] + 3, x[:, 11:]], 1)
    torch.testing.assert_close(run(model, scaled).outputs, run(model, x).outputs, atol=1e-4, rtol=0)


def test_zero_columns_of_an_own_source_can_be_left_out():
    for shape in (SHAPES[3], FusionShape(7, 7, 5, 4, (6,), 8, 3, own=True, normalised=True)):
        model, kept = network(shape), torch.tensor([0, 2, 5, 6])
        x = torch.zeros(ROWS, 7)
        x[:, kept] = drawn(ROWS, 4)
        part = model.packed(x[:, kept], SIZES, model.start(3)[0], kept)
        torch.testing.assert_close(part.outputs, run(model, x).outputs)


def test_weights_are_drawn_by_the_generator_alone_and_give_unit_variance():
    first, again = network(GUIDING), network(GUIDING)
    for one, other in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    wide = FusionNetwork(FusionShape(200, 60, 32, 32, (64,), 64, 5), np.random.default_rng(0))
    with torch.no_grad():
        said = wide.fuse(drawn(500, 200), drawn(500, 1, 60, seed=1))
    assert 0.5 < float(said.std()) < 4.0


def test_every_weight_learns():
    for shape in SHAPES:
        model = network(shape)
        said = run(model, drawn(ROWS, shape.inputs))
        (said.outputs.square().sum() + said.embedding.sum()).backward()
        for name, weight in model.named_parameters():
            assert weight.grad is not None, name
            assert torch.isfinite(weight.grad).all(), name
