"""The losses of DDN's local network: worked by hand, and their gradients written out."""

import numpy as np
import pytest
import torch

from kd_offline.experts.algorithms.ddn import LocalDistillation
from kd_offline.experts.local_distillation import Said, losses

LEGAL = torch.tensor([[True, True, False]])


def said(values, s_hat=((0.0,),), feature=((0.0, 0.0),)):
    return Said(*(torch.tensor(x) for x in (values, s_hat, feature)))


def found(guiding, local, legal=LEGAL, **settings):
    return losses(guiding, local, legal, LocalDistillation(**settings))


def test_the_block_loss_is_the_mean_squared_difference():
    one = said([[0.0] * 3] * 2, [[0.0, 0.0], [1.0, 1.0]], [[0.0, 0.0]] * 2)
    other = said([[0.0] * 3] * 2, [[1.0, 0.0], [1.0, 3.0]], [[0.0, 0.0]] * 2)
    assert float(found(one, other, LEGAL.expand(2, 3)).block) == pytest.approx((1 + 4) / 4)


@pytest.mark.parametrize("illegal", [0.0, 9.0, -9.0])
def test_the_value_loss_is_the_divergence_of_softmaxes_over_legal_actions(illegal):
    # softmax of (ln 3, 0) is (3/4, 1/4), of (0, 0) it is (1/2, 1/2)
    guiding = said([[2 * float(np.log(3)), 0.0, illegal]])
    local = said([[0.0, 0.0, -illegal]])
    wanted = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    assert float(found(guiding, local, temperature=2.0).value) == pytest.approx(wanted, rel=1e-5)


def test_a_shift_of_all_values_costs_nothing_unless_values_themselves_are_compared():
    guiding, local = said([[1.0, 3.0, 0.0]]), said([[5.0, 7.0, 0.0]])
    assert float(found(guiding, local).value) == pytest.approx(0, abs=1e-5)
    assert float(found(guiding, local, value_loss="mse").value) == 0
    raw = found(guiding, local, value_loss="mse", centred=False)
    assert float(raw.value) == 16


def test_the_squared_value_loss_is_a_mean_over_legal_actions():
    guiding, local = said([[1.0, 3.0, 8.0]]), said([[5.0, 5.0, 0.0]])
    assert float(found(guiding, local, value_loss="mse", centred=False).value) == (16 + 4) / 2
    # less their mean 3 the differences 4 and 2 are 1 and -1
    assert float(found(guiding, local, value_loss="mse").value) == 1


def test_the_feature_loss_is_a_divergence_or_a_squared_difference():
    guiding = said([[0.0] * 3], feature=[[float(np.log(3)), 0.0]])
    local = said([[0.0] * 3], feature=[[0.0, 0.0]])
    wanted = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    assert float(found(guiding, local).feature) == pytest.approx(wanted, rel=1e-5)
    squared = found(guiding, local, feature_loss="mse")
    assert float(squared.feature) == pytest.approx(np.log(3) ** 2 / 2, rel=1e-5)


def test_agreement_counts_greedy_legal_actions():
    guiding = said([[0.0, 1.0, 9.0], [1.0, 0.0, 0.0]], [[0.0]] * 2, [[0.0]] * 2)
    local = said([[0.0, 2.0, 0.0], [0.0, 1.0, 0.0]], [[0.0]] * 2, [[0.0]] * 2)
    assert float(found(guiding, local, LEGAL.expand(2, 3)).agreement) == 0.5


def test_the_total_is_the_weighted_sum():
    guiding = said([[1.0, 3.0, 8.0]], [[1.0]], [[1.0, 0.0]])
    local = said([[5.0, 5.0, 0.0]], [[3.0]], [[0.0, 0.0]])
    settings = LocalDistillation(
        block_weight=2, value_weight=3, feature_weight=5, value_loss="mse", feature_loss="mse"
    )
    total = losses(guiding, local, LEGAL, settings).total(settings)
    assert float(total) == 2 * 4 + 3 * 1 + 5 * 0.5


@pytest.mark.parametrize("loss", ["kl", "mse"])
def test_gradients_are_those_of_a_plain_implementation(loss):
    rng = np.random.default_rng(0)
    rows, actions, tau = 7, 4, 0.3
    legal = rng.random((rows, actions)) < 0.6
    legal[:, 1] = True
    drawn = {
        who: [rng.standard_normal((rows, width)) for width in (actions, 3, 5)]
        for who in ("guiding", "local")
    }
    local = [torch.tensor(x, requires_grad=True) for x in drawn["local"]]
    guiding = Said(*map(torch.tensor, drawn["guiding"]))
    settings = LocalDistillation(value_loss=loss, feature_loss=loss, temperature=tau)
    result = losses(guiding, Said(*local), torch.tensor(legal), settings)
    result.total(settings).backward()

    def softmax(x, where):
        e = np.where(where, np.exp(x - x.max()), 0)
        return e / e.sum()

    wanted = [np.zeros_like(x) for x in drawn["local"]]
    wanted[1] = 2 * (drawn["local"][1] - drawn["guiding"][1]) / (rows * 3)
    for r in range(rows):
        teacher, student = (drawn[who][0][r] for who in ("guiding", "local"))
        features = [drawn[who][2][r] for who in ("guiding", "local")]
        if loss == "kl":
            p, q = softmax(teacher / tau, legal[r]), softmax(student / tau, legal[r])
            wanted[0][r] = (q - p) / tau / rows
            p, q = (softmax(x, np.ones(5, bool)) for x in features)
            wanted[2][r] = (q - p) / rows
        else:
            gap = np.where(legal[r], student - teacher, 0)
            gap = np.where(legal[r], gap - gap.sum() / legal[r].sum(), 0)
            wanted[0][r] = 2 * gap / legal[r].sum() / rows
            wanted[2][r] = 2 * (features[1] - features[0]) / (rows * 5)
    for part, gradient in zip(local, wanted, strict=True):
        np.testing.assert_allclose(part.grad.numpy(), gradient, atol=1e-12)
