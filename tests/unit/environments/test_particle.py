"""The batched particle tasks against the installed mpe2, step for step."""

from typing import Any, NamedTuple

import numpy as np
import pytest

from kd_offline.environments import load
from kd_offline.environments.particle.environment import ParticleEnvironment
from kd_offline.environments.stepping import full_spec
from kd_offline.errors import MismatchError, UnknownNameError, UsageError
from tests.unit.environments.oracle import Oracle, place

STEPS = 25


class Case(NamedTuple):
    name: str
    module: str
    ours: dict[str, Any]
    theirs: dict[str, Any]


CASES = [
    Case("mpe/simple_spread_v3", "simple_spread_v3", {}, {}),
    Case(
        "mpe/simple_spread_v3",
        "simple_spread_v3",
        {"n_agents": 5, "local_ratio": 0.8},
        {"N": 5, "local_ratio": 0.8},
    ),
    Case("mpe/simple_spread_v3", "simple_spread_v3", {"n_agents": 1}, {"N": 1}),
    Case("mpe/simple_speaker_listener_v4", "simple_speaker_listener_v4", {}, {}),
    Case("mpe/simple_adversary_v3", "simple_adversary_v3", {}, {}),
    Case("mpe/simple_adversary_v3", "simple_adversary_v3", {"n_good_agents": 4}, {"N": 4}),
]
IDS = [f"{case.module}-{'-'.join(map(str, case.theirs.values()))}" for case in CASES]


def make(case: Case, dtype: str = "float64") -> ParticleEnvironment:
    env = load(case.name, dtype=dtype, **case.ours)
    assert isinstance(env, ParticleEnvironment)
    return env


def random_states(env: ParticleEnvironment, batch: int, seed: int) -> tuple[Any, Any, Any]:
    """Random places and velocities; in every second world all agents stand in one heap."""
    rng, layout = np.random.default_rng(seed), env._scenario.layout
    position = rng.uniform(-1.2, 1.2, (batch, layout.n_agents + layout.n_landmarks, 2))
    heap = rng.uniform(-1, 1, (batch, 1, 2)) + rng.normal(0, 0.12, (batch, layout.n_agents, 2))
    position[::2, : layout.n_agents] = heap[::2]
    velocity = rng.normal(0, 0.5, (batch, layout.n_agents, 2))
    if env.spec.agents[0] == "speaker_0":
        velocity[:, 0] = 0.0
    return position, velocity, rng.integers(max(1, layout.n_goals), size=batch)


def random_actions(env: ParticleEnvironment, batch: int, seed: int) -> Any:
    counts = np.array(env.spec.action_counts)
    return np.random.default_rng(seed).integers(0, counts, (STEPS, batch, len(counts)))


def observation_gap(env: ParticleEnvironment, row: int, oracle: Oracle) -> float:
    ours = env.exact_observation()[row]
    widths = env.spec.obs_widths
    return max(
        float(np.abs(ours[i, :width] - seen).max())
        for i, (width, seen) in enumerate(zip(widths, oracle.observe(), strict=True))
    )


def episode_gap(case: Case, batch: int, seed: int, disturbance: float = 0.0) -> tuple[float, int]:
    """Return the largest difference over whole episodes and the number of collisions seen."""
    env, oracle = make(case), Oracle(case.module, **case.theirs)
    position, velocity, goals = random_states(env, batch, seed)
    actions = random_actions(env, batch, seed)
    place(env, position + disturbance, velocity, goals)
    outcomes, exact, rewards, touching = [], [env.exact_observation()], [], 0
    for step in range(STEPS):
        outcomes.append(env.step(actions[step]))
        exact.append(env.exact_observation())
        rewards.append(env.exact_reward)
        touching += int(env._world.collisions().sum())
    worst = 0.0
    for row in range(batch):
        oracle.place(position[row], velocity[row], int(goals[row]))
        for step in range(STEPS + 1):
            for i, seen in enumerate(oracle.observe()):
                gap = np.abs(exact[step][row, i, : len(seen)] - seen)
                worst = max(worst, float(gap.max()))
            if step == STEPS:
                break
            reward, terminated, truncated = oracle.step(actions[step, row])
            worst = max(worst, float(np.abs(rewards[step][row] - reward).max()))
            assert set(terminated) == {bool(outcomes[step].terminated[row])}
            assert set(truncated) == {bool(outcomes[step].truncated[row])}
    return worst, touching


@pytest.mark.parametrize("case", CASES, ids=IDS)
@pytest.mark.parametrize("batch", [1, 64])
def test_equals_mpe2_over_whole_episodes_in_float64(case: Case, batch: int) -> None:
    worst, touching = episode_gap(case, batch, seed=batch)
    assert worst <= 1e-9
    if case.ours.get("n_agents", 3) > 1 and batch > 1 and "spread" in case.module:
        assert touching > 200


