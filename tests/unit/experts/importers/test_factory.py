from typing import Any

import numpy as np
import pytest

from kd_offline import environments
from kd_offline.errors import CheckpointError, MismatchError, UsageError, UserCodeError
from kd_offline.experts.load import load as load_expert
from kd_offline.types import PolicyOutput


def load(*given: Any, **settings: Any) -> Any:
    return load_expert(*given, **settings)


SPREAD = environments.load("mpe/simple_spread_v3").spec
HERE = f"python:{__name__}"


class Fixed:
    def __init__(self, spec, **said):
        self.spec, self.said = spec, said

    def start(self, seeds):
        return 0

    def act(self, view, memory):
        shape = (len(view.obs), self.spec.n_agents, self.spec.action_count)
        return PolicyOutput(np.zeros(shape, np.float32), **self.said), memory + 1


class Counted(Fixed):
    parameters, macs, digest = 12, 10, "sha256:" + "0" * 64


def counted(spec):
    return Counted(spec)


def fixed(spec):
    return Fixed(spec)


def valued(spec):
    return Fixed(spec, value=np.zeros((2, 3), np.float32))


def wrong(spec):
    return Fixed(spec, value=np.zeros((2, 4), np.float32))


def failing(spec):
    return Fixed(spec, no=1)


def sulking(spec):
    raise SystemExit(0)


class Halved(Fixed):
    parameters = 0.5


class Unnamed(Fixed):
    digest = "mine"


class Shy(Fixed):
    @property
    def macs(self):
        return 1 / 0


class Network(Fixed):
    def parameters(self):
        return []


class Factory:
    """A factory that is no function."""

    def __call__(self, spec):
        return Network(spec)


halved, unnamed, shy, network = Halved, Unnamed, Shy, Factory()


def nothing(spec):
    return None


def test_a_function_of_the_environment_makes_the_policy():
    expert = load(f"{HERE}:counted", SPREAD)
    assert expert.digest == Counted.digest
    assert expert.record.parameters == 12
    costs = [shape.cost() for shape in expert.actor_shapes()]
    assert [(c.parameters, c.macs) for c in costs] == [(12, 10)] * 3
    assert load(f"{HERE}:fixed", SPREAD).digest.startswith("sha256:")
    assert load(f"{HERE}:valued", SPREAD).recipe.critic_inputs is not None


def test_a_policy_that_does_not_say_its_cost_cannot_be_compared():
    with pytest.raises(MismatchError, match="attributes parameters and macs"):
        load(f"{HERE}:fixed", SPREAD).actor_shapes()


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("wrong", MismatchError, r"gives value of shape \(2, 4\)"),
        ("failing", UserCodeError, r"failed in act \(step 0, environment mpe/simple_spread_v3, 3 "),
        ("nothing", CheckpointError, "without start and act"),
        ("sulking", UserCodeError, "failed in the call of the factory: SystemExit: 0"),
        ("halved", CheckpointError, "states parameters as 0.5: give a whole number"),
        ("unnamed", CheckpointError, "states its digest as 'mine': give sha256:"),
        ("shy", UserCodeError, "failed in looking at what the factory made: ZeroDivisionError"),
        ("missing", CheckpointError, "has no function 'missing'"),
    ],
)
def test_a_policy_that_does_not_fit_is_told(name, error, says):
    with pytest.raises(error, match=says):
        load(f"{HERE}:{name}", SPREAD)


def test_a_network_may_be_the_policy_and_an_object_the_factory():
    expert = load(f"{HERE}:network", SPREAD)
    assert expert.record.parameters == 0
    assert expert.digest == load(f"{HERE}:fixed", SPREAD).digest


@pytest.mark.parametrize("raised", ["SystemExit(0)", "KeyError('x')", "BaseException()"])
def test_a_module_that_fails_is_told(tmp_path, monkeypatch, raised):
    name = "sulking_" + raised[:4].lower()
    (tmp_path / f"{name}.py").write_text(f"raise {raised}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserCodeError, match="failed in its import: " + raised.partition("(")[0]):
        load(f"python:{name}:make", SPREAD)


def test_a_place_that_is_none():
    with pytest.raises(UsageError, match="names no function"):
        load("python:package", SPREAD)
    with pytest.raises(CheckpointError, match="PYTHONPATH"):
        load("python:no.such.package:make", SPREAD)
