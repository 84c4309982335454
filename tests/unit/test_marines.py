"""The script that teaches the expert of 5m_vs_6m, at hand-made moments and in the game."""

import numpy as np
import pytest

from benchmarks.marines import ALLIES, ATTACK, ENEMIES, STOP, Field, decide, script
from kd_offline import environments
from kd_offline.errors import MismatchError
from kd_offline.rollout.collect import collect_sampled
from kd_offline.seeding import episode_seeds

EAST, WEST = 1, 3
NOBODY = np.full((1, ENEMIES), -1)
LATER = 9.0  # ticks, beyond the coming step


def field(ours, theirs, *, health=None, their_health=None, ready=0.0, their_ready=LATER):
    """Put marines at (x, 16 + 0.8 i); those who are not given are dead."""

    def side(xs, lives, full):
        place = np.array([(x, 16.0 + 0.8 * i) for i, x in enumerate(xs)])
        given = np.full(len(xs), 45.0) if lives is None else np.asarray(lives, float)
        gone = full - len(xs)
        return np.pad(place, ((0, gone), (0, 0)))[None], np.pad(given, (0, gone))[None]

    (a, own), (e, other) = side(ours, health, ALLIES), side(theirs, their_health, ENEMIES)
    return Field(a, e, own, other, np.full((1, ALLIES), ready), np.full((1, ENEMIES), their_ready))


def test_a_shot_that_would_kill_is_stepped_back_from():
    """At 4.9 of 5 in range, a tick away: 3.15 / 16 to the west is out of range."""
    dying = field([10.0], [14.9], health=[9.0], their_ready=1.0)
    assert decide(dying, NOBODY)[0][0, 0] == WEST
    healthy = field([10.0], [14.9], their_ready=1.0)
    assert decide(healthy, NOBODY)[0][0, 0] == ATTACK
    reloading = field([10.0], [14.9], ready=LATER, their_ready=1.0)
    assert decide(reloading, NOBODY)[0][0, 0] == WEST
    too_near = field([10.0], [11.0], health=[9.0], their_ready=1.0)
    assert decide(too_near, NOBODY)[0][0, 0] == ATTACK


def test_fire_is_shared_out_so_that_enemies_die_soonest():
    """Two shots for the one who dies of them, the third for the weakest of the others."""
    actions, _ = decide(field([10.0] * 3, [13.0] * 3, their_health=[45, 18, 36]), NOBODY)
    assert sorted(actions[0, :3]) == [ATTACK + 1, ATTACK + 1, ATTACK + 2]
    assert (actions[0, 3:] == STOP).all()


def test_enemies_are_thought_to_stay_with_their_target():
    moment = field([10.0, 12.0], [14.0])
    _, first = decide(moment, NOBODY)
    assert first[0, 0] == 1
    _, stays = decide(moment, np.where(np.arange(ENEMIES) == 0, 0, NOBODY))
    assert stays[0, 0] == 0
    assert (stays[0, 1:] == -1).all()


def test_those_out_of_range_come_nearer_and_not_in_front_of_the_others():
    moment = field([10.0, 4.0], [14.0])
    assert decide(moment, NOBODY)[0][0].tolist()[:2] == [ATTACK, EAST]


def test_it_wins_every_fourth_battle_when_sampled():
    world = environments.load("smax/5m_vs_6m")
    played = collect_sampled(world, script(world.spec), episode_seeds(5, 0, 256))
    assert 0.15 < played.won.mean() < 0.45


def test_other_tasks_are_refused():
    with pytest.raises(MismatchError, match="plays smax/5m_vs_6m"):
        script(environments.load("mpe/simple_spread_v3").spec)
