import numpy as np
import pytest
import torch

from kd_offline.experts.mixing import TeamValue
from kd_offline.networks.mixers import MixerShape, QMixer, SumMixer, draw_weights

STATE = torch.linspace(-1, 1, 2 * 4).reshape(2, 4)
Q = torch.linspace(-2, 3, 2 * 3 * 5).reshape(2, 3, 5).sin()
LEGAL = torch.ones(2, 3, 5, dtype=torch.bool)
ALIVE = torch.ones(2, 3, dtype=torch.bool)
ACTIONS = np.array([[0, 4, 2], [1, 1, 3]])


def qmix():
    mixer = QMixer(MixerShape(agents=3, state=4, embedding=6))
    draw_weights(mixer, np.random.default_rng(0))
    return mixer


def test_weights_are_drawn_from_the_generator_alone():
    torch.manual_seed(1)
    one = qmix()
    torch.manual_seed(2)
    two = qmix()
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
    with torch.no_grad():
        assert not one(torch.zeros(2, 3), STATE).any()
    bound = 4**-0.5
    assert 0.5 * bound < one.w1[0].weight.abs().max() <= bound


def test_a_sum_is_worth_what_its_agents_are():
    worth = TeamValue(SumMixer(), Q, STATE, ALIVE, scale=2.0)
    total, credit = worth.of(ACTIONS)
    want = [2 * sum(float(Q[b, n, a]) for n, a in enumerate(ACTIONS[b])) for b in range(2)]
    np.testing.assert_allclose(total, want, rtol=1e-6)
    assert (credit == 1).all()
    np.testing.assert_allclose(worth.best(LEGAL), 2 * Q.amax(-1).sum(-1), rtol=1e-6)


@pytest.mark.parametrize("mixer", [SumMixer(), qmix()])
def test_dead_agents_count_nothing_whatever_they_do(mixer):
    alive = ALIVE.clone()
    alive[0, 1] = False
    worth = TeamValue(mixer, Q, STATE, alive)
    total, credit = worth.of(ACTIONS)
    other = ACTIONS.copy()
    other[0, 1] = 2
    np.testing.assert_array_equal(worth.of(other)[0], total)
    assert credit[0, 1] == 0
    taken = torch.gather(Q, -1, torch.from_numpy(ACTIONS)[..., None])[..., 0]
    taken[0, 1] = 0.0
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(total), mixer(taken, STATE))


def test_credit_is_the_slope_of_the_teams_value():
    """By finite differences of one agent's value of its executed action."""
    mixer, step = qmix().double(), 1e-6
    q, state = Q.double(), STATE.double()
    _, credit = TeamValue(mixer, q, state, ALIVE, scale=3.0).of(ACTIONS)
    taken = torch.gather(q, -1, torch.from_numpy(ACTIONS)[..., None])[..., 0]
    with torch.no_grad():
        for agent in range(3):
            move = torch.zeros(3, dtype=torch.float64)
            move[agent] = step
            slope = (mixer(taken + move, state) - mixer(taken - move, state)) / (2 * step)
            np.testing.assert_allclose(credit[:, agent], slope, rtol=1e-5)
    assert (credit > 0).all()


def test_mixing_is_monotone_so_greedy_actions_are_worth_most():
    worth = TeamValue(qmix(), Q, STATE, ALIVE)
    best = worth.best(LEGAL)
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert (worth.of(rng.integers(0, 5, (2, 3)))[0] <= best + 1e-6).all()
    greedy = Q.argmax(-1).numpy()
    np.testing.assert_allclose(worth.of(greedy)[0], best, rtol=1e-6)
    fewer = LEGAL.clone()
    fewer[0, 0, Q[0, 0].argmax()] = False
    assert worth.best(fewer)[0] < best[0]


def test_a_policys_output_is_complete():
    logits, hidden = np.zeros((2, 3, 5), np.float32), np.zeros((2, 3, 4), np.float32)
    output = TeamValue(qmix(), Q, STATE, ALIVE, scale=2.0).output(logits, hidden, LEGAL)
    np.testing.assert_allclose(output.q_values, 2 * Q)
    np.testing.assert_array_equal(output.value, output.q_tot_max[:, None].repeat(3, axis=1))
    assert output.mix is not None
    assert output.q_tot_max is not None
    assert (output.mix(ACTIONS)[0] <= output.q_tot_max).all()
    assert output.value.dtype == output.q_tot_max.dtype == np.float32
