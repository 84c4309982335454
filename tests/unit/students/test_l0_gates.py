"""Gates of hidden units, worked by hand from Louizos et al. (2018) with their constants."""

import math

import numpy as np
import pytest
import torch

from kd_offline.schemas.layers import LayerWidths
from kd_offline.schemas.recipes import StudentArchitecture
from kd_offline.schemas.student import StudentCard
from kd_offline.students import l0_gates as module
from kd_offline.students.cost_bounds import Bounds
from kd_offline.students.l0_gates import GatedPass, Gates
from kd_offline.students.policy import build
from kd_offline.students.structured_pruning import narrowed
from kd_offline.testing.factories import environment_spec, full_mask

SHUT, OPEN = -20.0, 20.0  # parameters whose gates settle at exactly 0 and 1


def card(*widths, **architecture):
    spec = environment_spec((6, 5))
    return StudentCard(
        environment=spec,
        architecture=StudentArchitecture(**architecture),
        widths=widths,
        mask="full",
        mask_features=tuple(tuple(map(bool, row)) for row in full_mask(spec)),
        mask_as_input=False,
        motion=True,
        last_action=False,
        method="kl",
        dataset="",
        seeds=(0,),
    )


def gated(*widths, start=0.95, **architecture):
    """Return a card, its team with other than the first weights, and gates on its units."""
    chosen = card(*widths, **architecture)
    team = build(chosen, np.random.default_rng(0))
    torch.manual_seed(0)
    with torch.no_grad():
        for p in team.parameters():
            p.add_(0.3 * torch.randn_like(p))
    gates = Gates(team.shapes, start)
    team.stand_in = GatedPass(gates)
    return chosen, team.eval(), gates


def bounds_of(chosen):
    return Bounds(chosen, None, None, {})


def play(team, steps=6, batch=3):
    obs = torch.from_numpy(np.random.default_rng(1).standard_normal((steps, batch, 2, 6)))
    prepared = team.prepare(obs.float(), torch.ones(2, 6))
    with torch.no_grad():
        return team(prepared, team.start(batch))


def set_at_random(gates, values):
    rng = np.random.default_rng(2)
    with torch.no_grad():
        for each in gates.log_alpha:
            each.copy_(torch.from_numpy(rng.choice(values, len(each)).astype(np.float32)))


def kept(gates):
    agents = range(len(gates.sizes))
    return [[layer > 0 for layer in gates.values(i, noisy=False)] for i in agents]


def test_the_distribution_worked_by_hand():
    zero = torch.zeros(())
    # -2/3 ln(0.1 / 1.1) = 1.59860, and its sigmoid
    assert float(module.open_probability(zero)) == pytest.approx(0.831822, abs=1e-6)
    assert float(module.settled_gate(zero)) == pytest.approx(0.5)
    # u = 3/4 is logistic noise of ln 3, and sigmoid(1.5 ln 3) = 5.196152 / 6.196152
    drawn = module.drawn_gate(zero, torch.tensor(math.log(3.0)))
    assert float(drawn) == pytest.approx(0.838610 * 1.2 - 0.1, abs=1e-6)
    # A gate settles at 0 from sigmoid = 1/12 down, and at 1 from 11/12 up.
    edges = torch.tensor([-math.log(11.0) - 1e-3, -math.log(11.0) + 1e-2, math.log(11.0) + 1e-3])
    shut, ajar, whole = module.settled_gate(edges).tolist()
    assert (shut, whole) == (0.0, 1.0)
    assert 0 < ajar < 0.01
    for p in (0.05, 0.6, 0.95):
        log_alpha = torch.tensor(module.log_alpha_of(p))
        assert float(module.open_probability(log_alpha)) == pytest.approx(p, abs=1e-6)


def test_gates_are_drawn_as_often_as_their_probability_says():
    shapes = build(card(8, 8), np.random.default_rng(0)).shapes
    for start in (0.2, 0.7):
        gates, rng, drawn = Gates(shapes, start), np.random.default_rng(3), []
        for _ in range(2000):
            gates.draw(rng)
            drawn += [z.detach() for i in (0, 1) for z in gates.values(i, noisy=True)]
        share = float((torch.cat(drawn) > 0).float().mean())  # of 96,000
        assert share == pytest.approx(start, abs=0.006)
        assert all(x.min().item() >= 0 and x.max().item() <= 1 for x in drawn)


def test_noise_follows_the_generator_and_is_for_training_alone():
    _, team, gates = gated(8, 8, start=0.5)
    before = play(team)[0]
    gates.draw(np.random.default_rng(4))
    assert torch.equal(play(team)[0], before)
    first = play(team.train())[0]
    gates.draw(np.random.default_rng(4))
    assert torch.equal(play(team)[0], first)
    gates.draw(np.random.default_rng(5))
    assert not torch.equal(play(team)[0], first)


@pytest.mark.parametrize(
    "architecture",
    [
        {"kind": "gru"},
        {"kind": "gru", "depth": 0},
        {"kind": "mlp", "depth": 3},
        {"kind": "gru", "depth": 1, "aligner": "linear"},
    ],
)
def test_open_and_shut_gates_equal_the_network_of_the_open_units(architecture):
    chosen, team, gates = gated(12, 9, **architecture)
    set_at_random(gates, [SHUT, OPEN])
    small = narrowed(team, gates, kept(gates), bounds_of(chosen))
    widths = [LayerWidths(trunk=s.trunk, gru=s.gru) for s in small.team.shapes]
    counts = [[int(layer.sum()) for layer in agent] for agent in kept(gates)]
    assert [[*w.trunk, *([w.gru] if w.gru else [])] for w in widths] == counts
    assert sum(map(sum, counts)) < sum(map(sum, gates.sizes))
    expected, embeddings, memory = play(team)
    logits, left, after = play(small.team)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    for i, remnant in enumerate(small.embeddings):
        torch.testing.assert_close(
            left[i] * remnant.gate, embeddings[i][..., remnant.units], rtol=1e-4, atol=1e-5
        )
        if team.shapes[i].gru:
            own = memory.hidden[i][..., remnant.units]
            torch.testing.assert_close(after.hidden[i], own, rtol=1e-4, atol=1e-5)


def test_open_gates_change_nothing():
    _, team, gates = gated(8, 8)
    set_at_random(gates, [OPEN])
    with_gates = play(team)[0]
    team.stand_in = None
    torch.testing.assert_close(with_gates, play(team)[0], rtol=1e-4, atol=1e-5)


def test_gates_of_a_gru_fold_into_its_readers_whatever_their_value():
    chosen, team, gates = gated(8, 8, kind="gru", depth=0)
    set_at_random(gates, [SHUT, -0.5, 0.7, OPEN])
    small = narrowed(team, gates, kept(gates), bounds_of(chosen))
    torch.testing.assert_close(play(small.team)[0], play(team)[0], rtol=1e-4, atol=1e-5)


def test_a_layer_without_an_open_gate_gives_finite_answers():
    _, team, gates = gated(8, 8, kind="mlp", depth=2)
    set_at_random(gates, [SHUT])
    logits = play(team)[0]
    for i in range(2):
        bias = team.networks[i].head.bias.expand(6, 3, -1)
        torch.testing.assert_close(logits[:, :, i, : bias.shape[-1]], bias)
