from dataclasses import replace

import numpy as np
import pytest

from kd_offline.experts.importers.expert import ForeignExpert
from kd_offline.experts.load import load
from kd_offline.recording.calibration import calibrated, fit
from kd_offline.rollout.collect import Trajectories
from kd_offline.testing.targets import TargetsEnvironment
from kd_offline.tracking.base import FunctionObserver
from kd_offline.types import PolicyOutput

SIDES = np.array([0, 0, 1])


def played(scale, offset, *, bootstrap, gamma=0.9, seed=0):
    """Return random episodes and a critic that is right up to an affine map."""
    rng = np.random.default_rng(seed)
    t, b = 6, 40
    reward = rng.standard_normal((t, b, 3)).astype(np.float32)
    length = rng.integers(2, t + 1, b)
    terminated = np.zeros((t, b), bool)
    terminated[length - 1, np.arange(b)] = rng.random(b) < 0.5
    ended = terminated.any(0)
    side = np.stack([reward[..., :2].mean(-1)] * 2 + [reward[..., 2]], -1)
    final = rng.standard_normal((b, 3))
    true = np.zeros((t, b, 3))
    for k in range(b):
        after = final[k] if bootstrap and not ended[k] else np.zeros(3)
        for step in reversed(range(length[k])):
            after = side[step, k] + gamma * after
            true[step, k] = after
    steps = {
        "reward": reward,
        "value": (true - offset) / scale,
        "alive": rng.random((t, b, 3)) < 0.9,
        "terminated": terminated,
        "truncated": ~terminated,
    }
    steps["value"][~steps["alive"]] = 1e6  # meaningless there, and must not matter
    won = np.full(b, -1, np.int8)
    return Trajectories(steps, {"value": (final - offset) / scale}, length, won)


@pytest.mark.parametrize("bootstrap", [False, True])
def test_an_affine_map_is_found_again(bootstrap):
    found = fit(
        played(12.5, -30.0, bootstrap=bootstrap),
        SIDES,
        gamma=0.9,
        bootstrap_on_truncation=bootstrap,
    )
    assert found.scale == pytest.approx(12.5, rel=1e-4)
    assert found.offset == pytest.approx(-30, rel=1e-4)
    assert found.r2 == pytest.approx(1, abs=1e-6)
    assert found.episodes == 40


def test_a_critic_that_errs_in_sign_explains_nothing():
    found = fit(played(-2.0, 3.0, bootstrap=False), SIDES, gamma=0.9, bootstrap_on_truncation=False)
    assert found.scale == 0
    assert found.r2 < 1e-6


def test_known_units_are_measured_and_not_fitted():
    data = played(1.0, 0.0, bootstrap=True)
    kept = {"gamma": 0.9, "bootstrap_on_truncation": True}
    assert fit(data, SIDES, known=(1.0, 0.0), **kept).r2 == pytest.approx(1)
    wrong = fit(data, SIDES, known=(3.0, 0.0), **kept)
    assert (wrong.scale, wrong.r2) == (3.0, 0.0)


def test_noise_lowers_what_is_explained():
    data = played(2.0, 3.0, bootstrap=False)
    data.steps["value"] += np.random.default_rng(1).standard_normal(data.steps["value"].shape)
    found = fit(data, SIDES, gamma=0.9, bootstrap_on_truncation=False)
    assert 0 < found.scale < 2
    assert 0 < found.r2 < 0.9


class Clock:
    """Random play whose values are the number of steps that are left."""

    parameters, macs = 0, 0

    def start(self, seeds):
        return np.zeros(len(seeds))

    def act(self, view, memory):
        logits = np.zeros(view.available_actions.shape, np.float32)
        value = np.broadcast_to((6 - memory)[:, None], view.alive.shape).astype(np.float32)
        return PolicyOutput(logits, value=value), memory + 1


def clock(spec):
    return Clock()


def test_a_trial_in_small_batches_says_what_one_batch_says():
    class Narrow(TargetsEnvironment):
        largest_batch = 7

        def reset(self, seeds):
            assert len(seeds) <= 7
            return super().reset(seeds)

    told: dict[str, list[str]] = {"narrow": [], "wide": []}
    for name, world in (("narrow", Narrow()), ("wide", TargetsEnvironment())):
        expert = load(f"python:{__name__}:clock", world.spec)
        assert isinstance(expert, ForeignExpert)
        update = {"critic_inputs": ("obs",), "value_units": "normalised"}
        recipe = expert.recipe.model_copy(update=update)
        calibrated(
            replace(expert, recipe=recipe), world, 0, FunctionObserver(message=told[name].append)
        )
    assert told["narrow"] == told["wide"]
    assert "calibrated on 100 trial episodes" in told["narrow"][0]
