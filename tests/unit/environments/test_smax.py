"""SMAX against JaxMARL itself, stepped directly, and the rules that are ours."""

import itertools
import subprocess
import sys

import jax
import numpy as np
import pytest

from kd_offline import environments
from kd_offline.environments.smax.environment import Smax, chunks, keys_of, make_game
from kd_offline.environments.smax.settings import SmaxSettings
from kd_offline.environments.stepping import full_spec
from kd_offline.errors import MissingExtraError, UnknownNameError, UsageError
from kd_offline.seeding import uniforms
from kd_offline.testing.environments import check_environment
from kd_offline.types import IntArray, Outcome, SeedArray, View

SEEDS = np.array([11, 2**40 + 3, 5], np.uint64)


@pytest.fixture(scope="module")
def game() -> Smax:
    return Smax("3m", SmaxSettings())


def legal_actions(seeds: SeedArray, step: int, view: View) -> IntArray:
    draws = uniforms(seeds, step, view.available_actions.shape[1:], "test")
    actions: IntArray = np.where(view.available_actions, draws, -1.0).argmax(-1)
    return actions


def play(world: Smax, seeds: SeedArray) -> list[Outcome]:
    """Play random legal actions to the end of the longest episode."""
    view, outcomes = world.reset(seeds), []
    for step in range(world.spec.episode_limit):
        outcomes.append(world.step(legal_actions(seeds, step, view)))
        view = outcomes[-1].view
        if (outcomes[-1].terminated | outcomes[-1].truncated).all():
            break
    return outcomes


def test_an_episode_is_jaxmarls_own(game: Smax) -> None:
    seed, library = SEEDS[1:2], make_game("3m", SmaxSettings())
    key = jax.random.wrap_key_data(keys_of(seed)[0], impl="threefry2x32")
    fold, step_env = jax.jit(jax.random.fold_in), jax.jit(library.step_env)
    obs, state = library.reset(fold(key, 0))
    view, agents = game.reset(seed), list(game.spec.agents)
    for step in range(game.spec.episode_limit):
        legal = library.get_avail_actions(state)
        for i, agent in enumerate(agents):
            np.testing.assert_allclose(view.obs[0, i], obs[agent], atol=1e-5)
            if view.alive[0, i]:
                np.testing.assert_array_equal(view.available_actions[0, i], legal[agent])
        np.testing.assert_allclose(view.state[0], obs["world_state"], atol=1e-5)
        actions = legal_actions(seed, step, view)
        chosen = {a: np.int32(x) for a, x in zip(agents, actions[0], strict=True)}
        # An agent that is dead does nothing, whatever is asked of it.
        chosen |= {a: np.int32(4) for i, a in enumerate(agents) if not view.alive[0, i]}
        obs, state, reward, done, _ = step_env(fold(key, step + 1), state, chosen)
        outcome = game.step(actions)
        view = outcome.view
        np.testing.assert_allclose(outcome.reward[0], [reward[a] for a in agents], atol=1e-5)
        np.testing.assert_array_equal(view.alive[0], [not done[a] for a in agents])
        assert (outcome.terminated | outcome.truncated)[0] == done["__all__"]
        if done["__all__"]:
            break
    assert step > 5
    assert outcome.terminated[0]


def test_an_episode_has_the_same_bits_in_every_batch_and_slot(game: Smax) -> None:
    seeds = np.arange(40, dtype=np.uint64) * 977 + 5  # more than a chunk
    whole = play(game, seeds)
    for rows in ([17], [39, 3, 0, 20, 8, 1, 33]):
        for outcome, reference in zip(play(game, seeds[rows]), whole, strict=False):
            for name in ("obs", "state", "available_actions", "alive"):
                expected = getattr(reference.view, name)[rows]
                np.testing.assert_array_equal(getattr(outcome.view, name), expected)
            np.testing.assert_array_equal(outcome.reward, reference.reward[rows])


