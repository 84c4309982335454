"""What training computes with rounded weights is what an int8 export says."""

import numpy as np
import pytest
import torch

from kd_offline.exports import parity_check
from kd_offline.networks.quantise import rounded
from kd_offline.students.folding import RoundedPass
from tests.unit.exports.conftest import KINDS, Kind, exported, same, student


def aware(kind):
    policy = student(kind)
    policy.team.stand_in = RoundedPass(policy.mask.static)
    return policy


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_rounded_pass_gives_the_logits_of_the_int8_export(kind, episodes):
    int8 = parity_check.replay(exported(kind, int8=True)[3], episodes)
    found = same(parity_check.replay(aware(kind), episodes), int8, episodes)
    assert found.logit_error < 2e-5
    assert found.agreement == 1.0
    # It is another network than the one that is not rounded.
    assert (
        parity_check.compare(
            parity_check.replay(student(kind), episodes), int8, episodes
        ).logit_error
        > 1e-3
    )


def test_gradients_go_straight_through_the_rounding():
    team = aware(Kind("mlp", 0, mask="full")).team.requires_grad_(True)
    head = team.networks[0].head
    with torch.no_grad():
        head.weight.copy_(torch.linspace(-1.0, 0.9, head.weight.numel()).view_as(head.weight))
    x = torch.arange(1.0, 7.0)
    logits = team.agent(0, team.packed(x.expand(1, 3, 6), None, [1])).outputs[0]
    kept = torch.from_numpy(rounded(head.weight.detach().numpy()))
    assert torch.allclose(logits, kept @ x + head.bias, atol=1e-6)
    logits[2].backward()
    expected = torch.zeros_like(head.weight)
    expected[2] = x
    assert torch.equal(head.weight.grad, expected)


def test_gains_that_fold_into_a_matrix_learn_through_it():
    team = aware(Kind("mlp", 1, mask="full")).team.requires_grad_(True)
    network = team.networks[0]
    x = torch.linspace(-1, 1, 6).expand(1, 3, 6)
    logits, embedding, *_ = team.agent(0, team.packed(x, None, [1]))
    logits[0, 1].backward(retain_graph=True)
    gain, offset, head = network.trunk[2].weight, network.trunk[2].bias, network.head.weight
    normalised = ((embedding - offset) / gain)[0].detach()
    assert torch.allclose(gain.grad, head[1].detach() * normalised, atol=1e-5)
    assert torch.allclose(offset.grad, head[1].detach(), atol=1e-6)


def test_what_a_mask_hides_takes_no_part_in_the_rounding(episodes):
    """A hidden column as large as this would leave nothing of the others."""
    kind, policies = Kind("mlp", 1), []
    for scale in (1.0, 1e6):
        policy = aware(kind)
        with torch.no_grad():
            policy.team.networks[0].trunk[0].weight[:, 3:] *= scale
        policies.append(policy)
    one, other = (parity_check.replay(policy, episodes) for policy in policies)
    assert np.array_equal(one, other)
