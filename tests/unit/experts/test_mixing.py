import numpy as np
import pytest
import torch

from kd_offline.experts.mixing import TeamValue
from kd_offline.networks.mixers import (
    AttentionMixer,
    DuplexMixer,
    JointAction,
    MixerShape,
    OffsetSumMixer,
    QMixer,
    SumMixer,
    draw_weights,
)

STATE = torch.linspace(-1, 1, 2 * 4).reshape(2, 4)
Q = torch.linspace(-2, 3, 2 * 3 * 5).reshape(2, 3, 5).sin()
LEGAL = torch.ones(2, 3, 5, dtype=torch.bool)
ALIVE = torch.ones(2, 3, dtype=torch.bool)
ACTIONS = np.array([[0, 4, 2], [1, 1, 3]])


def drawn(kind, **settings):
    mixer = kind(MixerShape(agents=3, state=4, embedding=6, heads=2, actions=5, **settings))
    draw_weights(mixer, np.random.default_rng(0))
    return mixer


def qmix():
    return drawn(QMixer)


def every_mixer():
    yield SumMixer()
    for kind in (QMixer, AttentionMixer, DuplexMixer, OffsetSumMixer):
        yield drawn(kind)
    yield drawn(DuplexMixer, transformed=False)


def named(mixer):
    return type(mixer).__name__


def every_joint_action():
    """All 125 joint actions of three agents with five actions, for both episodes: [125, 2, 3]."""
    grid = np.stack(np.meshgrid(*[np.arange(5)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    return np.broadcast_to(grid, (125, 2, 3)).copy()


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
    worth = TeamValue(SumMixer(), Q, STATE, ALIVE, LEGAL, scale=2.0)
    total, credit = worth.of(ACTIONS)
    want = [2 * sum(float(Q[b, n, a]) for n, a in enumerate(ACTIONS[b])) for b in range(2)]
    np.testing.assert_allclose(total, want, rtol=1e-6)
    assert (credit == 1).all()
    np.testing.assert_allclose(worth.best(), 2 * Q.amax(-1).sum(-1), rtol=1e-6)


@pytest.mark.parametrize("mixer", list(every_mixer()), ids=named)
def test_dead_agents_count_nothing_whatever_they_do(mixer):
    alive = ALIVE.clone()
    alive[0, 1] = False
    worth = TeamValue(mixer, Q, STATE, alive, LEGAL)
    total, credit = worth.of(ACTIONS)
    other = ACTIONS.copy()
    other[0, 1] = 2
    np.testing.assert_array_equal(worth.of(other)[0], total)
    assert credit[0, 1] == 0
    taken = torch.gather(Q, -1, torch.from_numpy(ACTIONS)[..., None])[..., 0]
    taken[0, 1] = 0.0
    joint = JointAction(torch.from_numpy(ACTIONS).masked_fill(~alive, -1), Q.amax(-1) * alive)
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(total), mixer(taken, STATE, joint))


@pytest.mark.parametrize("mixer", list(every_mixer()), ids=named)
def test_credit_is_the_slope_of_the_teams_value(mixer):
    """By finite differences of one agent's value of its executed action."""
    mixer, step = mixer.double(), 1e-6
    q, state = Q.double(), STATE.double()
    _, credit = TeamValue(mixer, q, state, ALIVE, LEGAL, scale=3.0).of(ACTIONS)
    for agent in range(3):
        values = []
        for sign in (1, -1):
            moved = q.clone()
            for episode in range(2):
                moved[episode, agent, ACTIONS[episode, agent]] += sign * step
            values.append(mixed(mixer, moved, state))
        slope = (values[0] - values[1]) / (2 * step)
        np.testing.assert_allclose(credit[:, agent], slope, rtol=1e-5)
    assert (credit > 0).all()


def mixed(mixer, q, state):
    """Return the value of ``ACTIONS`` in the precision of ``q``."""
    actions = torch.from_numpy(ACTIONS)
    taken = q.gather(-1, actions[..., None])[..., 0]
    with torch.no_grad():
        return mixer(taken, state, JointAction(actions, q.amax(-1))).numpy()


@pytest.mark.parametrize("mixer", list(every_mixer()), ids=named)
def test_the_greedy_actions_of_the_agents_are_those_of_the_team(mixer):
    """Individual-global-max, by enumeration of all joint actions."""
    worth = TeamValue(mixer, Q, STATE, ALIVE, LEGAL)
    values = np.stack([worth.of(actions)[0] for actions in every_joint_action()])
    greedy = Q.argmax(-1).numpy()
    np.testing.assert_allclose(worth.of(greedy)[0], worth.best(), rtol=1e-6)
    best = every_joint_action()[values.argmax(0), [0, 1]]
    np.testing.assert_array_equal(best, greedy)
    fewer = LEGAL.clone()
    fewer[0, 0, Q[0, 0].argmax()] = False
    assert TeamValue(mixer, Q, STATE, ALIVE, fewer).best()[0] < worth.best()[0]


def values_of_joint_actions(mixer):
    """Return the value of every joint action, [5, 5, 5, 2]."""
    worth = TeamValue(mixer, Q, STATE, ALIVE, LEGAL)
    return np.stack([worth.of(actions)[0] for actions in every_joint_action()]).reshape(5, 5, 5, 2)


@pytest.mark.parametrize("kind", [QMixer, AttentionMixer, OffsetSumMixer])
def test_mixing_is_monotone(kind):
    """No agent's better action makes the team's value smaller, by enumeration."""
    values = values_of_joint_actions(drawn(kind))
    for episode in range(2):
        for agent in range(3):
            order = Q[episode, agent].argsort().numpy()
            steps = np.diff(np.take(values[..., episode], order, axis=agent), axis=agent)
            assert (steps >= -1e-6).all()


def test_duplex_mixing_is_not_monotone_and_need_not_be():
    """The weight of an advantage depends on what the others do."""
    mixer = drawn(DuplexMixer)
    with torch.no_grad():
        for part in mixer.parameters():
            part.mul_(6)
    values = values_of_joint_actions(mixer)
    order = Q[0, 0].argsort().numpy()
    assert (np.diff(np.take(values[..., 0], order, axis=0), axis=0) < 0).any()


def test_duplex_mixing_without_the_transformation_starts_from_the_sum_of_the_best():
    mixer = drawn(DuplexMixer, transformed=False)
    assert {name.partition(".")[0] for name in mixer.state_dict()} == {"key", "agent", "action"}
    best = TeamValue(mixer, Q, STATE, ALIVE, LEGAL).best()
    np.testing.assert_allclose(best, Q.amax(-1).sum(-1), rtol=1e-6)


def test_a_policys_output_is_complete():
    logits, hidden = np.zeros((2, 3, 5), np.float32), np.zeros((2, 3, 4), np.float32)
    output = TeamValue(qmix(), Q, STATE, ALIVE, LEGAL, scale=2.0).output(logits, hidden)
    np.testing.assert_allclose(output.q_values, 2 * Q)
    np.testing.assert_array_equal(output.value, output.q_tot_max[:, None].repeat(3, axis=1))
    assert output.mix is not None
    assert output.q_tot_max is not None
    assert (output.mix(ACTIONS)[0] <= output.q_tot_max).all()
    assert output.value.dtype == output.q_tot_max.dtype == np.float32
