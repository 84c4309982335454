import numpy as np
import pytest

from kd_offline import seeding
from kd_offline.environments import irreproducible, largest_batch, load
from kd_offline.environments.protocol import FullyObservable
from kd_offline.errors import MismatchError, UnknownNameError, UsageError
from kd_offline.students import masks
from kd_offline.testing.environments import ConformanceError, check_environment
from kd_offline.types import Outcome
from tests.standins.installations import playable

SEEDS = np.array([3, 1], np.uint64)
pytestmark = pytest.mark.usefixtures("installed")


@pytest.fixture(scope="module")
def marines(installed):
    """Two games of 3m; tests reset them."""
    world = load("smac/3m", games=2)
    yield world
    world.close()


def choose(view, seeds, step, prefer=None):
    """Draw legal actions, ``prefer`` first where it is legal."""
    score = seeding.uniforms(seeds, step, view.available_actions.shape[1:], "test")
    if prefer is not None:
        score[..., prefer] += 1
    return np.where(view.available_actions, score, -1).argmax(-1)


def play(world, seeds, prefer=None):
    """Play to the end; returns every view and outcome."""
    views = [world.reset(seeds)]
    outcomes: list[Outcome] = []
    while not outcomes or not (outcomes[-1].terminated | outcomes[-1].truncated).all():
        outcomes.append(world.step(choose(views[-1], seeds, len(outcomes), prefer)))
        views.append(outcomes[-1].view)
    return views, outcomes


def test_a_new_game_for_every_episode_keeps_the_whole_protocol():
    check_environment(lambda: load("smac/3m", new_game_each_episode=True), seeds=(3, 1))


def test_a_game_that_goes_on_keeps_the_protocol_but_for_the_seeds():
    """Everything that is checked before the first episode is asked for a second time."""
    with pytest.raises(ConformanceError, match="determinism: obs differs after a second reset"):
        check_environment(lambda: load("smac/2s3z"), seeds=(3, 1))


def test_the_spec_says_what_was_played(marines):
    spec = marines.spec
    assert (spec.id, spec.version) == ("smac/3m", "smac 1.0.0, StarCraft II build 75689")
    assert spec.agents == ("ally_0", "ally_1", "ally_2")
    assert (spec.obs_widths[0], spec.state_width, spec.action_count) == (30, 48, 9)
    assert spec.blocks["ally_1"]["enemies"] == ((4, 19),)
    assert (spec.kwargs["difficulty"], spec.kwargs["game_version"]) == ("7", "latest")
    assert "games" not in spec.kwargs
    again = load(spec.id, **spec.kwargs)
    assert again.spec == spec
    again.close()


def test_settings_reach_the_game():
    world = load("smac/3m", difficulty=3, game_version="4.6.2", obs_last_action=True)
    assert world.spec.version == "smac 1.0.0, StarCraft II 4.6.2"
    assert world.spec.kwargs["difficulty"] == "3"
    assert world.spec.obs_width == 30 + 2 * 9
    view = world.reset(SEEDS[:1])
    actions = choose(view, SEEDS[:1], 0)
    seen = world.step(actions).view.obs[0, 0]
    start, stop = world.spec.blocks["ally_0"]["allies"][0]
    last = seen[start:stop].reshape(2, 5 + 9)[:, 5:]
    assert last.argmax(-1).tolist() == actions[0, 1:].tolist()  # what the two allies did
    world.close()


def test_the_state_can_be_what_all_see():
    world = load("smac/3m", obs_instead_of_state=True)
    assert world.spec.state_is_obs
    view = world.reset(SEEDS[:1])
    np.testing.assert_array_equal(view.state, view.obs.reshape(1, -1))
    world.close()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"difficulty": "B"}, "'difficulty'"),
        ({"game_version": 4.1}, "'game_version'"),
        ({"sight": 3}, "unknown setting of smac/3m 'sight'"),
    ],
)
def test_wrong_settings_are_refused(setting, said):
    with pytest.raises(UsageError, match=said):
        load("smac/3m", **setting)


