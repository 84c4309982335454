"""The conformance check of algorithms, on ours and on such as break one rule."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from kd_offline.experts.algorithms import ALGORITHMS
from kd_offline.experts.algorithms.base import State
from kd_offline.experts.algorithms.clipped_policy import ClippedPolicy
from kd_offline.experts.policy_learner import PolicyLearner
from kd_offline.experts.policy_team import PolicyTeam
from kd_offline.testing.algorithms import check_algorithm
from kd_offline.testing.conformance import ConformanceError

SHORT = {
    "buffer_episodes": 30,
    "batch_episodes": 8,
    "updates_per_batch": 4,
    "target_every": 3,
    "epsilon_frames": 100,
}
VALUES = ("vdn", "qmix", "qatten", "qplex", "wqmix", "qtran")
SETTINGS: dict[str, dict[str, Any]] = {
    **{name: {"minibatches": 2} for name in ("mappo", "ippo")},
    **{name: {"q_learning": SHORT} for name in VALUES},
    "ddn": {
        "q_learning": SHORT,
        "architecture": {"trunk": (8,), "gru": 8, "block_width": 5, "block_hidden": 4},
        "novelty": {"coefficient": 0.01, "width": 8},
    },
}


@pytest.mark.parametrize("name", list(ALGORITHMS.built_in))
def test_ours_keep_the_protocol(name):
    check_algorithm(name, SETTINGS[name])


def test_both_networks_of_ddn_continue_to_the_same_bits_with_rmsprop():
    local = {"distillation": {"optimiser": "rmsprop"}}
    check_algorithm("ddn", {**SETTINGS["ddn"], "optimiser": "rmsprop", **local})


def test_a_state_without_the_optimiser_is_found_out(monkeypatch):
    parts = PolicyLearner._parts
    without = lambda self: {k: v for k, v in parts(self).items() if k != "adam"}  # noqa: E731
    monkeypatch.setattr(PolicyLearner, "_parts", without)
    with pytest.raises(ConformanceError, match=r"restored state: .* differs"):
        check_algorithm("mappo", SETTINGS["mappo"])


def test_a_state_that_is_no_copy_is_found_out(monkeypatch):
    def shared(self):
        return State(dict(self.team.model.named_parameters()))

    monkeypatch.setattr(PolicyLearner, "state", shared)
    with pytest.raises(ConformanceError, match=r"state: .* changed after it was taken"):
        check_algorithm("mappo", SETTINGS["mappo"])


def test_a_figure_that_is_not_declared_is_found_out(monkeypatch):
    monkeypatch.setattr(ClippedPolicy, "figures", {"entropy": "of the policy"})
    with pytest.raises(ConformanceError, match=r"figures: .*value_loss.* is not declared"):
        check_algorithm("mappo", SETTINGS["mappo"])


def test_a_cost_that_is_not_that_of_the_networks_is_found_out(monkeypatch):
    monkeypatch.setattr(PolicyTeam, "value_parts", lambda self: ())
    with pytest.raises(ConformanceError, match="cost: value_parts have 0 parameters"):
        check_algorithm("mappo", SETTINGS["mappo"])


def test_outputs_that_are_not_recorded_so_are_found_out(monkeypatch):
    recorded = ClippedPolicy.recorded
    silent = lambda self, recipe: replace(recorded(self, recipe), value_of="")  # noqa: E731
    monkeypatch.setattr(ClippedPolicy, "recorded", silent)
    with pytest.raises(ConformanceError, match="recording: value_of"):
        check_algorithm("mappo", SETTINGS["mappo"])


def test_weights_that_are_not_loaded_are_found_out(monkeypatch):
    monkeypatch.setattr(PolicyTeam, "load", lambda self, weights: torch.manual_seed(0))
    with pytest.raises(ConformanceError, match="weights: loaded"):
        check_algorithm("mappo", SETTINGS["mappo"])
