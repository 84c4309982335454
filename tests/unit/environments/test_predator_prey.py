import numpy as np
import pytest

from kd_offline.environments import load
from kd_offline.environments.grid import predator_prey
from kd_offline.environments.grid.predator_prey import ACTIONS, PredatorPrey
from kd_offline.errors import UsageError

STAY, UP, DOWN, LEFT, RIGHT, CAPTURE = range(6)


def stage(predators, prey, size=5, **settings):
    """Return one board with everyone where the test wants them; prey stand still."""
    env = load(
        "grid/predator_prey", size=size, n_predators=len(predators), n_prey=len(prey), **settings
    )
    assert isinstance(env, PredatorPrey)
    env.reset(np.zeros(1, np.uint64))
    board = env._board
    board.predators[0], board.prey[0] = predators, prey
    board.taken[:] = False
    for row, column in (*predators, *prey):
        board.taken[0, row, column] = True
    wander_as(env, [STAY] * len(prey))
    return env, env._view()


def wander_as(env, moves):
    """Have the prey of a single board try ``moves`` in every step."""
    env._wander = lambda: np.array([moves])


def step(env, *actions):
    return env.step(np.array([actions]))


def test_actions_are_named():
    assert ACTIONS == ("stay", "up", "down", "left", "right", "capture")
    assert load("grid/predator_prey").spec.action_names[0] == ACTIONS


def test_two_beside_a_prey_catch_it_and_leave_with_it():
    env, view = stage([(0, 1), (1, 0), (4, 4)], [(1, 1)])
    assert view.available_actions[0, :, CAPTURE].tolist() == [True, True, False]
    outcome = step(env, CAPTURE, CAPTURE, STAY)
    assert outcome.reward.tolist() == [[10.0, 10.0, 10.0]]
    assert outcome.view.alive.tolist() == [[False, False, True]]
    assert outcome.terminated.tolist() == [True]
    assert outcome.won.tolist() == [1]


def test_capturers_may_stay():
    env, _ = stage([(0, 1), (1, 0)], [(1, 1), (4, 4)], capturers_leave=False)
    outcome = step(env, CAPTURE, CAPTURE)
    assert outcome.view.alive.all()
    assert (outcome.terminated.tolist(), outcome.won.tolist()) == ([False], [0])


def test_a_lone_try_costs_the_team():
    env, _ = stage([(0, 1), (4, 4)], [(1, 1)], lone_penalty=3.0)
    outcome = step(env, CAPTURE, STAY)
    assert outcome.reward.tolist() == [[-3.0, -3.0]]
    assert outcome.view.alive.all()
    assert not outcome.terminated[0]


def test_two_tries_at_different_prey_are_two_lone_tries():
    env, _ = stage([(0, 0), (4, 4)], [(0, 1), (4, 3)])
    assert step(env, CAPTURE, CAPTURE).reward.tolist() == [[-4.0, -4.0]]


def test_one_beside_two_prey_catches_both_with_two_others():
    env, _ = stage([(0, 0), (0, 2), (0, 4)], [(0, 1), (0, 3)])
    outcome = step(env, CAPTURE, CAPTURE, CAPTURE)
    assert outcome.reward[0, 0] == 20.0
    assert not outcome.view.alive.any()


def test_corners_are_not_beside():
    _, view = stage([(0, 0), (2, 2)], [(1, 1)])
    assert not view.available_actions[0, :, CAPTURE].any()


def test_walls_and_others_block():
    env, view = stage([(0, 0), (0, 1), (2, 2)], [(3, 2)])
    assert view.available_actions[0, 0].tolist() == [True, False, True, False, True, False]
    outcome = step(env, RIGHT, DOWN, DOWN)  # the first moves before the second is out of the way
    assert env._board.predators[0].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert outcome.reward.tolist() == [[0.0, 0.0, 0.0]]


def test_prey_wander_to_free_cells_only():
    env, _ = stage([(0, 0), (4, 4)], [(2, 2), (2, 3)])
    wander_as(env, [RIGHT, UP])  # the first is blocked by the second, who then moves
    step(env, STAY, STAY)
    assert env._board.prey[0].tolist() == [[2, 2], [1, 3]]