def test_moves_have_the_directions_of_their_names(game: Smax) -> None:
    own = game.spec.blocks["ally_0"]["own"][0][0]
    before = game.reset(np.repeat(SEEDS[:1], 5)).obs[:, 0, own + 1 : own + 3]
    moves = np.repeat(np.arange(5)[:, None], 3, 1)  # all alike, so that nobody is in the way
    after = game.step(moves).view.obs[:, 0, own + 1 : own + 3]
    directions = np.array([[0, 1], [1, 0], [0, -1], [-1, 0], [0, 0]])
    names = ("north", "east", "south", "west", "stop")
    assert game.spec.action_names[0][:5] == names
    # 3.15 a second for half a second, on a map of 32
    np.testing.assert_allclose(after - before, directions * 3.15 / 2 / 32, atol=1e-6)


def test_battles_are_won_by_firing_together(game: Smax) -> None:
    """All fire at the lowest enemy in range, else wait: that wins some battles and loses others."""
    seeds = np.arange(64, dtype=np.uint64)
    view = game.reset(seeds)
    for _ in range(game.spec.episode_limit):
        attacks = view.available_actions[..., 5:]
        actions = np.where(attacks.any(-1), attacks.argmax(-1) + 5, 4)
        outcome = game.step(actions)
        view = outcome.view
    ended = outcome.terminated
    assert ended.all()
    assert not outcome.truncated.any()
    assert 0 < outcome.won.sum() < 64
    alive = view.alive.any(-1)
    np.testing.assert_array_equal(alive[outcome.won == 1], True)
    lost = (outcome.won == 0) & ~alive
    np.testing.assert_array_equal(ended & (outcome.won == 0), lost)


def test_a_win_pays_all_damage_and_the_bonus(game: Smax) -> None:
    seeds = np.arange(64, dtype=np.uint64)
    view, total = game.reset(seeds), np.zeros((64, 3))
    for _ in range(game.spec.episode_limit):
        attacks = view.available_actions[..., 5:]
        outcome = game.step(np.where(attacks.any(-1), attacks.argmax(-1) + 5, 4))
        view, total = outcome.view, total + outcome.reward
    np.testing.assert_allclose(total[outcome.won == 1], 2.0, atol=1e-5)
    assert (total[outcome.won == 0] < 1 + 1e-5).all()


def test_the_blocks_are_the_units(game: Smax) -> None:
    view = game.reset(SEEDS)
    own, enemies = game.spec.blocks["ally_1"]["own"][0], game.spec.blocks["ally_1"]["enemies"][0]
    assert (view.obs[:, 1, own[0]] == 1).all()  # full health
    # Nobody sees an enemy at first: they start half a map away.
    assert not view.obs[:, 1, enemies[0] : enemies[1]].any()
    allies = view.obs[:, 1, slice(*game.spec.blocks["ally_1"]["allies"][0])].reshape(3, 2, 13)
    where = view.obs[:, :, own[0] + 1 : own[0] + 3] * 32
    distance = (where[:, [0, 2]] - where[:, [1]]) / 9.0  # in sight ranges
    np.testing.assert_allclose(allies[..., 1:3], distance, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "widths", "state"),
    [
        ("3m", (26, 39, 10), 72),
        ("8m", (91, 104, 10), 192),
        ("3s5z", (91, 104, 10), 192),
        ("5m_vs_6m", (52, 78, 10), 132),
        ("3s_vs_5z", (26, 65, 10), 96),
        ("3s5z_vs_3s6z", (91, 117, 10), 204),
        ("smacv2_5_units", (52, 65, 10), 120),
    ],
)
def test_layouts(name: str, widths: tuple[int, ...], state: int) -> None:
    spec = environments.load(f"smax/{name}").spec
    blocks = spec.blocks[spec.agents[-1]]
    assert [b - a for ((a, b),) in blocks.values()] == list(widths)
    assert list(blocks) == ["allies", "enemies", "own"]
    assert spec.state_width == state
    assert spec.action_count == 5 + widths[1] // 13


def test_it_keeps_the_protocol(game: Smax) -> None:
    check_environment(lambda: game)


def test_a_peaceful_enemy_leads_to_the_time_limit() -> None:
    world = environments.load("smax/3m", enemy_shoots=False, episode_limit=9)
    check_environment(lambda: world)
    world.reset(SEEDS)
    for step in range(9):
        outcome = world.step(np.full((3, 3), 4))
        assert outcome.truncated.tolist() == [step == 8] * 3
    assert not outcome.terminated.any()
    assert not outcome.won.any()


