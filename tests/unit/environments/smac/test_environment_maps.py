import itertools

import pytest

from kd_offline.environments.smac.environment import MAPS, SmacSettings, blocks, widths
from tests.standins.armies import ARMIES
from tests.standins.starcraft import StarCraft2Env

FLAGS = ("obs_all_health", "obs_own_health", "obs_last_action")
FURTHER = ("obs_pathing_grid", "obs_terrain_height")

# By hand from SMAC's description of its features: observation, state, actions.
BY_HAND = {
    "3m": (30, 48, 9),
    "8m": (80, 168, 14),
    "5m_vs_6m": (55, 98, 12),
    "2s3z": (80, 120, 11),
    "3s5z": (128, 216, 14),
    "3s5z_vs_3s6z": (136, 230, 15),
    "1c3s5z": (162, 270, 15),
    "MMM": (160, 290, 16),
    "MMM2": (176, 322, 18),
    "27m_vs_30m": (285, 1170, 36),
    "corridor": (156, 282, 30),
    "6h_vs_8z": (78, 140, 14),
    "2c_vs_64zg": (332, 342, 70),
    "bane_vs_bane": (336, 984, 30),
    "3s_vs_5z": (48, 68, 11),
    "2s_vs_1sc": (17, 27, 7),
}


def test_the_blocks_of_three_marines():
    found = blocks(MAPS["3m"], SmacSettings())
    assert found == {
        "move": ((0, 4),),
        "enemies": ((4, 19),),
        "allies": ((19, 29),),
        "own": ((29, 30),),
    }


@pytest.mark.parametrize("name", BY_HAND)
def test_widths_are_those_worked_out_by_hand(name):
    width, _, actions = BY_HAND[name]
    assert sum(widths(MAPS[name], SmacSettings()).values()) == width
    assert len(MAPS[name].actions) == actions


@pytest.mark.parametrize("name", BY_HAND)
def test_the_stand_in_has_the_same(name):
    info = StarCraft2Env(name).get_env_info()
    assert (info["obs_shape"], info["state_shape"], info["n_actions"]) == BY_HAND[name]


def test_the_table_holds_every_map():
    assert set(MAPS) == set(ARMIES)
    assert len(MAPS) == 23


@pytest.mark.parametrize("name", MAPS)
def test_widths_follow_from_who_fights(name):
    """Every map under every switch of the observation, against units one by one."""
    field = MAPS[name]
    for chosen in itertools.product((False, True), repeat=len(FLAGS)):
        flags = dict(zip(FLAGS, chosen, strict=True)) | dict.fromkeys(FURTHER, chosen[0])
        info = StarCraft2Env(name, **flags).get_env_info()
        assert info["obs_shape"] == sum(widths(field, SmacSettings(**flags)).values())
    assert (info["n_agents"], info["n_actions"]) == (field.allies, len(field.actions))
    assert info["episode_limit"] == field.limit


def test_without_health_marines_have_nothing_of_their_own():
    blind = SmacSettings(obs_all_health=False, obs_own_health=False)
    assert list(blocks(MAPS["3m"], blind)) == ["move", "enemies", "allies"]
    assert blocks(MAPS["2s3z"], blind)["own"] == ((4 + 5 * 6 + 4 * 6, 4 + 5 * 6 + 4 * 6 + 2),)


def test_actions_are_named():
    assert MAPS["3m"].actions[:6] == ("no-op", "stop", "north", "south", "east", "west")
    assert MAPS["3m"].actions[6:] == ("attack_0", "attack_1", "attack_2")
    assert MAPS["MMM"].actions[6] == "target_0"  # the Medivac heals allies by these numbers
