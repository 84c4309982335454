"""What the adapter makes of environments of other people's making: by rule, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from kd_offline.environments.pettingzoo import PettingZooEnvironment
from kd_offline.environments.pettingzoo_spec import _agents, _port, describe
from kd_offline.errors import UsageError, UserCodeError
from kd_offline.testing.environments import check_environment
from kd_offline.types import Outcome
from tests.unit.environments.scripted import Bend, Scripted

SEED = np.array([5], np.uint64)


def wrapped(limit: int = 10, **settings: Any) -> PettingZooEnvironment:
    """Return the adapter around a scripted environment of these settings."""
    first = Scripted(**settings)
    agents = _agents("pettingzoo/x:y", first)
    ports = tuple(_port("pettingzoo/x:y", first, agent, key) for agent, key in agents.items())
    spec = describe("pettingzoo/x:y", {}, ports, limit)
    return PettingZooEnvironment(lambda: Scripted(**settings), spec, ports)


def played(env: PettingZooEnvironment, steps: int = 10) -> list[Outcome]:
    """Return the outcomes of one episode."""
    env.reset(SEED)
    outcomes = []
    for _ in range(steps):
        outcomes.append(env.step(np.ones((1, env.spec.n_agents), np.int64)))
        if outcomes[-1].terminated[0] or outcomes[-1].truncated[0]:
            return outcomes
    return outcomes


def only(part: int, agent: Any, value: Any, at: int = 2) -> Bend:
    """Return what replaces one agent's value in one of the dicts that a step returns."""

    def bend(env: Scripted, returned: Any) -> Any:
        if env.steps == at and len(returned) > part:
            if value is KeyError:
                del returned[part][agent]
            else:
                returned[part][agent] = value
        return returned

    return bend


@pytest.mark.parametrize("stays", [False, True])
def test_the_episode_ends_by_its_flags_whether_or_not_agents_stay_listed(stays: bool) -> None:
    ended = played(wrapped(ends={"a": 3, "b": 3}, stays=stays))
    assert len(ended) == 3
    assert ended[-1].terminated[0]
    assert not ended[-1].truncated[0]
    late = played(wrapped(max_cycles=4, stays=stays))
    assert len(late) == 4
    assert late[-1].truncated[0]
    assert not late[-1].terminated[0]


@pytest.mark.parametrize("stays", [False, True])
def test_an_agent_that_ended_is_gone_while_the_other_goes_on(stays: bool) -> None:
    outcomes = played(wrapped(ends={"a": 2, "b": 4}, stays=stays))
    alive = [[True, True], [False, True], [False, True], [False, True]]
    assert [o.view.alive[0].tolist() for o in outcomes] == alive
    assert not outcomes[2].view.obs[0, 0].any()
    assert outcomes[-1].terminated[0]


def test_one_agent_out_of_time_truncates_the_episode_that_it_ends() -> None:
    outcomes = played(wrapped(ends={"a": 4}, max_cycles=4))
    assert (outcomes[-1].terminated[0], outcomes[-1].truncated[0]) == (False, True)
    assert outcomes[-1].view.alive[0].tolist() == [False, True]


def test_an_agent_that_left_without_a_flag_has_ended() -> None:
    def leaves(env: Scripted, returned: Any) -> Any:
        env.agents = ["b"] if 2 <= env.steps < 4 else [] if env.steps == 4 else env.agents
        return returned

    outcomes = played(wrapped(bend=leaves))
    assert [o.view.alive[0, 0] for o in outcomes[:3]] == [True, False, False]
    assert len(outcomes) == 4
    assert outcomes[-1].terminated[0]


def test_a_listed_agent_that_ended_is_sent_its_first_action() -> None:
    env = wrapped(ends={"a": 2}, stays=True, max_cycles=3)
    played(env)
    assert env._slots[0].env.sent == [{"a": 1, "b": 1}, {"a": 1, "b": 1}, {"a": 0, "b": 1}]