def test_an_action_that_does_not_exist_is_refused(game: Smax) -> None:
    game.reset(SEEDS)
    with pytest.raises(UsageError, match="action 8 of agent 'ally_1' does not exist"):
        game.step(np.array([[4, 4, 4], [4, 8, 4], [4, 4, 4]]))
    with pytest.raises(UsageError, match=r"expected \(3, 3\)"):
        game.step(np.zeros((3, 2), np.int64))


def test_chunks_cover_what_runs_and_are_full() -> None:
    where = np.array([True, False, True, True])
    parts = chunks(where, 2)
    assert [rows.tolist() for rows, _ in parts] == [[0, 2], [3]]
    assert [filled.tolist() for _, filled in parts] == [[0, 2], [3, 3]]


def test_keys_are_those_of_jax() -> None:
    np.testing.assert_array_equal(keys_of(SEEDS), [[0, 11], [256, 3], [0, 5]])
    expected = jax.random.key_data(jax.random.key(11, impl="threefry2x32"))
    np.testing.assert_array_equal(keys_of(SEEDS)[0], expected)


def test_a_wrong_name_or_setting_says_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match=r"3m, 2s3z, .*did you mean '8m'"):
        environments.load("smax/8n")
    with pytest.raises(UnknownNameError, match="setting of smax/3m 'shields': allowed are see"):
        environments.load("smax/3m", shields=True)
    with pytest.raises(UsageError, match="setting 'attack_mode' of smax/3m is 'none'"):
        environments.load("smax/3m", attack_mode="none")
    monkeypatch.setitem(sys.modules, "jaxmarl", None)
    with pytest.raises(MissingExtraError, match=r"smax/3m.*pip install 'kd-offline\[smax\]'"):
        environments.load("smax/3m")


def test_loading_prints_nothing_and_leaves_the_streams_alone() -> None:
    code = (
        "import io, sys; sys.stdout = sys.stderr = kept = io.StringIO()\n"
        "from kd_offline.environments import load; load('smax/3m')\n"
        "import jax; place = jax.config.jax_compilation_cache_dir\n"
        "ours = sys.stdout is kept and sys.stderr is kept\n"
        "sys.stdout = sys.__stdout__; print([ours, kept.getvalue(), place])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    ours, printed, place = eval(done.stdout)
    assert (ours, printed) == (True, "")
    assert place.endswith("jax")


def test_full_observations_show_units_far_away_and_repeat_those_in_sight(game: Smax) -> None:
    full_spec(game)
    view, hidden = game.reset(SEEDS), 0
    for step in range(12):
        full, others = game.full_observations(), view.obs[..., :-10].reshape(3, 3, 5, 13)
        shown = full[..., :-10].reshape(3, 3, 5, 13)
        seen = others.any(-1)
        np.testing.assert_array_equal(shown[seen], others[seen])
        np.testing.assert_array_equal(full[..., -10:], view.obs[..., -10:])
        hidden += int((shown.any(-1) & ~seen).sum())
        state = view.state[:, : 6 * 10].reshape(3, 6, 10)  # health, place, ...
        health, place = state[..., 0], state[..., 1:3]
        for agent, unit in itertools.product(range(3), range(5)):
            other = unit + (unit >= agent)
            alive = view.alive[:, agent] & (health[:, other] > 0)
            assert (shown[:, agent, unit].any(-1) == alive).all()
            gap = (place[:, other] - place[:, agent]) * alive[:, None]
            np.testing.assert_allclose(shown[:, agent, unit, 1:3] * 9.0, gap, atol=1e-4)
        view = game.step(legal_actions(SEEDS, step, view)).view
    assert hidden > 20


def test_full_observations_have_the_same_bits_in_every_batch(game: Smax) -> None:
    seeds = np.arange(40, dtype=np.uint64) * 977 + 5  # more than a chunk
    game.reset(seeds)
    whole = game.full_observations()
    game.reset(seeds[[39, 3]])
    np.testing.assert_array_equal(game.full_observations(), whole[[39, 3]])