def test_the_limit_is_a_truncation(marines):
    """Nobody fights, so the clock ends it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STANDIN_PEACE", "1")
        world = load("smac/3m")
        views, outcomes = play(world, SEEDS[:1], prefer=1)
        world.close()
    last = outcomes[-1]
    assert len(outcomes) == 60
    assert (last.terminated[0], last.truncated[0], last.won[0]) == (False, True, 0)
    assert views[-1].alive.all()


def test_a_battle_that_is_won(marines):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STANDIN_PEACE", "1")
        world = load("smac/3m")
        view = world.reset(SEEDS[:1])
        outcomes: list[Outcome] = []
        while not outcomes or not outcomes[-1].terminated[0]:
            attack = view.available_actions[..., 6:].any(-1)
            target = 6 + view.available_actions[..., 6:].argmax(-1)
            outcomes.append(world.step(np.where(attack, target, 4)))  # else go east
            view = outcomes[-1].view
        world.close()
    assert outcomes[-1].won[0] == 1
    assert not any(outcome.won[0] for outcome in outcomes[:-1])
    # All damage, three kills and the victory, which SMAC scales to 20.
    assert sum(o.reward[0, 0] for o in outcomes) == pytest.approx(20, abs=1e-4)
    assert (outcomes[-1].reward[0] == outcomes[-1].reward[0, 0]).all()


def test_the_dead_see_nothing_and_do_nothing(marines):
    views, outcomes = play(marines, SEEDS)
    assert any((~view.alive).any() for view in views)
    for view in views:
        dead = ~view.alive
        assert not view.obs[dead].any()
        assert view.available_actions[dead].sum(-1).max(initial=1) == 1
        assert (view.available_actions[..., 0] == dead).all()
    assert outcomes[-1].terminated.all()
    assert (outcomes[-1].won == 0).all()


def test_actions_of_the_dead_are_ignored_and_illegal_ones_refused(marines):
    view = marines.reset(SEEDS)
    with pytest.raises(UsageError, match=r"action 0 of 'ally_1' is not legal now: choose among 1"):
        marines.step(np.array([[1, 0, 1], [1, 1, 1]]))
    with pytest.raises(UsageError, match="action 9 of 'ally_2' is not legal"):
        marines.step(np.array([[1, 1, 9], [1, 1, 1]]))
    with pytest.raises(UsageError, match=r"shape \(2, 2\), expected \(2, 3\)"):
        marines.step(np.ones((2, 2), np.int64))
    steps = 0
    while view.alive.all():
        view = marines.step(choose(view, SEEDS, steps)).view
        steps += 1
    actions = np.where(view.alive, choose(view, SEEDS, steps), 8)
    assert marines.step(actions).view.alive.sum() <= view.alive.sum()


def test_more_games_than_allowed_are_refused(marines):
    with pytest.raises(
        UsageError, match=r"3 games of smac/3m at once .* environment_kwargs=\{'games': 3\}"
    ):
        marines.reset(np.arange(3, dtype=np.uint64))
    assert largest_batch(marines, 500) == 2
    assert largest_batch(load("mpe/simple_spread_v3"), 500) == 500


def test_what_can_be_played_again_is_known_without_the_game(marines):
    assert "takes a seed for a whole game only" in (irreproducible(marines.spec) or "")
    kwargs = marines.spec.kwargs | {"new_game_each_episode": True}
    assert irreproducible(marines.spec.model_copy(update={"kwargs": kwargs})) is None
    assert irreproducible(load("mpe/simple_spread_v3").spec) is None


def test_paper_and_limited_masks_are_table_one(marines):
    def seen(name):
        mask = masks.resolve(name, marines.spec).static
        ranges = marines.spec.blocks["ally_0"].items()
        return ["".join(b[0] for b, ((i, _),) in ranges if row[i]) for row in mask]

    assert masks.names_for(marines.spec) == ["full", "limited", "paper", "random-k"]
    assert seen("paper") == ["me", "ma", "mao"]
    assert seen("full") == ["meao"] * 3
    assert set("".join(seen("limited"))) == set("meao")


def test_medivacs_heal_allies():
    world = load("smac/MMM")
    assert world.spec.agents[-1] == "ally_9"
    assert world.reset(SEEDS[:1]).available_actions[0, 9, 6:16].any()
    world.close()


def test_unknown_and_missing_maps():
    with pytest.raises(UnknownNameError, match="unknown SMAC map '4m'"):
        load("smac/4m")
    with pytest.raises(UsageError, match="has no map 8m in SMAC_Maps"):
        load("smac/8m")


FORK = """
from tests.standins.starcraft import StarCraft2Env as Original

class StarCraft2Env(Original):
    def get_env_info(self):
        return super().get_env_info() | {"obs_shape": [33, [3, 5]]}
"""


def test_a_fork_with_other_features_is_refused(tmp_path):
    said = r"obs_shape \[33, \[3, 5\]\] where the original has 30 \(move 4, enemies 15, allies 10"
    with playable(tmp_path, env=FORK), pytest.raises(MismatchError, match=said):
        load("smac/3m")


@pytest.mark.parametrize("settings", [{}, {"obs_last_action": True, "obs_pathing_grid": True}])
def test_full_observations_show_units_far_away_and_repeat_those_in_sight(settings):
    world = load("smac/3m", games=2, **settings)
    assert isinstance(world, FullyObservable)
    view, hidden = world.reset(SEEDS), 0
    for step in range(6):
        full = world.full_observations()
        for name, units in (("enemies", 3), ("allies", 2)):
            start, stop = world.spec.blocks["ally_0"][name][0]
            seen, shown = (
                values[..., start:stop].reshape(2, 3, units, -1) for values in (view.obs, full)
            )
            visible = seen.any(-1)
            np.testing.assert_array_equal(shown[visible], seen[visible])
            hidden += int((shown.any(-1) & ~visible).sum())
        np.testing.assert_array_equal(full[..., stop:], view.obs[..., stop:])
        np.testing.assert_array_equal(full[..., :4], view.obs[..., :4])
        dead = ~view.alive
        assert not full[dead].any()
        view = world.step(choose(view, SEEDS, step)).view
    assert hidden > 0
    world.close()
