"""Every backend keeps the batched protocol; broken ones are found, each by the rule it breaks."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kd_offline.environments import load
from kd_offline.environments.grid import predator_prey
from kd_offline.environments.protocol import BatchedEnvironment
from kd_offline.testing.environments import ConformanceError, check_environment
from kd_offline.types import View

BACKENDS: list[tuple[str, dict[str, Any]]] = [
    ("mpe/simple_spread_v3", {}),
    ("mpe/simple_spread_v3", {"n_agents": 10, "dtype": "float32"}),
    ("mpe/simple_spread_v3", {"n_agents": 1, "episode_limit": 1}),
    ("mpe/simple_speaker_listener_v4", {}),
    ("mpe/simple_adversary_v3", {}),
    ("mpe/simple_adversary_v3", {"n_good_agents": 1}),
    ("grid/predator_prey", {"episode_limit": 20}),
    ("grid/predator_prey", {"size": 4, "n_predators": 4, "n_prey": 2, "episode_limit": 30}),
    (
        "grid/predator_prey",
        {"size": 4, "n_predators": 3, "n_prey": 4, "capturers_leave": False, "episode_limit": 30},
    ),
    ("pettingzoo/mpe2.simple_reference_v3:parallel_env", {"episode_limit": 6}),
    ("pettingzoo/mpe2.simple_tag_v3:parallel_env", {"episode_limit": 6}),
    ("pettingzoo/pettingzoo.sisl.pursuit_v5:parallel_env", {"max_cycles": 5, "n_pursuers": 3}),
    ("pettingzoo/pettingzoo.classic.tictactoe_v3:env", {"episode_limit": 9, "sides": "each"}),
    ("pettingzoo/pettingzoo.classic.tictactoe_v3:env", {"episode_limit": 4}),
    ("pettingzoo/tests.unit.environments.leavers:Leavers", {"max_cycles": 12}),
    ("pettingzoo/tests.unit.environments.leavers:Leavers", {"max_cycles": 4}),
]


@pytest.mark.parametrize(("name", "kwargs"), BACKENDS, ids=str)
def test_backend_keeps_the_protocol(name: str, kwargs: dict[str, Any]) -> None:
    check_environment(lambda: load(name, **kwargs))


class Broken:
    """A correct environment whose answers pass through ``spoil(self, view or outcome)``."""

    def __init__(self, spoil: Callable[["Broken", Any], Any]) -> None:
        self.inner: BatchedEnvironment = load("mpe/simple_spread_v3", episode_limit=6)
        self.spec = self.inner.spec
        self.spoil, self.steps = spoil, 0
        self.memory: dict[Any, Any] = {}

    def reset(self, seeds: Any) -> Any:
        self.steps = 0
        return self.spoil(self, self.inner.reset(seeds))

    def reset_where(self, where: Any, seeds: Any) -> Any:
        return self.spoil(self, self.inner.reset_where(where, seeds))

    def step(self, actions: Any) -> Any:
        self.steps += 1
        return self.spoil(self, self.inner.step(actions))

    def close(self) -> None:
        self.inner.close()


def with_view(answer: Any, **parts: Any) -> Any:
    if isinstance(answer, View):
        return dataclasses.replace(answer, **parts)
    return dataclasses.replace(answer, view=dataclasses.replace(answer.view, **parts))


def view_of(answer: Any) -> View:
    return answer if isinstance(answer, View) else answer.view


def doubles(_: Broken, answer: Any) -> Any:
    return with_view(answer, obs=view_of(answer).obs.astype(np.float64))


def foreign_state(_: Broken, answer: Any) -> Any:
    return with_view(answer, state=view_of(answer).state + 1)


def no_choice(_: Broken, answer: Any) -> Any:
    legal = view_of(answer).available_actions.copy()
    legal[0, 1] = False
    return with_view(answer, available_actions=legal)


def idle_with_a_choice(_: Broken, answer: Any) -> Any:
    alive = view_of(answer).alive.copy()
    alive[:, 1] = False
    return with_view(answer, alive=alive)


def second_waits(_: Broken, answer: Any) -> Any:
    legal = view_of(answer).available_actions.copy()
    legal[:, 1] = False
    return with_view(idle_with_a_choice(_, answer), available_actions=legal)


def all_wait(_: Broken, answer: Any) -> Any:
    view = view_of(answer)
    nothing = np.zeros_like(view.available_actions)
    return with_view(answer, available_actions=nothing, alive=np.zeros_like(view.alive))


def infinite_reward(_: Broken, answer: Any) -> Any:
    if isinstance(answer, View):
        return answer
    return dataclasses.replace(answer, reward=answer.reward / np.float32(0))


def both_ends(_: Broken, answer: Any) -> Any:
    if isinstance(answer, View):
        return answer
    return dataclasses.replace(answer, terminated=answer.truncated)


def never_ends(_: Broken, answer: Any) -> Any:
    if isinstance(answer, View):
        return answer
    return dataclasses.replace(answer, truncated=np.zeros_like(answer.truncated))


def pays_for_ever(_: Broken, answer: Any) -> Any:
    if isinstance(answer, View):
        return answer
    return dataclasses.replace(answer, reward=answer.reward - np.float32(1))


def one_buffer(env: Broken, answer: Any) -> Any:
    obs = view_of(answer).obs
    kept = env.memory.setdefault(obs.shape, obs)
    kept[...] = obs
    return with_view(answer, obs=kept, state=kept.reshape(len(kept), -1).copy())


class Drifting:
    """Remembers across episodes: the second episode of an instance differs from the first."""

    def __init__(self) -> None:
        self.resets = 0

    def __call__(self, env: Broken, answer: Any) -> Any:
        self.resets += env.steps == 0
        obs = view_of(answer).obs + np.float32(self.resets)
        return with_view(answer, obs=obs, state=obs.reshape(len(obs), -1))


def knows_its_slot(_: Broken, answer: Any) -> Any:
    obs = view_of(answer).obs.copy()
    obs[:, 0, 0] += np.arange(len(obs))
    return with_view(answer, obs=obs, state=obs.reshape(len(obs), -1))


def knows_its_batch(_: Broken, answer: Any) -> Any:
    obs = view_of(answer).obs * np.float32(len(view_of(answer).obs))
    return with_view(answer, obs=obs, state=obs.reshape(len(obs), -1))


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (doubles, "view: obs is float64"),
        (foreign_state, "view: state is not the concatenation"),
        (no_choice, "view: an agent that is alive has no legal action"),
        (idle_with_a_choice, "view: an agent that waits has a legal action"),
        (all_wait, "ends: a slot has no agent alive and yet begins"),
        (infinite_reward, "outcome: reward is not finite"),
        (both_ends, "ends: a slot is terminated and truncated"),
        (never_ends, "ends: a slot is still running"),
        (pays_for_ever, "finished: a finished slot pays"),
        (one_buffer, "fresh arrays: obs"),
        (Drifting(), "determinism: obs"),
        (knows_its_slot, "batch independence: obs differs in another slot"),
        (knows_its_batch, "batch independence: obs differs played alone"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_a_broken_environment_is_found(spoil: Any, rule: str) -> None:
    with pytest.raises(ConformanceError, match=rule):
        check_environment(lambda: Broken(spoil))


def test_a_correct_environment_in_the_same_clothes_passes() -> None:
    check_environment(lambda: Broken(lambda _, answer: answer))


def test_an_agent_may_wait_and_see() -> None:
    check_environment(lambda: Broken(second_waits))


def test_a_reset_that_touches_every_slot_is_found() -> None:
    class ResetsAll(Broken):
        def reset_where(self, where: Any, seeds: Any) -> View:
            return self.inner.reset(seeds)

    with pytest.raises(ConformanceError, match="reset_where: obs of slots that were not"):
        check_environment(lambda: ResetsAll(lambda _, answer: answer))


def test_a_reset_that_does_nothing_is_found() -> None:
    class ResetsNothing(Broken):
        def reset_where(self, where: Any, seeds: Any) -> View:
            return self.inner.reset_where(np.zeros_like(where), seeds)

    with pytest.raises(ConformanceError, match="reset_where: obs of restarted slots"):
        check_environment(lambda: ResetsNothing(lambda _, answer: answer))


def test_a_slot_that_runs_on_after_its_end_is_found() -> None:
    class RunsOn(Broken):
        """The limit is only announced: the worlds inside never stop."""

        def __init__(self) -> None:
            super().__init__(lambda env, answer: answer)
            self.inner = load("mpe/simple_spread_v3")

        def step(self, actions: Any) -> Any:
            outcome = super().step(actions)
            late = np.full(len(outcome.truncated), self.steps >= 6)
            return dataclasses.replace(outcome, truncated=late)

    with pytest.raises(ConformanceError, match="finished: obs of a finished slot changes"):
        check_environment(RunsOn)


class Sighted(Broken):
    """A correct environment whose full observations pass through ``show(self, values)``."""

    def __init__(self, show: Callable[[Any, Any], Any], **described: Any) -> None:
        super().__init__(lambda env, answer: answer)
        self.inner = self.board = predator_prey.load(
            size=3, n_predators=4, n_prey=4, view=3, episode_limit=20
        )
        self.spec, self.show, self.calls = self.inner.spec, show, 0
        full = self.board.full
        assert full is not None
        self.full = full.model_copy(update=described)

    def full_observations(self) -> Any:
        self.calls += 1
        return self.show(self, self.board.full_observations())


def meddles(env: Sighted, values: Any) -> Any:
    env.board._seeds += np.uint64(1)  # of the draws by which prey wander
    return values


@pytest.mark.parametrize(
    ("show", "rule"),
    [
        (lambda env, values: values.astype(float), "view: full_observations is float64"),
        (lambda env, values: values[:, :, 1:], r"view: full_observations has shape"),
        (lambda env, values: values / np.float32(0), "view: full_observations is not finite"),
        (lambda env, values: values + np.float32(1), "view: full_observations of an agent that is"),
        (lambda env, values: values * np.float32(env.calls), "finished: obs_full of a finished"),
        (meddles, "determinism: obs differs in a new environment"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_broken_full_observations_are_found(show: Any, rule: str) -> None:
    with pytest.raises(ConformanceError, match=rule):
        check_environment(lambda: Sighted(show))


def test_full_observations_in_the_same_clothes_pass() -> None:
    check_environment(lambda: Sighted(lambda _, values: values))


def test_what_an_environment_says_of_full_observations_is_checked() -> None:
    with pytest.raises(ConformanceError, match="spec: full blocks of 'predator_0' overlap or"):
        check_environment(
            lambda: Sighted(
                lambda _, values: values, blocks={f"predator_{i}": {} for i in range(4)}
            )
        )


def test_full_observations_that_the_environment_puts_into_a_view_are_found() -> None:
    def shows(_: Broken, answer: Any) -> Any:
        return with_view(answer, obs_full=view_of(answer).obs)

    with pytest.raises(ConformanceError, match="view: obs_full is for the loops"):
        check_environment(lambda: Broken(shows))


def test_blocks_that_overlap_are_found() -> None:
    class Overlapping(Broken):
        def __init__(self) -> None:
            super().__init__(lambda env, answer: answer)
            blocks = {agent: {"all": ((0, 18),), "own": ((2, 4),)} for agent in self.spec.agents}
            self.spec = self.spec.model_copy(update={"blocks": blocks})

    with pytest.raises(ConformanceError, match="spec: blocks of 'agent_0' overlap"):
        check_environment(Overlapping)
