import numpy as np
import pytest

from kd_offline.robustness import shared_failures as module
from kd_offline.robustness.shared_failures import (
    mean_correlation,
    recorded_errors,
    shared_failures,
)
from kd_offline.testing.factories import tiny_dataset
from kd_offline.types import PolicyOutput


def test_failures_together_stand_beside_what_independence_would_give():
    failed = np.zeros((2, 10), bool)
    failed[0, :4] = failed[1, 2:6] = True
    expert = np.arange(10) == 3
    found = shared_failures(failed, expert, ~expert)
    assert found is not None
    assert found.rates == (0.4, 0.4)
    assert found.together.mean == 0.2
    assert found.independent == pytest.approx(0.16)
    assert found.without_expert == 0.1
    assert found.expert == 0.9
    assert found.correlation == pytest.approx((0.2 - 0.16) / (0.4 * 0.6))
    assert found.together.low < 0.2 < found.together.high


def test_a_single_seed_shares_nothing():
    assert shared_failures(np.ones((1, 5), bool), np.zeros(5, bool), None) is None


def test_seeds_that_never_fail_have_no_correlation():
    assert mean_correlation(np.array([[True, False], [False, False]])) is None


def shared_errors(buffer, teams):
    errors = recorded_errors(buffer, teams, 12, None)
    return None if errors is None else module.shared_errors(errors, buffer.spec)


class Shown:
    """A team that takes the same action everywhere."""

    def __init__(self, action):
        self.action = action

    def start(self, seeds):
        return None

    def act(self, view, memory):
        logits = np.zeros(view.available_actions.shape, np.float32)
        logits[..., self.action] = 1
        return PolicyOutput(logits), memory


def test_errors_are_counted_on_recorded_decisions(tmp_path):
    buffer = tiny_dataset(tmp_path / "d.zarr", 12, [2, 6] * 6)
    names = ("steps/logits", "steps/available_actions", "steps/alive")
    arrays, valid = buffer.padded(names, np.arange(12))
    legal = arrays["steps/available_actions"]
    logits = np.where(legal, arrays["steps/logits"], -np.inf)
    found = shared_errors(buffer, [Shown(0), Shown(1)])
    assert found is not None
    held = buffer.split(found.part)
    deciding = (legal.sum(-1) > 1) & arrays["steps/alive"] & valid[..., None]
    wrong = []
    for action in (0, 1):
        preferred = np.zeros(legal.shape[-1])
        preferred[action] = 1
        chosen = np.where(legal, preferred, -np.inf).argmax(-1)
        wrong.append(((chosen != logits.argmax(-1)) & deciding)[held])
    decisions = int(deciding[held].sum())
    assert found.decisions == decisions
    assert found.rates == pytest.approx([w.sum() / decisions for w in wrong])
    assert found.independent == pytest.approx(found.rates[0] * found.rates[1])
    both = wrong[0] & wrong[1]
    # A decision counts the same in a long and in a short episode, as it does in the seeds' rates.
    assert found.together.mean == pytest.approx(both.sum() / decisions)
    assert found.alike is not None
    assert 0 <= found.alike <= 1
    for i, agent in enumerate(buffer.spec.agents):
        own = deciding[held][..., i]
        assert found.agents[agent].together == pytest.approx(both[..., i].sum() / own.sum())


def test_seeds_that_are_one_team_are_always_wrong_alike(tmp_path):
    buffer = tiny_dataset(tmp_path / "d.zarr", 12, [6] * 12)
    found = shared_errors(buffer, [Shown(0), Shown(0), Shown(0)])
    assert found is not None
    assert found.alike == 1
    assert found.correlation == pytest.approx(1)
    assert found.together.mean > found.independent
    assert shared_errors(buffer, [Shown(0)]) is None


def test_the_interval_of_shared_errors_is_that_of_a_quotient_of_sums():
    rng = np.random.default_rng(0)
    deciding = np.arange(8)[:, None] < rng.integers(1, 9, 400)
    deciding = deciding.T[:, :, None]  # [E, T, 1]
    wrong = (rng.random((2, *deciding.shape)) < 0.8) & deciding
    values = module.RecordedErrors(None, np.zeros(wrong.shape, int), wrong, deciding).together
    counts, both = deciding.sum((1, 2)), wrong.all(0).sum((1, 2))
    assert values.mean() == pytest.approx(both.sum() / counts.sum())
    drawn = rng.integers(0, 400, (2000, 400))
    bootstrap = both[drawn].sum(1) / counts[drawn].sum(1)
    assert values.std() / 20 == pytest.approx(bootstrap.std(), rel=0.1)
