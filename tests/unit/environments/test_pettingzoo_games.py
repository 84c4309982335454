"""Every family of PettingZoo that is installed, against a loop of its own written here.

The loops follow PettingZoo's documentation and share nothing with the adapter.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np
import pytest

from kd_offline.environments import load

SEEDS = range(3, 9)


def _module(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return importlib.import_module(name)


def _together(module: str, settings: dict[str, Any], seed: int) -> Any:
    """Play random actions in a ParallelEnv and return what happened, step by step."""
    env = _module(module).parallel_env(**settings)
    env.reset(seed=seed)
    rng, running, told = np.random.default_rng(seed), list(env.agents), []
    while True:
        draws = rng.integers(0, 1 << 30, len(env.possible_agents))
        numbers = dict(zip(env.possible_agents, draws.tolist(), strict=True))
        actions = {a: numbers[a] % int(env.action_space(a).n) for a in env.agents}
        _, rewards, dead, late, _ = env.step(actions)
        sums = [float(rewards.get(a, 0)) for a in env.possible_agents]
        cut = any(late[a] and not dead[a] for a in running)
        running = [a for a in running if a in env.agents and not (dead[a] or late[a])]
        told.append((sums, running, bool(running), cut if not running else False))
        if not running:
            env.close()
            return told


def _adapted(name: str, settings: dict[str, Any], seed: int) -> Any:
    """Play the same random actions through the adapter."""
    env = load(f"pettingzoo/{name}", **settings)
    env.reset(np.array([seed], np.uint64))
    rng, told, counts = np.random.default_rng(seed), [], np.array(env.spec.action_counts)
    while True:
        draws = rng.integers(0, 1 << 30, env.spec.n_agents)
        outcome = env.step((draws % counts)[None])
        ended = bool(outcome.terminated[0] | outcome.truncated[0])
        alive = [a for a, on in zip(env.spec.agents, outcome.view.alive[0], strict=True) if on]
        cut = bool(outcome.truncated[0])
        told.append((outcome.reward[0].tolist(), [] if ended else alive, not ended, cut))
        if ended:
            assert outcome.terminated[0] != outcome.truncated[0]
            env.close()
            return told


@pytest.mark.parametrize(
    ("module", "settings"),
    [
        ("mpe2.simple_v3", {}),
        ("mpe2.simple_crypto_v3", {}),
        ("mpe2.simple_push_v3", {}),
        ("mpe2.simple_reference_v3", {"max_cycles": 7}),
        ("mpe2.simple_tag_v3", {}),
        ("mpe2.simple_world_comm_v3", {"max_cycles": 9}),
        ("pettingzoo.sisl.pursuit_v5", {"max_cycles": 12, "n_pursuers": 3}),
        ("pettingzoo.butterfly.knights_archers_zombies_v11", {"max_cycles": 400}),
        (
            "pettingzoo.butterfly.cooperative_pong_v6",
            {"max_cycles": 15, "render_mode": "rgb_array"},
        ),
        ("pettingzoo.classic.rps_v2", {"num_actions": 5, "max_cycles": 8}),
    ],
)
def test_ends_rewards_and_lives_are_those_of_a_loop_by_the_book(
    module: str, settings: dict[str, Any]
) -> None:
    for seed in list(SEEDS)[: 2 if "butterfly" in module else 6]:
        told = _together(module, settings, seed)
        mine = _adapted(f"{module}:parallel_env", settings, seed)
        assert [t[1:] for t in mine] == [t[1:] for t in told]
        np.testing.assert_allclose([t[0] for t in mine], [t[0] for t in told], rtol=1e-6)


def _in_turn(module: str, factory: str, settings: dict[str, Any], seed: int) -> Any:
    """Play random legal moves by PettingZoo's AEC loop: who moved, what was seen, who got what."""
    env = getattr(_module(module), factory)(**settings)
    env.reset(seed=seed)
    rng, moves, total = np.random.default_rng(seed), [], dict.fromkeys(env.possible_agents, 0.0)
    for agent in env.agent_iter():
        observation, reward, dead, late, _ = env.last()
        total[agent] += reward
        if dead or late:
            env.step(None)
            continue
        masked = isinstance(observation, dict)
        mask = observation["action_mask"] if masked else np.ones(env.action_space(agent).n)
        legal = np.flatnonzero(mask)
        action = int(rng.choice(legal))
        seen = np.asarray(observation["observation"] if masked else observation, np.float32).ravel()
        moves.append((agent, seen, legal, action))
        env.step(action)
    env.close()
    return moves, list(total.values())


