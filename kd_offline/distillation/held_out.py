"""How near students are to the expert, on episodes that they were not trained on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kd_offline.distillation import losses
from kd_offline.distillation.lessons import Episodes
from kd_offline.distillation.targets import PackedTargets, Targets
from kd_offline.students.networks import StudentTeam


@torch.no_grad()
def held_out_metrics(team: StudentTeam, data: Episodes, batch: int) -> dict[str, float]:
    """Return mean KL, cross entropy, action agreement and joint agreement of greedy choices.

    Means are over decisions: an agent that is there and has two or more legal actions. *joint* asks
    that all deciding agents of a side agree, and ``kl.<agent>`` is one agent's. A value-based
    expert's distribution is that of its scaled Q-values at ``q_temperature``, its choice the
    highest of them. Without logits and Q-values only the cross entropy of the executed actions is
    known. A figure of which there is no decision is left out.
    """
    team.eval()
    sums: dict[str, Tensor] = {}
    for part in data.parts(batch):
        for name, value in _sums(_logits(team, part), part.targets, team.spec.side_of).items():
            sums[name] = sums.get(name, torch.zeros(())) + value
    decisions, moments = sums.pop("decisions"), sums.pop("moments")
    cloned = sums.pop("cloned", decisions)
    over = {"ce": cloned.sum(), "joint_agreement": moments}
    out = {
        name: float(value.sum() / over.get(name, decisions.sum()))
        for name, value in sums.items()
        if over.get(name, decisions.sum()) > 0
    }
    if "kl" in out:
        each = zip(team.spec.agents, (sums["kl"] / decisions).tolist(), decisions, strict=True)
        out |= {f"kl.{agent}": kl for agent, kl, count in each if count > 0}
    return out


def _logits(team: StudentTeam, part: PackedTargets) -> Tensor:
    """Return what all students say, [S, N, A]."""
    given, sizes = part.targets, part.sizes
    inputs = team.packed(given.inputs, given.last_actions, sizes)
    return team.joined([team.agent(i, inputs).outputs for i in range(len(team.widths))])


def _sums(logits: Tensor, part: Targets, side_of: Sequence[int]) -> dict[str, Tensor]:
    """Return sums over steps, [N]; of joint figures over sides too, []."""
    student = losses.log_policy(logits, part.available)
    weight = part.weight * (part.available.sum(-1) > 1)
    sides = [[i for i, own in enumerate(side_of) if own == side] for side in sorted(set(side_of))]
    decided = torch.stack([weight[..., side].any(-1) for side in sides])
    out = {"decisions": weight.sum(0), "moments": decided.sum()}
    if part.label is not None:
        counted = weight if part.cloned is None else weight * part.cloned
        out["ce"] = (losses.cross_entropy(part.label, student) * counted).sum(0)
        out["cloned"] = counted.sum(0)
    if part.expert is not None:
        kl = losses.kl_divergence(part.expert, student, part.available)
        same = (student.argmax(-1) == part.expert.argmax(-1)).float()
        out["kl"] = (kl * weight).sum(0)
        out["agreement"] = (same * weight).sum(0)
        settled = (same + (1 - weight)) > 0
        together = torch.stack([settled[..., side].all(-1) for side in sides])
        out["joint_agreement"] = (together & decided).sum()
    return out
