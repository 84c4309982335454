import pytest
import torch

from kd_offline.networks.mixers import (
    AttentionMixer,
    DuplexMixer,
    JointAction,
    MixerShape,
    OffsetSumMixer,
    QMixer,
    vdn,
)


def made(**sizes):
    torch.manual_seed(0)
    mixer = QMixer(MixerShape(agents=3, state=7, embedding=5, **sizes))
    return mixer, torch.randn(4, 2, 3, requires_grad=True), torch.randn(4, 2, 7)


@pytest.mark.parametrize("hidden", [None, 6])
def test_credit_is_the_gradient_and_never_negative(hidden):
    mixer, q, state = made(weights_hidden=hidden, bias_hidden=hidden, value_hidden=hidden)
    total = mixer(q, state)
    assert total.shape == (4, 2)
    (gradient,) = torch.autograd.grad(total.sum(), q)
    credit = mixer.credit(q, state)
    torch.testing.assert_close(credit, gradient)
    assert (credit >= 0).all()


def test_it_is_the_formula_for_one_state():
    mixer, q, state = made()
    one, s = q[0, 0], state[0, 0]
    hidden = torch.zeros(5)
    first = mixer.w1(s).abs()
    for agent in range(3):
        hidden = hidden + one[agent] * first[agent * 5 : agent * 5 + 5]
    hidden = torch.nn.functional.elu(hidden + mixer.b1(s))
    want = hidden @ mixer.w2(s).abs() + mixer.v(s)[0]
    torch.testing.assert_close(mixer(q, state)[0, 0], want)


def test_a_normalised_state_is_worth_nothing_for_being_far_off():
    mixer, q, state = made(normalised=True)
    far = 1000 * state + 5
    torch.testing.assert_close(mixer(q, far), mixer(q, state), rtol=1e-3, atol=1e-3)
    total = mixer(q, state)
    (gradient,) = torch.autograd.grad(total.sum(), q)
    torch.testing.assert_close(mixer.credit(q, state), gradient)
    plain, _, _ = made()
    plain.load_state_dict(mixer.state_dict())
    standard = (state - state.mean(-1, keepdim=True)) / state.std(-1, correction=0, keepdim=True)
    torch.testing.assert_close(plain(q, standard), total, rtol=1e-3, atol=1e-4)


def test_vdn_adds():
    torch.testing.assert_close(
        vdn(torch.tensor([[1.0, 2.0], [0.5, -2.0]])), torch.tensor([3, -1.5])
    )


def set_constant(network, values):
    """Make a hypernetwork of one layer give ``values`` whatever the state is."""
    with torch.no_grad():
        network[-1].weight.zero_()
        network[-1].bias.copy_(torch.tensor(values))


def test_attention_mixing_worked_by_hand():
    """One head of width 1: query 2, keys 0 and log(3)/2, head weight -4, V = 1.

    The shares are softmax(0, log 3) = 1/4 and 3/4, so q_tot = 4 (1/4 * 2 + 3/4 * 6) + 1 = 21.
    """
    mixer = AttentionMixer(MixerShape(2, 3, 1, None, None, None, heads=1))
    half_log = float(torch.tensor(3.0).log()) / 2
    parts = (mixer.query, [2.0]), (mixer.key, [0.0, half_log]), (mixer.head, [-4.0])
    for network, values in (*parts, (mixer.v, [1.0])):
        set_constant(network, values)
    q, state = torch.tensor([2.0, 6.0]), torch.zeros(3)
    torch.testing.assert_close(mixer(q, state), torch.tensor(21.0))
    torch.testing.assert_close(mixer.credit(q, state), torch.tensor([1.0, 3.0]))


def test_duplex_mixing_worked_by_hand():
    """Two agents, w = (2, 3), b = (1, 0); lambda = |-2| * sigmoid(0) * sigmoid(0) = 1/2 for both.

    Values q = (1, 4) of greedy ones (3, 4): sum_i w_i best_i + b_i = 6 + 12 + 1 = 19, advantages
    w (q - best) = (-4, 0), so q_tot = 19 + 1/2 * -4 = 17. Credit is lambda w = 1 where the action
    is not greedy, and w = 3 where it is.
    """
    mixer = DuplexMixer(MixerShape(2, 3, 1, None, None, None, heads=1, actions=2))
    parts = (mixer.w, [-2.0, 3.0]), (mixer.b, [1.0, 0.0]), (mixer.key, [-2.0])
    for network, values in (*parts, (mixer.agent, [0.0, 0.0]), (mixer.action, [0.0, 0.0])):
        set_constant(network, values)
    q, state = torch.tensor([1.0, 4.0], requires_grad=True), torch.zeros(3)
    joint = JointAction(torch.tensor([0, 1]), torch.tensor([3.0, 4.0]))
    total = mixer(q, state, joint)
    torch.testing.assert_close(total, torch.tensor(17.0))
    torch.testing.assert_close(mixer.credit(q, state, joint), torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(mixer(joint.best, state), torch.tensor(19.0))
    (gradient,) = torch.autograd.grad(total, q)
    torch.testing.assert_close(gradient, torch.tensor([2.0, 3.0]))


def test_the_sum_with_an_offset_worked_by_hand():
    mixer = OffsetSumMixer(MixerShape(2, 3, 1, None, None, None))
    set_constant(mixer.v, [-0.5])
    torch.testing.assert_close(mixer(torch.tensor([2.0, 6.0]), torch.zeros(3)), torch.tensor(7.5))
