"""What an environment gives is checked where it comes in, and told with the environment's name."""

from dataclasses import replace

import numpy as np
import pytest

from kd_offline import environments
from kd_offline.errors import MismatchError, UserCodeError
from kd_offline.evaluation.rollout import rollout
from kd_offline.rollout.collect import collect
from kd_offline.rollout.play import sampled
from kd_offline.rollout.policies import RandomPolicy

NAME = "mpe/simple_spread_v3"
SEEDS = np.arange(7, 11, dtype=np.uint64)


class Theirs:
    """An environment of other people's making, which does something odd in step 3 or in reset."""

    def __init__(self, odd, call="step"):
        self.inner, self.odd, self.call = environments.load(NAME), odd, call
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
