"""The real game, where it is installed: ``pytest -m starcraft``."""

import numpy as np
import pytest

from kd_offline.environments import load
from kd_offline.environments.smac.environment import MAPS
from kd_offline.environments.smac.installation import look
from kd_offline.rollout.collect import collect
from kd_offline.rollout.play import sampled
from kd_offline.rollout.policies import RandomPolicy
from kd_offline.seeding import episode_seeds

FOUND = look()
pytestmark = [
    pytest.mark.starcraft,
    pytest.mark.slow,
    pytest.mark.skipif(FOUND.state != "ready", reason=FOUND.detail),
]


@pytest.mark.parametrize("name", MAPS)
def test_the_package_lays_every_map_out_as_the_table_says(name):
    if name not in FOUND.maps:
        pytest.skip(f"{FOUND.game} has no map {name}")
    load(f"smac/{name}").close()  # refuses what differs


@pytest.mark.parametrize("name", ["3m", "3s5z", "MMM"])
def test_random_play_keeps_the_interface(name):
    world, seeds = load(f"smac/{name}", games=2), episode_seeds(0, 0, 2)
    try:
        for _ in range(2):  # the second time in games that go on
            played = collect(world, RandomPolicy(), seeds, sampled(seeds))
            alive = played.steps["alive"]
            assert alive[0].all()
            assert not played.steps["obs"][~alive].any()
            ends = played.steps["terminated"] | played.steps["truncated"]
            assert ends[played.length - 1, np.arange(2)].all()
            assert (played.length <= world.spec.episode_limit).all()
            assert np.isin(played.won, (0, 1)).all()
            assert (played.steps["reward"] >= 0).all()
    finally:
        world.close()


def test_a_new_game_begins_alike_with_its_seed():
    world, seeds = load("smac/3m", new_game_each_episode=True), episode_seeds(0, 0, 1)
    try:
        first, second = (world.reset(seeds) for _ in range(2))
        np.testing.assert_array_equal(first.obs, second.obs)
    finally:
        world.close()