def test_a_disturbance_of_a_millionth_is_seen() -> None:
    assert episode_gap(CASES[0], 4, seed=0, disturbance=1e-6)[0] > 1e-7


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_every_step_equals_mpe2_in_float32(case: Case) -> None:
    """Each step starts from a copied state, so that rounding does not grow over an episode."""
    env, oracle = make(case, "float32"), Oracle(case.module, **case.theirs)
    batch = 300
    position, velocity, goals = random_states(env, batch, seed=5)
    position, velocity = position.astype(np.float32), velocity.astype(np.float32)
    actions = random_actions(env, batch, seed=5)[0]
    place(env, position, velocity, goals)
    outcome = env.step(actions)
    for row in range(batch):
        oracle.place(position[row], velocity[row], int(goals[row]))
        reward, _, _ = oracle.step(actions[row])
        assert observation_gap(env, row, oracle) <= 1e-5
        np.testing.assert_allclose(outcome.reward[row], reward, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_seed_starts_the_same_episode_as_in_mpe2(case: Case) -> None:
    env, oracle = make(case), Oracle(case.module, **case.theirs)
    seeds = np.array([0, 1, 77, 2**31 - 1, 2**40 + 3, 2**63], np.uint64)
    env.reset(seeds)
    for row, seed in enumerate(seeds.tolist()):
        oracle.reset(seed)
        assert observation_gap(env, row, oracle) == 0.0


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_views_are_float32_and_equal_the_rounded_observation_of_mpe2(case: Case) -> None:
    env, oracle = make(case), Oracle(case.module, **case.theirs)
    view = env.reset(np.array([9], np.uint64))
    oracle.reset(9)
    for actions in random_actions(env, 1, seed=3):
        view = env.step(actions).view
        oracle.step(actions[0])
    assert view.obs.dtype == view.state.dtype == np.float32
    for i, seen in enumerate(oracle.observe()):
        np.testing.assert_array_equal(view.obs[0, i, : len(seen)], seen.astype(np.float32))
    np.testing.assert_array_equal(view.state[0], oracle.inner.state())


def test_a_step_limit_truncates_and_never_terminates() -> None:
    env = load("mpe/simple_spread_v3", episode_limit=3)
    env.reset(np.arange(2, dtype=np.uint64))
    flags = [env.step(np.ones((2, 3), np.int64)) for _ in range(3)]
    assert [bool(out.truncated.all()) for out in flags] == [False, False, True]
    assert not any(out.terminated.any() for out in flags)
    assert flags[-1].view.alive.all()


def test_the_words_of_the_speaker_are_heard_in_the_same_step() -> None:
    env = load("mpe/simple_speaker_listener_v4")
    env.reset(np.arange(3, dtype=np.uint64))
    heard = env.step(np.array([[0, 0], [1, 0], [2, 0]])).view.obs[:, 1, 8:11]
    np.testing.assert_array_equal(heard, np.eye(3))


@pytest.mark.parametrize(
    ("name", "block", "agent", "span"),
    [
        ("mpe/simple_spread_v3", "landmarks", "agent_1", ((4, 10),)),
        ("mpe/simple_spread_v3", "messages", "agent_2", ((14, 18),)),
        ("mpe/simple_speaker_listener_v4", "message", "listener_0", ((8, 11),)),
        ("mpe/simple_adversary_v3", "others", "adversary_0", ((4, 8),)),
        ("mpe/simple_adversary_v3", "others", "agent_1", ((6, 10),)),
    ],
)
def test_blocks_are_where_mpe2_puts_them(
    name: str, block: str, agent: str, span: tuple[tuple[int, int], ...]
) -> None:
    assert load(name).spec.blocks[agent][block] == span


def test_sides() -> None:
    assert list(load("mpe/simple_spread_v3").spec.sides) == ["team"]
    assert load("mpe/simple_adversary_v3", n_good_agents=3).spec.sides == {
        "adversary": ("adversary_0",),
        "good": ("agent_0", "agent_1", "agent_2"),
    }


def test_the_spec_alone_makes_the_same_environment_again() -> None:
    spec = load("mpe/simple_spread_v3", n_agents=4, dtype="float32").spec
    assert load(spec.id, **spec.kwargs).spec == spec


@pytest.mark.parametrize(
    ("actions", "text"),
    [
        (np.array([[0, 0, 5]]), "action 5 of agent 'agent_2'"),
        (np.array([[0, -1, 0]]), "action -1 of agent 'agent_1'"),
        (np.array([[0, 0]]), r"shape \(1, 2\), expected \(1, 3\)"),
    ],
)
def test_impossible_actions_are_refused(actions: Any, text: str) -> None:
    env = load("mpe/simple_spread_v3")
    env.reset(np.zeros(1, np.uint64))
    with pytest.raises(UsageError, match=text):
        env.step(actions)


def test_a_speaker_cannot_say_what_does_not_exist() -> None:
    env = load("mpe/simple_speaker_listener_v4")
    env.reset(np.zeros(1, np.uint64))
    with pytest.raises(UsageError, match="choose 0 to 2"):
        env.step(np.array([[3, 0]]))


def test_reset_where_wants_one_entry_a_slot() -> None:
    env = load("mpe/simple_spread_v3")
    env.reset(np.zeros(2, np.uint64))
    with pytest.raises(UsageError, match="one entry for each slot"):
        env.reset_where(np.ones(3, bool), np.zeros(3, np.uint64))


@pytest.mark.parametrize(
    ("kwargs", "error", "text"),
    [
        ({"agents": 3}, UnknownNameError, "allowed are episode_limit.*did you mean 'n_agents'"),
        ({"n_agents": 0}, UsageError, "setting 'n_agents' of mpe/simple_spread_v3 is 0"),
        ({"local_ratio": 1.5}, UsageError, "less than or equal to 1"),
        ({"dtype": "float16"}, UsageError, "'float64' or 'float32'"),
    ],
)
def test_wrong_settings(kwargs: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        load("mpe/simple_spread_v3", **kwargs)


def moved(name, **settings):
    """Return an environment and its view after a few random steps."""
    environment: Any = load(name, **settings)
    rng = np.random.default_rng(3)
    spec, view = environment.spec, environment.reset(np.arange(4, dtype=np.uint64))
    for _ in range(3):
        actions = np.stack([rng.integers(0, n, 4) for n in spec.action_counts], 1)
        view = environment.step(actions).view
    return environment, view


@pytest.mark.parametrize(
    "name", ["simple_spread_v3", "simple_adversary_v3", "simple_speaker_listener_v4"]
)
def test_a_full_observation_begins_with_the_observation(name):
    environment, view = moved(f"mpe/{name}")
    described, spec = full_spec(environment).full, environment.spec
    full = environment.full_observations()
    for i, (agent, width) in enumerate(zip(spec.agents, spec.obs_widths, strict=True)):
        np.testing.assert_array_equal(full[:, i, :width], view.obs[:, i, :width])
        assert full[:, i, width : described.widths[i]].any()
        assert not full[:, i, described.widths[i] :].any()
        assert described.blocks[agent].items() > spec.blocks[agent].items()


def test_spread_hides_the_velocities_of_others():
    environment, view = moved("mpe/simple_spread_v3")
    full, velocity = environment.full_observations(), view.obs[..., 0:2]
    assert environment.full.blocks["agent_1"]["others_velocity"] == ((18, 22),)
    np.testing.assert_array_equal(full[:, 1, 18:20], velocity[:, 0])
    np.testing.assert_array_equal(full[:, 1, 20:22], velocity[:, 2])


def test_a_lone_agent_is_hidden_nothing():
    environment, _ = moved("mpe/simple_spread_v3", n_agents=1)
    assert environment.full is None
    with pytest.raises(MismatchError, match="gives no full observations"):
        full_spec(environment)


def test_the_adversary_is_hidden_the_goal_and_all_are_hidden_velocities():
    environment, view = moved("mpe/simple_adversary_v3")
    full, blocks = environment.full_observations(), environment.full.blocks
    assert environment.full.widths == (16, 16, 16)
    assert blocks["adversary_0"]["goal"] == ((8, 10),)
    assert blocks["agent_0"]["goal"] == ((0, 2),)
    # The way to the goal is the same place seen from two agents.
    apart = view.obs[:, 0, 4:6]  # of the first good agent, from the adversary
    np.testing.assert_allclose(full[:, 0, 8:10], view.obs[:, 1, 0:2] + apart, atol=1e-6)
    own = {a: b["own_velocity"][0] for a, b in blocks.items()}
    others = {a: b["others_velocity"][0] for a, b in blocks.items()}
    of_good = full[:, 1, slice(*own["agent_0"])]
    np.testing.assert_array_equal(full[:, 0, others["adversary_0"][0] :][:, :2], of_good)
    np.testing.assert_array_equal(full[:, 2, others["agent_1"][0] :][:, 2:4], of_good)


def test_speaker_and_listener_are_hidden_what_the_other_sees():
    environment, view = moved("mpe/simple_speaker_listener_v4")
    full = environment.full_observations()
    assert environment.full.widths == (14, 14)
    np.testing.assert_array_equal(full[:, 0, 3:14], view.obs[:, 1, :11])
    np.testing.assert_array_equal(full[:, 1, 11:14], view.obs[:, 0, :3])
    spoken = full[:, 0, slice(*environment.full.blocks["speaker_0"]["message"][0])]
    assert (spoken.sum(1) == 1).all()
