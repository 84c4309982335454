"""Every loss term of ours keeps the promises of the protocol; what breaks one is found."""

from typing import Any

import pytest
import torch
from torch import nn

from kd_offline.distillation.terms import TERMS
from kd_offline.distillation.terms.active import term_type
from kd_offline.distillation.terms.base import Elements, LossTerm, TermSettings
from kd_offline.testing.conformance import ConformanceError
from kd_offline.testing.terms import check_term

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "ce": [{"target": target} for target in ("soft", "executed", "sampled")],
    "policy": [{"form": "awr"}, {"form": "crr"}, {"ratio": "joint", "temperature": "kl"}],
    "structure": [{"relation": "mlp", "centre": True}, {"relation": "zero_pad"}],
    "role": [{"init": "random", "learn_projection": False}],
    "regression": [{"loss": "huber"}],
    "q_values": [{"loss": "huber"}],
    "privileged_embedding": [{"tap": "z", "scale": "none"}],
    "feature": [{"loss": "mse", "scale": "dataset"}, {"tap": "s_hat"}],
    "logits": [{"loss": "huber"}],
    "relation_attention": [{"relation": "policy"}],
    "teachers": [{"rule": "value"}, {"rule": "validation"}],
}
CASES: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in TERMS.built_in]
CASES += [(name, settings) for name, each in SETTINGS.items() for settings in each]


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_our_terms_keep_the_protocol(name, settings):
    check_term(term_type(name), settings, name=name)


def test_dueling_students_are_a_case_of_the_regression():
    check_term(term_type("regression"), name="regression", student={"dueling": True})


@pytest.mark.parametrize(
    ("term", "student"),
    [
        ("privileged_embedding", {"family": "fusion", "block_width": 3}),  # as wide as s_hat
        ("privileged_embedding", {"family": "fusion", "block_width": 5}),
        ("privileged_embedding", {"family": "ptde"}),  # has no s_hat
        ("feature", {"family": "fusion"}),
    ],
)
def test_terms_on_taps_keep_the_protocol_with_students_that_have_them(term, student):
    check_term(term_type(term), name=term, student=student)


class Good(LossTerm[TermSettings]):
    """Squares of the legal logits, and of a head on each embedding."""

    description = "squares"

    def auxiliary_heads(self, widths, spec, rng):
        heads = nn.ModuleList(nn.Linear(width, 1) for width in widths)
        for head in heads:
            nn.init.zeros_(head.weight)
            nn.init.ones_(head.bias)
        return heads

    def targets(self, batch):
        return {"goal": batch.weight}

    def loss(self, students, targets, heads):
        policy = students.policy
        seen = policy.parameters.masked_fill(~policy.available, 0.0).square().sum(-1)
        says = torch.cat([h(e) for h, e in zip(heads, students.embeddings, strict=True)], -1)
        gap = (says - targets["goal"]).square()
        return Elements(seen + gap, students.weight)


class Wordy(Good):
    description = "two\nlines"


class Open(Good):
    """A setting without a default cannot be left out of a recipe."""

    class settings_type(TermSettings):
        needed: int


class Absent(Good):
    def arrays(self, present):
        return ["steps/dreams"]


class Restless(Good):
    def targets(self, batch):
        return {"goal": batch.weight + torch.rand(())}


class Infinite(Good):
    def targets(self, batch):
        return {"goal": batch.weight / 0.0}


class Relative(Good):
    def targets(self, batch):
        return {"goal": batch.weight / batch.weight.sum()}


class Global(Good):
    def auxiliary_heads(self, widths, spec, rng):
        return nn.ModuleList(nn.Linear(width, 1) for width in widths)


class Reduced(Good):
    def loss(self, students, targets, heads):
        found = super().loss(students, targets, heads)
        return Elements(found.values.mean(), found.weight)


class Negative(Good):
    def loss(self, students, targets, heads):
        found = super().loss(students, targets, heads)
        return Elements(found.values, -found.weight)


class Rooted(Good):
    """The root of zero has no gradient."""

    def loss(self, students, targets, heads):
        found = super().loss(students, targets, heads)
        return Elements((found.values - found.values).sqrt(), found.weight)


class Lawless(Good):
    def loss(self, students, targets, heads):
        found = super().loss(students, targets, heads)
        return Elements(found.values + students.policy.parameters.sum(-1), found.weight)


class Undead(Good):
    def loss(self, students, targets, heads):
        found = super().loss(students, targets, heads)
        return Elements(found.values, torch.ones_like(found.weight))


class Forgetful(Good):
    """Counts its calls, which no state of a module holds."""

    calls = 0

    def loss(self, students, targets, heads):
        self.calls += 1
        found = super().loss(students, targets, heads)
        return Elements(found.values * (1 + 1e-5 * self.calls), found.weight)


def test_a_term_that_keeps_every_rule_passes():
    check_term(Good)


@pytest.mark.parametrize(
    ("term", "rule"),
    [
        (Wordy, "declaration"),
        (Open, "declaration"),
        (Absent, "arrays"),
        (Restless, "fit"),
        (Infinite, "targets"),
        (Relative, "targets"),
        (Global, "auxiliary_heads"),
        (Reduced, "loss"),
        (Negative, "loss"),
        (Rooted, "gradients"),
        (Lawless, "legal actions"),
        (Undead, "legal actions"),
        (Forgetful, "restored state"),
    ],
)
def test_a_broken_promise_is_named(term, rule):
    with pytest.raises(ConformanceError) as found:
        check_term(term)
    assert found.value.rule == rule