def test_an_agent_may_appear_later() -> None:
    def appears(env: Scripted, returned: Any) -> Any:
        if env.steps < 2:
            env.agents = ["b"]
            returned[0].pop("a", None)
        elif env.steps == 2:
            env.agents = ["a", "b"]
            returned[0]["a"] = np.full(3, 0.5, np.float32)
        return returned

    outcomes = played(wrapped(bend=appears, max_cycles=4))
    assert [o.view.alive[0, 0] for o in outcomes] == [False, True, True, True]
    assert len(outcomes) == 4


def _back(env: Scripted, returned: Any) -> Any:
    env.agents = ["b"] if env.steps == 2 else ["a", "b"]
    return returned


def _stranger(env: Scripted, returned: Any) -> Any:
    if env.steps:
        env.agents = ["a", "b", "c"]
    return returned


def _five(env: Scripted, returned: Any) -> Any:
    return returned if env.steps else returned[0]


def _four(env: Scripted, returned: Any) -> Any:
    return returned[:4] if env.steps else returned


def _no_infos(env: Scripted, returned: Any) -> Any:
    return (*returned[:-1], None)


def _shared_reward(env: Scripted, returned: Any) -> Any:
    return returned if not env.steps else (returned[0], 1.0, *returned[2:])


def _other_spaces(env: Scripted, returned: Any) -> Any:
    env.space = spaces.Box(-1, 1, (4,))
    return returned


def _other_agents(env: Scripted, returned: Any) -> Any:
    env.possible_agents = ["a"]
    return returned


def _shared_mask(env: Scripted, returned: Any) -> Any:
    return (*returned[:-1], {**returned[-1], "action_mask": {"a": [1, 0], "b": [1, 1]}})


def _raises(env: Scripted, returned: Any) -> Any:
    if env.steps == 2:
        raise SystemExit(0)
    return returned


@pytest.mark.parametrize(
    ("bend", "words"),
    [
        (_back, ["in step (agent a, step 3", "had ended after step 2"]),
        (_stranger, ["its agents are ['a', 'b', 'c']", "a, b"]),
        (_five, ["in reset", "observations, infos"]),
        (_four, ["returned 4 values", "truncations"]),
        (_no_infos, ["its infos are None"]),
        (_shared_reward, ["its rewards are 1.0, not a dict"]),
        (_other_spaces, ["in reset", "may not change"]),
        (_other_agents, ["in reset", "may not change"]),
        (_shared_mask, ["its infos say what is legal as 'action_mask'"]),
        (_raises, ["in step (step 2, seed 5)", "SystemExit"]),
        (only(0, "a", KeyError), ["agent a, step 2", "no observation"]),
        (only(1, "b", KeyError), ["agent b, step 2", "no reward"]),
        (only(2, "b", KeyError), ["agent b, step 2", "no termination"]),
        (only(3, "b", KeyError), ["agent b, step 2", "no truncation"]),
        (only(2, "__all__", True), ["its terminations name '__all__'"]),
        (only(1, "team", 1.0), ["its rewards name 'team'"]),
        (only(2, "a", None), ["its termination is None"]),
        (only(3, "a", "False"), ["its truncation is 'False'"]),
        (only(2, "a", np.array([True])), ["its termination is array([ True])"]),
        (only(1, "a", None), ["its reward is None"]),
        (only(1, "a", np.array([1.0])), ["its reward is array([1.])"]),
        (only(1, "a", float("nan")), ["its reward is nan"]),
        (only(1, "a", 1e300), ["its reward is 1e+300"]),
        (only(1, "a", "1"), ["its reward is '1'"]),
        (only(4, "a", None), ["its infos are None"]),
        (only(0, "a", np.ones(1)), ["shape (3,)"]),
        (only(0, "a", np.ones((3, 1))), ["shape (3,)"]),
        (only(0, "a", 1.0), ["shape (3,)"]),
        (only(0, "a", None), ["no observation of it"]),
        (only(0, "a", [1.0, [2.0], 3.0]), ["shape (3,)"]),
        (only(0, "a", np.array(["1", "2", "3"])), ["shape (3,)"]),
        (only(0, "a", np.array([0, np.nan, 0])), ["number 1 of its 3 is nan"]),
        (only(0, "a", np.array([0, 0, 1e300])), ["number 2 of its 3 is inf"]),
        (only(0, "a", {"x": np.ones(3)}), ["shape (3,)"]),
    ],
)
def test_what_breaks_the_interface_is_refused_at_its_first_appearance(
    bend: Bend, words: list[str]
) -> None:
    env = wrapped(bend=bend)
    with pytest.raises(UserCodeError) as refused:
        played(env)
    assert "environment 'pettingzoo/x:y' failed in" in str(refused.value)
    for word in words:
        assert word in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("space", "observation", "words"),
    [
        (spaces.Discrete(3), 3, "a value of Discrete(3)"),
        (spaces.Discrete(3, start=5), 2, "a value of Discrete(3, start=5)"),
        (spaces.Discrete(3), 1.0, "a value of Discrete(3)"),
        (spaces.MultiDiscrete([2, 2]), np.array([1, 2]), "a value of MultiDiscrete"),
        (spaces.MultiBinary(2), np.array([1, 2], np.int8), "a value of MultiBinary"),
        (spaces.Dict(x=spaces.Discrete(2)), {}, "lacks the key 'x'"),
        (spaces.Dict(x=spaces.Discrete(2)), {"x": 1, "y": 2}, "has the key 'y'"),
        (spaces.Dict(x=spaces.Box(0, 1, (2,))), {"x": [1.0]}, "observation's 'x' is [1.0]"),
        (spaces.Dict(x=spaces.Discrete(2)), np.ones(2), "a dict is expected"),
        (spaces.Tuple([spaces.Discrete(2)] * 2), (1,), "a tuple of 2"),
        (spaces.Tuple([spaces.Discrete(2)] * 2), (1, 2), "part 1 is 2"),
    ],
)
def test_an_observation_that_is_not_of_its_space_is_refused(
    space: Any, observation: Any, words: str
) -> None:
    def bend(env: Scripted, returned: Any) -> Any:
        return ({"a": observation, "b": observation}, *returned[1:])

    with pytest.raises(UserCodeError) as refused:
        wrapped(bend=bend, space=space).reset(SEED)
    assert words in str(refused.value)
    assert "agent a" in str(refused.value)