def test_the_window_shows_what_is_there():
    env, view = stage([(0, 1), (1, 2)], [(1, 1)], view=3)
    predators, prey, walls, place = np.split(view.obs[0, 0], [9, 18, 27])
    assert predators.reshape(3, 3).tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert prey.reshape(3, 3).tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert walls.reshape(3, 3).tolist() == [[1, 1, 1], [0, 0, 0], [0, 0, 0]]
    assert place.tolist() == [0.0, 0.25]
    blocks = env.spec.blocks["predator_0"]
    assert blocks == {
        "predators": ((0, 9),),
        "prey": ((9, 18),),
        "walls": ((18, 27),),
        "own_position": ((27, 29),),
    }


def test_a_full_observation_is_a_window_that_shows_the_whole_board():
    env, view = stage([(0, 0), (2, 2)], [(2, 0)], size=3, view=3)
    assert not view.obs[0, 0, 9:18].any()  # the prey is out of sight
    full = env.full_observations()
    predators, prey, walls, place = np.split(full[0, 0], [25, 50, 75])
    assert np.argwhere(predators.reshape(5, 5)).tolist() == [[4, 4]]
    assert np.argwhere(prey.reshape(5, 5)).tolist() == [[4, 2]]
    assert walls.reshape(5, 5).tolist() == [[1] * 5] * 2 + [[1, 1, 0, 0, 0]] * 3
    assert place.tolist() == [0.0, 0.0]
    blocks = env.full.blocks["predator_1"]
    assert list(blocks) == list(env.spec.blocks["predator_1"])
    assert blocks["own_position"] == ((75, 77),)
    assert env.full.widths == (77, 77)


def test_full_observations_are_what_unlimited_sight_shows():
    board = {"size": 4, "n_predators": 3, "n_prey": 2, "episode_limit": 12}
    near, far = (predator_prey.load(view=view, **board) for view in (3, 7))
    assert far.full is None
    assert near.full is not None
    assert near.full.blocks == far.spec.blocks
    assert near.full.widths == far.spec.obs_widths
    seeds, rng = np.arange(6, dtype=np.uint64), np.random.default_rng(0)
    views = near.reset(seeds), far.reset(seeds)
    for _ in range(12):
        np.testing.assert_array_equal(near.full_observations(), views[1].obs)
        actions = rng.integers(0, 6, (6, 3))
        views = near.step(actions).view, far.step(actions).view


def test_the_window_is_the_middle_of_what_is_there_in_full():
    env = predator_prey.load(size=6, view=3, n_predators=3, n_prey=3)
    seen = env.reset(np.arange(4, dtype=np.uint64)).obs[..., :27].reshape(4, 3, 3, 3, 3)
    full = env.full_observations()[..., :-2].reshape(4, 3, 3, 11, 11)
    np.testing.assert_array_equal(full[..., 4:7, 4:7], seen)


def test_the_state_shows_the_board():
    env, view = stage([(0, 1), (4, 4)], [(1, 1)], episode_limit=10)
    predators, prey, clock = np.split(view.state[0], [25, 50])
    assert np.flatnonzero(predators).tolist() == [1, 24]
    assert np.flatnonzero(prey).tolist() == [6]
    assert clock.tolist() == [0.0]
    assert step(env, STAY, STAY).view.state[0, -1] == pytest.approx(0.1)


def test_the_limit_truncates():
    env, _ = stage([(0, 0), (4, 4)], [(2, 2)], episode_limit=2)
    assert not step(env, STAY, STAY).truncated[0]
    outcome = step(env, STAY, STAY)
    assert (outcome.truncated[0], outcome.terminated[0], outcome.won[0]) == (True, False, 0)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"view": 4}, "must be odd"),
        ({"size": 3}, "do not fit on 3 x 3"),
        ({"n_predators": 1}, "greater than or equal to 2"),
        ({"preys": 3}, "n_prey"),
    ],
)
def test_impossible_settings_are_refused(settings, what):
    with pytest.raises(UsageError, match=what):
        load("grid/predator_prey", **settings)


def test_an_action_that_does_not_exist_is_refused():
    env, _ = stage([(0, 0), (4, 4)], [(2, 2)])
    with pytest.raises(UsageError, match="action 6 of agent 'predator_1' does not exist"):
        step(env, STAY, 6)
    with pytest.raises(UsageError, match=r"expected \(1, 2\)"):
        step(env, STAY)
