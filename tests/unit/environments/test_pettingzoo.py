"""The adapter on real third-party environments and on a small one whose agents leave."""

import importlib
import sys
import warnings
from typing import Any

import numpy as np
import pytest

from kd_offline.environments import load
from kd_offline.errors import MissingExtraError, UnknownNameError, UsageError

LEAVERS = "pettingzoo/tests.unit.environments.leavers"
SEEDS = np.array([5, 6], np.uint64)


@pytest.mark.parametrize(
    ("module", "kwargs"),
    [
        ("mpe2.simple_reference_v3", {}),
        ("mpe2.simple_tag_v3", {"num_adversaries": 2}),
        ("pettingzoo.sisl.pursuit_v5", {"max_cycles": 4, "n_pursuers": 3}),
    ],
)
def test_an_episode_equals_the_library_played_by_hand(module: str, kwargs: Any) -> None:
    env = load(f"pettingzoo/{module}:parallel_env", **kwargs)
    direct = _native(module, kwargs)
    view = env.reset(SEEDS)
    seen, _ = direct.reset(seed=int(SEEDS[1]))
    rng, spec = np.random.default_rng(0), env.spec
    while True:
        for i, agent in enumerate(spec.agents):
            flat = np.asarray(seen[agent], np.float32).ravel()
            np.testing.assert_array_equal(view.obs[1, i, : spec.obs_widths[i]], flat)
        actions = rng.integers(0, np.array(spec.action_counts), (2, spec.n_agents))
        outcome = env.step(actions)
        view = outcome.view
        seen, reward, _, truncated, _ = direct.step(
            dict(zip(spec.agents, actions[1].tolist(), strict=True))
        )
        expected = np.array([reward[agent] for agent in spec.agents], np.float32)
        np.testing.assert_array_equal(outcome.reward[1], expected)
        if any(truncated.values()):
            break
    assert outcome.truncated.all()
    assert view.alive.all()
    env.close()