def test_fractions_in_a_space_of_whole_numbers_are_not_cut_off() -> None:
    def bend(env: Scripted, returned: Any) -> Any:
        return ({a: [0.5, 300.0] for a in returned[0]}, *returned[1:])

    view = wrapped(bend=bend, space=spaces.Box(0, 9, (2,), np.int8)).reset(SEED)
    assert view.obs[0, 0].tolist() == [0.5, 300.0]


def test_numbers_of_spaces_that_start_elsewhere_are_read() -> None:
    def bend(env: Scripted, returned: Any) -> Any:
        return (dict.fromkeys("ab", 6), *returned[1:])

    view = wrapped(bend=bend, space=spaces.Discrete(3, start=5)).reset(SEED)
    assert view.obs[0, 0].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    "mask",
    [
        [0.0, -np.inf],
        [0.0, -1e9],
        [0.3, 0.7],
        [1, np.nan],
        [1, 2],
        [1, -1],
        [1],
        [1, 1, 1],
        [[1, 1]],
        [],
        1,
        None,
        "11",
        ["1", "0"],
        [True, None],
        {0, 1},
        {0: 1, 1: 1},
    ],
)
@pytest.mark.parametrize("key", ["action_mask", "avail_actions", "available_actions"])
def test_a_mask_that_is_no_vector_of_zeros_and_ones_is_refused(mask: Any, key: str) -> None:
    env = wrapped(masks=lambda step, agent: {key: [1, 1] if step < 2 or agent == "a" else mask})
    with pytest.raises(UserCodeError) as refused:
        played(env)
    assert f"(agent b, step 2, seed 5): '{key}' in infos is " in str(refused.value)
    assert "a vector of 2 numbers" in str(refused.value)


