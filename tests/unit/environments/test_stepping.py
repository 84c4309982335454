"""What an environment gives is checked where it comes in, and told with the environment's name."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kd_offline import environments
from kd_offline.environments import stepping
from kd_offline.environments.stepping import full_spec
from kd_offline.errors import MismatchError, UserCodeError
from kd_offline.evaluation.rollout import rollout
from kd_offline.rollout.collect import collect
from kd_offline.rollout.play import sampled
from kd_offline.rollout.policies import RandomPolicy
from kd_offline.schemas.environment import FullObservation

NAME = "mpe/simple_spread_v3"
SEEDS = np.arange(7, 11, dtype=np.uint64)


class Theirs:
    """An environment of other people's making, which does something odd in step 3 or in reset."""

    def __init__(self, odd, call="step"):
        self.inner: Any = environments.load(NAME)
        self.odd, self.call = odd, call
        self.spec = replace_name(self.inner.spec)

    def reset(self, seeds):
        self.steps = 0
        view = self.inner.reset(seeds)
        return self.odd(view) if self.call == "reset" else view

    def step(self, actions):
        outcome = self.inner.step(actions)
        self.steps += 1
        return self.odd(outcome) if (self.call, self.steps) == ("step", 4) else outcome

    def close(self):
        pass


def replace_name(spec):
    return spec.model_copy(update={"id": "theirs"})


def collected(environment):
    return collect(environment, RandomPolicy(), SEEDS, sampled(SEEDS))


def rolled_out(environment):
    return rollout(environment, RandomPolicy(), SEEDS, greedy=False)


def fail(error):
    def odd(made):
        raise error

    return odd


def reward(value, dtype=np.float32):
    def odd(outcome):
        given = outcome.reward.astype(dtype)
        given[1, 2] = value
        return replace(outcome, reward=given)

    return odd


def seen(value):
    def odd(outcome):
        obs = outcome.view.obs.copy()
        obs[1, 2, 5] = value
        return replace(outcome, view=replace(outcome.view, obs=obs))

    return odd


def narrow(view):
    return replace(view, obs=view.obs[..., :1])


def counted(view):
    return replace(view, available_actions=view.available_actions.astype(int))


@pytest.mark.parametrize("play", [collected, rolled_out])
@pytest.mark.parametrize(
    ("environment", "error", "says"),
    [
        (Theirs(fail(SystemExit(0))), UserCodeError, r"'theirs' failed in step \(step 3\): System"),
        (Theirs(fail(KeyError("a")), "reset"), UserCodeError, "'theirs' failed in reset: KeyError"),
        (
            Theirs(reward(np.nan)),
            UserCodeError,
            r"agent 'agent_2' a reward .*\(nan\) in step 3 .* 8",
        ),
        (Theirs(reward(1.0, float)), MismatchError, "gave a reward as float64"),
        (Theirs(lambda outcome: replace(outcome, reward=None)), MismatchError, "as NoneType in st"),
        (
            Theirs(seen(-np.inf)),
            UserCodeError,
            r"agent 'agent_2' an observation .*\(-inf\) in step",
        ),
        (Theirs(narrow, "reset"), MismatchError, r"observations as float32 \(4, 3, 1\) in reset"),
        (Theirs(counted, "reset"), MismatchError, "available_actions as int64"),
        (Theirs(lambda outcome: outcome.view), MismatchError, "gave View in step 3"),
    ],
)
def test_the_environment_is_named_and_the_step(play, environment, error, says):
    with pytest.raises(error, match=says):
        play(environment)


@pytest.mark.parametrize("play", [collected, rolled_out])
def test_an_environment_of_ours_is_checked_as_well(play, monkeypatch):
    environment = environments.load(NAME)
    inner = environment.step
    odd = seen(np.nan)
    monkeypatch.setattr(environment, "step", lambda actions: odd(inner(actions)))
    with pytest.raises(UserCodeError, match="mpe/simple_spread_v3' gave agent 'agent_2' an obs"):
        play(environment)


@pytest.mark.parametrize("play", [collected, rolled_out])
def test_large_values_are_values(play):
    play(Theirs(seen(np.finfo(np.float32).max)))
    play(Theirs(reward(-1e30)))


class Sighted(Theirs):
    """An environment that hides something; ``show`` changes its full observations in step 3."""

    def __init__(self, show=lambda values: values, full=None):
        super().__init__(lambda given: given)
        self.inner = environments.load("grid/predator_prey", size=4, view=3, n_predators=2)
        self.spec = replace_name(self.inner.spec)
        self.full, self.show = full or self.inner.full, show

    def full_observations(self):
        values = self.inner.full_observations()
        return self.show(values) if self.steps == 4 else values


def with_value(value):
    def show(values):
        values[1, 0, 7] = value
        return values

    return show


def test_full_observations_are_in_every_view_where_they_are_asked_for():
    environment = Sighted()
    spec = full_spec(environment)
    view = stepping.reset(environment, SEEDS, spec.full)
    np.testing.assert_array_equal(view.obs_full, environment.inner.full_observations())
    actions = np.zeros((len(SEEDS), 2), np.int64)
    outcome = stepping.step(environment, actions, SEEDS, 0, spec.full)
    np.testing.assert_array_equal(outcome.view.obs_full, environment.inner.full_observations())
    assert stepping.reset(environment, SEEDS).obs_full is None


def test_full_observations_that_nobody_asked_for_are_left_out():
    environment = Sighted()
    inner = environment.inner.reset
    environment.inner.reset = lambda seeds: replace(inner(seeds), obs_full=np.zeros((4, 2, 1)))
    assert stepping.reset(environment, SEEDS).obs_full is None


@pytest.mark.parametrize(
    ("show", "error", "says"),
    [
        (lambda v: v[..., 1:], MismatchError, r"gave full observations as float32 \(4, 2, 148\) "),
        (lambda v: v.astype(float), MismatchError, "gave full observations as float64"),
        (lambda v: v.tolist(), MismatchError, "gave full observations as list in step 3"),
        (
            with_value(np.nan),
            UserCodeError,
            r"agent 'predator_0' a full observation .*\(nan\) in step 3 of .* seed 8",
        ),
        (lambda v: v[99], UserCodeError, r"failed in full_observations \(step 3\): IndexError"),
    ],
)
def test_full_observations_are_checked_where_they_come_in(show, error, says):
    with pytest.raises(error, match=says):
        collect(Sighted(show), RandomPolicy(), SEEDS, sampled(SEEDS), full=True)


def test_an_environment_without_full_observations_is_refused_in_one_sentence():
    with pytest.raises(MismatchError, match="gives no full observations: it hides nothing"):
        collect(Theirs(lambda given: given), RandomPolicy(), SEEDS, sampled(SEEDS), full=True)


@pytest.mark.parametrize(
    ("full", "says"),
    [
        ({"widths": (149, 149)}, "gave dict in its attribute full where"),
        (FullObservation(widths=(149,), blocks={}), r"cannot be \(full blocks must name every"),
    ],
)
def test_what_an_environment_states_of_full_observations_is_checked(full, says):
    with pytest.raises(MismatchError, match=says):
        full_spec(Sighted(full=full))


def test_an_attribute_that_fails_names_the_environment():
    class Failing(Sighted):
        full = property(lambda self: 1 / 0, lambda self, value: None)

    with pytest.raises(UserCodeError, match="'theirs' failed in full: ZeroDivisionError"):
        full_spec(Failing())