def _native(module: str, kwargs: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return importlib.import_module(module).parallel_env(**kwargs)


@pytest.mark.parametrize(
    "name", ["simple_spread_v3", "simple_speaker_listener_v4", "simple_adversary_v3"]
)
def test_the_same_policy_gets_the_same_returns_as_in_the_batched_code(name: str) -> None:
    """A policy that reads its observations, so that any difference would change its actions."""
    ours, theirs = load(f"mpe/{name}"), load(f"pettingzoo/mpe2.{name}:parallel_env")
    seeds = np.arange(6, dtype=np.uint64) * 1234567
    returns = [_returns(env, seeds) for env in (ours, theirs)]
    np.testing.assert_array_equal(*returns)
    assert np.ptp(returns[0]) > 1


def _returns(env: Any, seeds: Any) -> Any:
    weights = np.random.default_rng(3).normal(size=(env.spec.obs_width, env.spec.action_count))
    view, total = env.reset(seeds), 0.0
    for _ in range(env.spec.episode_limit):
        logits = np.where(view.available_actions, view.obs @ weights, -np.inf)
        outcome = env.step(logits.argmax(-1))
        view, total = outcome.view, total + outcome.reward
    assert outcome.truncated.all()
    return total


def test_widths_counts_limit_and_sides_of_tag() -> None:
    spec = load("pettingzoo/mpe2.simple_tag_v3:parallel_env").spec
    assert spec.obs_widths == (16, 16, 16, 14)
    assert spec.action_counts == (5, 5, 5, 5)
    assert spec.episode_limit == 25
    assert {side: len(agents) for side, agents in spec.sides.items()} == {
        "adversary": 3,
        "agent": 1,
    }
    assert spec.blocks["agent_0"] == {"observation": ((0, 14),)}
    assert load(spec.id, **spec.kwargs).spec == spec


def test_our_limit_cuts_a_longer_episode() -> None:
    env = load("pettingzoo/mpe2.simple_tag_v3:parallel_env", episode_limit=2)
    env.reset(SEEDS)
    actions = np.zeros((2, 4), np.int64)
    assert not env.step(actions).truncated.any()
    outcome = env.step(actions)
    assert outcome.truncated.all()
    assert outcome.view.alive.all()


def test_a_version_that_the_library_dropped_gives_its_successor_by_its_own_name() -> None:
    spec = load("pettingzoo/pettingzoo.sisl.pursuit_v4:parallel_env", max_cycles=3).spec
    assert spec.id == "pettingzoo/pettingzoo.sisl.pursuit_v5:parallel_env"


def test_dict_observations_become_blocks_without_the_mask() -> None:
    spec = load(f"{LEAVERS}:Leavers").spec
    assert spec.obs_widths == (4, 5, 6)
    assert spec.blocks["runner_1"] == {"distance": ((0, 2),), "phase": ((2, 5),)}
    assert spec.sides == {"runner": ("runner_0", "runner_1"), "guide": ("guide_0",)}


@pytest.mark.parametrize("masks_in_infos", [False, True])
def test_agents_leave_one_by_one_and_the_last_ends_the_episode(masks_in_infos: bool) -> None:
    env = load(f"{LEAVERS}:Leavers", masks_in_infos=masks_in_infos)
    view, alive, rewards = env.reset(SEEDS[:1]), [], []
    for _ in range(20):
        outcome = env.step(view.available_actions[..., 1].astype(np.int64))
        view = outcome.view
        alive.append(view.alive[0].tolist())
        rewards.append(outcome.reward[0].tolist())
        gone = ~view.alive
        assert not view.obs[gone].any()
        assert not view.available_actions[gone].any()
        if outcome.terminated[0]:
            break
    assert [True, True, True] in alive
    assert [False, True, True] in alive
    assert [False, False, True] in alive
    assert outcome.terminated[0]
    assert not outcome.truncated[0]
    assert rewards[-1] == [0.0, 0.0, 0.0]


def test_the_phase_decides_what_is_legal() -> None:
    env = load(f"{LEAVERS}:Leavers")
    view = env.reset(np.arange(12, dtype=np.uint64))
    tired = view.obs[:, 0, 3] == 1
    np.testing.assert_array_equal(view.available_actions[:, 0, 1], ~tired)
    assert 0 < tired.sum() < 12


def test_time_running_out_truncates_and_shows_the_last_observation() -> None:
    env = load(f"{LEAVERS}:Leavers", max_cycles=3)
    env.reset(SEEDS)
    for _ in range(3):
        outcome = env.step(np.zeros((2, 3), np.int64))
    assert outcome.truncated.all()
    assert not outcome.terminated.any()
    assert outcome.view.alive.all()
    assert outcome.view.obs.any()


@pytest.mark.parametrize(
    ("name", "kwargs", "error", "text"),
    [
        ("pettingzoo/mpe2.simple_tag_v3", {}, UsageError, "<module>:<factory>"),
        ("pettingzoo/nowhere.at_all:env", {}, UsageError, "no module 'nowhere'"),
        ("pettingzoo/mpe2.nothing_v1:env", {}, UsageError, "no module 'mpe2.nothing_v1'"),
        ("pettingzoo/mpe2.simple_tag_v3:nope", {}, UnknownNameError, "parallel_env"),
        (f"{LEAVERS}:simulator", {}, UsageError, "not a ParallelEnv"),
        (
            "pettingzoo/mpe2.simple_tag_v3:parallel_env",
            {"continuous_actions": True},
            UsageError,
            "only Discrete",
        ),
        ("pettingzoo/mpe2.simple_tag_v3:parallel_env", {"x": 1}, UsageError, "refuses"),
        ("pettingzoo/mpe2.simple_tag_v3:parallel_env", {"x": [1]}, UsageError, "recorded"),
        (
            "pettingzoo/mpe2.simple_tag_v3:parallel_env",
            {"episode_limit": 0},
            UsageError,
            "1 to 1,000,000",
        ),
        (f"{LEAVERS}:Timeless", {}, UsageError, "pass environment_kwargs={'episode_limit': 25}"),
        (f"{LEAVERS}:Endless", {}, UsageError, "no fixed flat width"),
        (f"{LEAVERS}:anonymous", {}, UsageError, "no possible_agents"),
    ],
)
def test_what_cannot_be_used_is_refused(
    name: str, kwargs: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        load(name, **kwargs)


def test_a_limit_of_ours_helps_where_the_environment_has_none() -> None:
    assert load(f"{LEAVERS}:Timeless", episode_limit=9).spec.episode_limit == 9


@pytest.mark.parametrize("library", ["pettingzoo", "gymnasium", "mpe2"])
def test_a_missing_library_names_the_extra(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] == library:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_Absent(library), *sys.meta_path])
    with pytest.raises(MissingExtraError, match=r"kd-offline\[pettingzoo\]"):
        load("pettingzoo/mpe2.simple_tag_v3:parallel_env")


class _Absent:
    """An import finder that behaves as if ``library`` were not installed."""

    def __init__(self, library: str) -> None:
        self.library = library

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] == self.library:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_impossible_actions_are_refused() -> None:
    env = load(f"{LEAVERS}:Leavers")
    env.reset(SEEDS)
    with pytest.raises(UsageError, match="action 2 of agent 'guide_0'"):
        env.step(np.array([[0, 0, 2], [0, 0, 0]]))
    with pytest.raises(UsageError, match="shape"):
        env.step(np.array([0, 0, 2]))