@pytest.mark.parametrize(
    "mask", [[1, 0], (1.0, 0.0), np.array([True, False]), np.array([1, 0], np.int8)]
)
@pytest.mark.parametrize("key", ["action_mask", "avail_actions", "available_actions"])
def test_a_mask_of_zeros_and_ones_is_read_whatever_its_type(mask: Any, key: str) -> None:
    view = wrapped(masks=lambda step, agent: {key: mask}).reset(SEED)
    assert view.available_actions[0].tolist() == [[True, False]] * 2


@pytest.mark.parametrize(
    "key",
    [
        "legal_moves",
        "legal_actions",
        "valid_actions",
        "action_masks",
        "invalid_action_mask",
        "illegal_moves",
        "forbidden_actions",
        "allowed_actions",
        "availActions",
        "legal_action_mask",
    ],
)
def test_another_name_of_what_is_legal_is_said_to_be_unread(key: str) -> None:
    with pytest.raises(UserCodeError, match=f"'{key}', which is not read: give 'action_mask'"):
        wrapped(masks=lambda step, agent: {key: [1, 0]}).reset(SEED)
    both = wrapped(masks=lambda step, agent: {key: [0], "action_mask": [1, 0]}).reset(SEED)
    assert both.available_actions[0, 0].tolist() == [True, False]
    space = spaces.Dict({"x": spaces.Discrete(2), key: spaces.MultiBinary(2)})
    with pytest.raises(UsageError, match=f"'{key}', which is not read"):
        wrapped(space=space)


@pytest.mark.parametrize("key", ["action_mask", "legal_moves"])
@pytest.mark.parametrize("within", [spaces.Tuple, lambda parts: spaces.Dict(x=parts[0])])
def test_a_mask_within_another_part_is_said_to_be_unread(key: str, within: Any) -> None:
    part = spaces.Dict({"x": spaces.Discrete(2), key: spaces.MultiBinary(2)})
    with pytest.raises(UsageError, match=f"observes '{key}' within another part"):
        wrapped(space=within([part]))


def test_a_method_that_says_what_is_legal_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Scripted, "action_masks", lambda self: [1, 0], raising=False)
    wrapped(masks=lambda step, agent: {"action_mask": [1, 0]}).reset(SEED)
    assert not caplog.records
    played(wrapped())
    assert len(caplog.records) == 1
    assert "'action_masks', which is not called" in caplog.text


def test_two_masks_that_differ_are_refused() -> None:
    def masks(step: int, agent: str) -> Any:
        return {"action_mask": [1, 0], "avail_actions": [1, 0] if step < 2 else [1, 1]}

    with pytest.raises(UserCodeError, match="do not allow the same actions"):
        played(wrapped(masks=masks))


def test_a_mask_in_the_observation_must_agree_with_that_of_the_infos() -> None:
    space = spaces.Dict(x=spaces.Discrete(2), action_mask=spaces.MultiBinary(2))

    def seen(env: Scripted, returned: Any) -> Any:
        return ({a: {"x": 1, "action_mask": [1, 0]} for a in returned[0]}, *returned[1:])

    same = wrapped(bend=seen, space=space, masks=lambda step, agent: {"action_mask": [1, 0]})
    assert same.reset(SEED).available_actions[0, 0].tolist() == [True, False]
    other = wrapped(bend=seen, space=space, masks=lambda step, agent: {"action_mask": [0, 1]})
    with pytest.raises(UserCodeError, match="'action_mask' in the observation and 'action_mask'"):
        other.reset(SEED)


@pytest.mark.parametrize("first", [True, False])
def test_a_mask_that_comes_and_goes_is_refused(first: bool) -> None:
    env = wrapped(masks=lambda s, a: {"action_mask": [1, 0]} if (s < 2) == first else {})
    with pytest.raises(UserCodeError, match="give one at every step or never"):
        played(env)


