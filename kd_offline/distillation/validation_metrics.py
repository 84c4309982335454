"""Metrics that compare students with the expert on episodes that they were not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kd_offline.distillation.episode_targets import EpisodeTargets
from kd_offline.distillation.objective import student_batch
from kd_offline.distillation.targets import PackedTargets
from kd_offline.distillation.terms.active import ActiveTerms
from kd_offline.distillation.terms.base import Elements, StudentBatch
from kd_offline.students.networks import StudentTeam


@dataclass(frozen=True, slots=True)
class Validation:
    """Metrics of held-out episodes, and the one that chooses the best epoch; lower is better."""

    figures: dict[str, float]
    criterion: str | None


@torch.no_grad()
def validate(team: StudentTeam, data: EpisodeTargets, batch: int, terms: ActiveTerms) -> Validation:
    """Return mean KL, action agreement and joint agreement of greedy choices, and terms' figures.

    Means are over decisions: an agent that is there and has two or more legal actions. *joint* asks
    that all deciding agents of a side agree, and ``kl.<agent>`` is one agent's. A value-based
    expert's distribution is that of its scaled Q-values at ``q_temperature``, its choice the
    highest of them. Without logits and Q-values only the figures of loss terms are known, such as
    the cross entropy of executed actions. A figure of which there is no decision is left out.
    """
    team.eval()
    totals = _Totals()
    for part in data.parts(batch):
        students = _students(team, part)
        counted = part.targets.weight * students.policy.has_choice(part.targets.available)
        totals.add(terms.validation(students, part.targets.terms, counted))
        totals.add(_imitation(students, counted))
    figures = totals.means()
    own = [name for name in totals.names if name not in ("agreement", "joint_agreement")]
    criteria = [name for name in (*terms.criteria, "kl", *own) if name in figures]
    figures |= {f"kl.{agent}": kl for agent, kl in totals.by_agent("kl", team.spec.agents)}
    return Validation(figures, criteria[0] if criteria else None)


@dataclass(slots=True)
class _Totals:
    """Sums of figures and of their weights over steps, of each agent."""

    values: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return list(self.values)

    def add(self, found: dict[str, Elements]) -> None:
        for name, elements in found.items():
            value, weight = (elements.values * elements.weight).sum(0), elements.weight.sum(0)
            self.values[name] = self.values.get(name, torch.zeros(())) + value
            self.weights[name] = self.weights.get(name, torch.zeros(())) + weight

    def means(self) -> dict[str, float]:
        totals = ((name, self.values[name].sum(), self.weights[name].sum()) for name in self.values)
        return {name: float(value / weight) for name, value, weight in totals if weight > 0}

    def by_agent(self, name: str, agents: Sequence[str]) -> list[tuple[str, float]]:
        if name not in self.values:
            return []
        values, weights = self.values[name], self.weights[name]
        means = zip(agents, (values / weights).tolist(), weights, strict=True)
        return [(agent, mean) for agent, mean, weight in means if weight > 0]


def _students(team: StudentTeam, part: PackedTargets) -> StudentBatch:
    """Return what all students say."""
    given, sizes = part.targets, part.sizes
    inputs = team.packed(given.inputs, given.last_actions, sizes)
    found = team.outputs([team.agent(i, inputs) for i in range(len(team.widths))])
    return student_batch(found.logits, found.embeddings, given, team.spec, found.taps)


def _imitation(students: StudentBatch, counted: Tensor) -> dict[str, Elements]:
    """Return KL and agreement of every agent [S, N], and joint agreement of every side [S, K]."""
    expert, own = students.expert_policy, students.policy
    if expert is None:
        return {}
    same = own.agrees(expert).float()
    sides = [
        [i for i, side in enumerate(students.side_of) if side == one]
        for one in sorted(set(students.side_of))
    ]
    decided = torch.stack([counted[..., side].any(-1) for side in sides], -1)
    agreed = (same + (1 - counted)) > 0
    together = torch.stack([agreed[..., side].all(-1) for side in sides], -1)
    return {
        "kl": Elements(expert.kl(own), counted),
        "agreement": Elements(same, counted),
        "joint_agreement": Elements(together.float(), decided.float()),
    }
