import pytest
import torch

from kd_offline.networks.mixers import MixerShape, QMixer, vdn


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
