import numpy as np
import pytest

from kd_offline.robustness.perturbations.observations import (
    DroppedBlocks,
    Noise,
    StuckSensors,
    first_steps,
)
from kd_offline.seeding import normals, uniforms
from tests.unit.robustness.perturbations.factories import SCALE, SEEDS, SPEC, moment, setting, view


def test_noise_is_normal_in_deviations_of_each_feature():
    noise = Noise(setting(0.5))
    given, shown = view(), noise.observations(view(), moment(noise, step=3))
    drawn = normals(SEEDS, 3, (2, 5), "audit", "noise")
    assert np.array_equal(shown, given.obs + 0.5 * SCALE.deviation * drawn)
    assert (shown[:, 0, 4] == 1).all()  # a feature that did not vary


def test_noise_has_the_stated_deviation():
    seeds = np.arange(20_000, dtype=np.uint64)
    noise = Noise(setting(0.5))
    many = view(batch=len(seeds))
    shown = noise.observations(many, moment(noise, seeds=seeds)) - many.obs
    assert shown[:, 1].std(0) == pytest.approx(0.5 * SCALE.deviation[1], rel=0.03)
    assert np.abs(shown[:, 1].mean(0)).max() < 0.06


def test_dropped_blocks_are_their_mean():
    drop = DroppedBlocks(setting(0.5))
    shown = drop.observations(view(), moment(drop, step=2))
    draws = uniforms(SEEDS, 2, (4,), "audit", "drop")
    blocks = [(0, [0, 1, 2]), (0, [3]), (1, [0, 1, 2, 3]), (1, [4])]
    expected = np.ones((4, 2, 5))
    for k, (agent, features) in enumerate(blocks):
        for episode in np.flatnonzero(draws[:, k] < 0.5):
            expected[episode, agent, features] = SCALE.mean[agent, features]
    assert np.array_equal(shown, expected)
    assert 0 < (shown != 1).sum() < shown.size


def test_features_of_no_block_are_one_block():
    spec = SPEC.model_copy(update={"blocks": {"left": {"target": ((0, 2),)}, "right": {}}})
    blocks = [(i, np.flatnonzero(own).tolist()) for i, own in setting(1.0, spec=spec).blocks]
    assert blocks == [(0, [0, 1]), (0, [2, 3]), (1, [0, 1, 2, 3, 4])]


def test_stuck_sensors_show_what_they_showed_when_they_broke():
    stuck = StuckSensors(setting(0.5))
    kept, shown = stuck.start(SEEDS), []
    for step in range(5):
        now = moment(stuck, step=step, kept=kept)
        shown.append(stuck.observations(view(np.full((4, 2, 5), step, np.float32)), now))
        kept = now.kept
    draws = uniforms(SEEDS, 0, (2, 4), "audit", "stuck")
    since = np.where(draws[:, 0] < 0.5, np.floor(draws[:, 1] * 2), 99)
    for step in range(5):
        assert np.array_equal(shown[step][:, 0, 0], np.minimum(step, since[:, 0]))
        assert np.array_equal(shown[step][:, 1, 4], np.minimum(step, since[:, 3]))
    assert len(set(shown[4][:, 0, 0])) > 1


def test_what_breaks_for_good_breaks_in_the_first_quarter():
    assert first_steps(np.array([0.0, 0.49, 0.51, 0.999]), 8).tolist() == [0, 0, 1, 1]