def test_an_agent_without_a_legal_action_waits_and_keeps_its_observation() -> None:
    def masks(step: int, agent: str) -> Any:
        return {"action_mask": [1, 1] if (step % 2 == 0) == (agent == "a") else [0, 0]}

    env = wrapped(masks=masks, max_cycles=4)
    view = env.reset(SEED)
    assert view.alive.tolist() == [[True, False]]
    assert view.obs.all()
    outcomes = played(env)
    assert [o.view.alive[0].tolist() for o in outcomes[:3]] == [
        [False, True],
        [True, False],
        [False, True],
    ]
    assert all(o.view.obs.all() for o in outcomes)
    assert len(outcomes) == 4
    assert env._slots[0].env.sent[0] == {"a": 1, "b": 0}
    check_environment(lambda: wrapped(masks=masks, max_cycles=4))


def test_an_episode_in_which_nobody_can_act_is_refused() -> None:
    env = wrapped(masks=lambda step, agent: {"action_mask": [step < 2] * 2})
    with pytest.raises(UserCodeError, match="no agent has a legal action, yet the episode goes on"):
        played(env)


@pytest.mark.parametrize(
    ("agents", "words"),
    [
        ([1, "1"], "two agents of the name '1'"),
        (["a", "a"], "two agents of the name 'a'"),
        (["a", None], "names an agent None"),
        (["a", ("b", 1)], "names an agent ('b', 1)"),
        (["a", 1.5], "names an agent 1.5"),
        (["a", ""], "names an agent ''"),
        (["a", "b\n"], "names an agent"),
        (["a", "x/y"], "names an agent"),
        (["a", "x\\y"], "names an agent"),
        (["a", ".."], "names an agent"),
        (["a", "\x1b[31mred"], "names an agent"),
        (["a", "\u202eevil"], "names an agent"),
        (["a", "x" * 65], "names an agent"),
        (["a", 'say "b"'], "names an agent"),
        ([], "no possible_agents"),
    ],
)
def test_names_that_cannot_be_carried_are_refused_before_the_first_episode(
    agents: Any, words: str
) -> None:
    with pytest.raises(UsageError) as refused:
        wrapped(agents=agents)
    assert words in str(refused.value)


@pytest.mark.parametrize("agents", [[0, 1], ["drone-1", "drone 2"], [np.int64(3), "x"]])
def test_whole_numbers_and_names_with_marks_are_carried(agents: Any) -> None:
    env = wrapped(agents=agents)
    assert env.spec.agents == tuple(str(agent) for agent in agents)
    assert len(played(env)) == 6
    assert set(env._slots[0].env.sent[0]) == set(agents)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 1, (0,)),
        spaces.Dict(x=spaces.Box(0, 1, (0,)), y=spaces.Discrete(2)),
        spaces.Dict(action_mask=spaces.MultiBinary(2)),
        spaces.Dict({"a\nb": spaces.Discrete(2)}),
        spaces.Dict({"": spaces.Discrete(2)}),
    ],
)
def test_parts_of_an_observation_without_numbers_or_a_name_are_refused(space: Any) -> None:
    with pytest.raises(UsageError, match="at least one number"):
        wrapped(space=space)


def test_more_actions_than_a_recording_holds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scripted, "action_space", lambda self, agent: spaces.Discrete(2**15))
    with pytest.raises(UsageError, match="32768 actions: recordings hold 32767"):
        wrapped()


def test_an_observation_of_an_agent_that_was_terminated_may_be_missing_at_the_end() -> None:
    def bend(env: Scripted, returned: Any) -> Any:
        return returned if env.steps < 3 else ({"a": None}, *returned[1:])

    outcomes = played(wrapped(bend=bend, ends={"a": 3, "b": 3}))
    assert outcomes[-1].terminated[0]
    assert not outcomes[-1].view.alive.any()
    with pytest.raises(UserCodeError, match="there is no observation of it"):
        played(wrapped(bend=bend, max_cycles=3))


def test_a_factory_that_always_returns_the_same_environment_is_refused() -> None:
    env, one = wrapped(), Scripted()
    same = PettingZooEnvironment(lambda: one, env.spec, env._ports)
    same.reset(SEED)
    with pytest.raises(UserCodeError, match="must return a new one each time"):
        same.reset(np.array([1, 2], np.uint64))
