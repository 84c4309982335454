"""A student at full width under its mask and its compacted form say the same on every step."""

from dataclasses import replace

import numpy as np
import pytest

from kd_offline.exports import parity_check
from kd_offline.exports.compact import compact
from kd_offline.exports.network import arrays
from tests.unit.exports.conftest import (
    KINDS,
    MASKS,
    RICH,
    SPEC,
    Kind,
    exported,
    same,
    student,
)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_whole_recorded_episodes_are_answered_alike(kind, episodes):
    policy, _, _, numpy_team = exported(kind)
    found = same(
        parity_check.replay(numpy_team, episodes), parity_check.replay(policy, episodes), episodes
    )
    assert found.agreement == 1.0
    assert found.logit_error < 2e-5
    assert found.decisions == episodes.deciding().sum() > episodes.steps


def test_dead_columns_are_gone():
    _, networks, agents, _ = exported(RICH)
    seen = MASKS["partial"].sum(axis=1)
    columns = [net.trunk[0].weight.shape[1] for net in networks]
    # Each visible feature and its change, and the last action.
    expected = [2 * k + a for k, a in zip(seen, SPEC.action_counts, strict=True)]
    assert columns == expected
    assert [agent.inputs for agent in agents] == seen.tolist() == [3, 3, 0]
    assert agents[0].blocks == {"own": (0, 1, 2)}
    assert agents[1].blocks == {"own": (0,), "others": (2, 3)}
    assert agents[2].blocks == {}


def test_hidden_features_cannot_matter(episodes):
    policy, _, _, numpy_team = exported(RICH)
    poisoned = episodes.arrays["obs"].copy()
    poisoned[:, :, ~MASKS["partial"]] = np.nan
    changed = replace(episodes, arrays=episodes.arrays | {"obs": poisoned})
    said = parity_check.replay(numpy_team, changed)
    assert np.array_equal(said, parity_check.replay(numpy_team, episodes))
    same(said, parity_check.replay(policy, episodes), episodes)


def test_aligner_normalisation_and_constant_bits_are_folded():
    plain = exported(Kind("mlp", 2))[1]
    more = exported(Kind("mlp", 2, "linear", mask_as_input=True))[1]
    for one, other in zip(plain, more, strict=True):
        names = [(name, values.shape) for name, values in arrays(one)]
        assert names == [(name, values.shape) for name, values in arrays(other)]
        assert "trunk.1.gain" not in dict(names)


def test_features_that_hardly_vary_far_from_zero_survive(episodes):
    """Folding the means would cancel 1e4 against 1e4 here."""
    policy = student(Kind("mlp", 1, mask="full"))
    policy.team.mean.fill_(1e4)
    policy.team.std.fill_(1e-2)
    arrays_ = episodes.arrays | {"obs": 1e4 + 1e-2 * episodes.arrays["obs"]}
    shifted = replace(episodes, arrays=arrays_)
    from kd_offline.exports.contract import contracts
    from kd_offline.exports.engines import numpy_steps, team

    networks = compact(policy)
    compacted = team(contracts(networks, SPEC), numpy_steps(networks), None)
    same(parity_check.replay(compacted, shifted), parity_check.replay(policy, shifted), shifted)


def test_another_executed_action_can_be_told(episodes):
    """The memory of the step holds its own action until the loop says what was executed."""
    policy, _, _, numpy_team = exported(Kind("gru", 0, last_action=True))
    actions = 1 - episodes.arrays["actions"].clip(0, 1)
    changed = replace(episodes, arrays=episodes.arrays | {"actions": actions})
    said = parity_check.replay(numpy_team, changed)
    same(said, parity_check.replay(policy, changed), changed)
    assert np.abs(said - parity_check.replay(numpy_team, episodes)).max() > 0.01
