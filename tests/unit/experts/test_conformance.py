"""The conformance check of experts, on ours, on a policy of one's own, and on faulty ones."""

from dataclasses import replace

import numpy as np
import pytest

from kd_offline import environments
from kd_offline.experts.importers.expert import ForeignExpert
from kd_offline.experts.load import load
from kd_offline.testing.conformance import ConformanceError
from kd_offline.testing.experts import check_expert
from kd_offline.types import PolicyOutput


class Clock:
    """Prefers the action that its step counter shows."""

    def start(self, seeds):
        return np.zeros(len(seeds), np.int64)

    def act(self, view, memory):
        logits = np.zeros(view.available_actions.shape, np.float32)
        logits[np.arange(len(memory)), :, memory % logits.shape[-1]] = 2.0
        return PolicyOutput(logits), memory + 1


class Crowd(Clock):
    """Says something else of an episode when others are played with it."""

    def act(self, view, memory):
        output, after = super().act(view, memory)
        return PolicyOutput(output.logits + np.float32(len(memory)) * view.obs[..., :5]), after


def clock(spec):
    return Clock()


def crowd(spec):
    return Crowd()


@pytest.mark.parametrize(
    ("task", "reference"),
    [
        ("mpe/simple_spread_v3", "bundled"),
        ("mpe/simple_adversary_v3", "bundled:mlp"),
        ("mpe/simple_spread_v3", f"python:{__name__}:clock"),
    ],
)
def test_experts_keep_the_protocol(task, reference):
    world = environments.load(task)
    check_expert(load(reference, world.spec), world)


def test_an_episode_that_depends_on_others_is_found_out():
    world = environments.load("mpe/simple_spread_v3")
    with pytest.raises(ConformanceError, match="memory: logits of an episode depends"):
        check_expert(load(f"python:{__name__}:crowd", world.spec), world)


def test_a_digest_that_is_not_recorded_is_found_out():
    world = environments.load("mpe/simple_spread_v3")
    expert = load(f"python:{__name__}:clock", world.spec)
    assert isinstance(expert, ForeignExpert)
    other = expert.record.model_copy(update={"digest": None})
    with pytest.raises(ConformanceError, match="identity: digest ''"):
        check_expert(replace(expert, record=other), world)