@pytest.mark.parametrize(
    ("module", "factory", "settings"),
    [
        ("pettingzoo.classic.tictactoe_v3", "env", {}),
        ("pettingzoo.classic.connect_four_v3", "env", {}),
        ("pettingzoo.classic.go_v5", "env", {"board_size": 5}),
        ("tests.unit.environments.turns", "Auction", {}),
    ],
)
def test_a_game_of_turns_is_one_by_the_book(
    module: str, factory: str, settings: dict[str, Any]
) -> None:
    env = load(f"pettingzoo/{module}:{factory}", episode_limit=200, **settings)
    players = env.spec.n_agents
    for seed in SEEDS:
        moves, total = _in_turn(module, factory, settings, seed)
        view = env.reset(np.array([seed], np.uint64))
        rng, returns = np.random.default_rng(seed), np.zeros(players)
        for number, (agent, seen, legal, action) in enumerate(moves):
            player = env.spec.agents.index(agent)
            assert np.flatnonzero(view.alive[0]).tolist() == [player]
            np.testing.assert_array_equal(view.obs[0, player], seen)
            np.testing.assert_array_equal(np.flatnonzero(view.available_actions[0, player]), legal)
            assert view.available_actions[0].any(-1).sum() == 1
            actions = np.zeros((1, players), np.int64)
            actions[0, player] = rng.choice(legal)
            assert actions[0, player] == action
            outcome = env.step(actions)
            view, returns = outcome.view, returns + outcome.reward[0]
            assert bool(outcome.terminated[0]) == (number == len(moves) - 1)
            assert not outcome.truncated[0]
        assert returns.tolist() == total
    env.close()


def test_the_player_who_waits_sees_the_board() -> None:
    env = load("pettingzoo/pettingzoo.classic.tictactoe_v3:env", episode_limit=9)
    env.reset(np.array([1], np.uint64))
    view = env.step(np.array([[4, 0]])).view
    np.testing.assert_array_equal(view.obs[0, 0].reshape(9, 2)[4], [1, 0])
    np.testing.assert_array_equal(view.obs[0, 1].reshape(9, 2)[4], [0, 1])
    assert view.alive.tolist() == [[False, True]]
    view = env.step(np.array([[4, 0]])).view  # what player 1 sends while it waits is nothing
    np.testing.assert_array_equal(view.obs[0, 1].reshape(9, 2)[[0, 4]], [[1, 0], [0, 1]])


def test_a_limit_of_ours_truncates_a_game() -> None:
    env = load("pettingzoo/pettingzoo.classic.tictactoe_v3:env", episode_limit=2)
    env.reset(np.array([1], np.uint64))
    assert not env.step(np.array([[0, 0]])).truncated[0]
    outcome = env.step(np.array([[0, 1]]))
    assert outcome.truncated[0]
    assert outcome.view.alive.tolist() == [[True, False]]


def test_an_aec_environment_whose_agents_act_at_once_is_its_parallel_form() -> None:
    played = [
        _adapted(f"mpe2.simple_tag_v3:{factory}", {}, 5) for factory in ("env", "parallel_env")
    ]
    assert played[0] == played[1]


def test_an_illegal_move_of_a_policy_ends_the_game_as_the_game_says() -> None:
    env = load("pettingzoo/pettingzoo.classic.tictactoe_v3:env", episode_limit=9)
    env.reset(np.array([1], np.uint64))
    env.step(np.array([[4, 0]]))
    outcome = env.step(np.array([[0, 4]]))
    assert outcome.terminated[0]
    assert outcome.reward[0].tolist() == [0.0, -1.0]
