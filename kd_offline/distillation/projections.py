"""Layers that exist during training only, and are thrown away with the optimiser."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn

from kd_offline.distillation.losses import log_softmax
from kd_offline.schemas.recipes import LossSwitches
from kd_offline.students.settling import Remnant


class Projections(nn.Module):
    """Relation projectors ``P_i``, role projections ``U_S`` and the values of dueling students.

    Student embeddings of unequal widths have no cosine; ``P_i`` maps each to a common width.
    ``side_of``: the side of each agent, none for one side. With ``dueling`` a linear head on each
    agent's embedding gives the value of the state, so that the student's own head is left with the
    advantages (Wang et al., 2016).
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        roles: int,
        switches: LossSwitches,
        rng: np.random.Generator,
        *,
        dueling: bool = False,
        side_of: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.widths = widths
        self.side_of = tuple(side_of) or (0,) * len(widths)
        kind = switches.relation
        if kind == "auto":
            kind = "none" if len(set(widths)) == 1 else "linear"
        self.kind = kind
        common = switches.relation_width
        self.relation = nn.ModuleList(
            _projector(kind, width, common, rng) for width in widths if kind in ("linear", "mlp")
        )
        self.role = nn.ParameterList(
            nn.Parameter(_random(roles, width, rng), requires_grad=switches.learn_role_projection)
            for width in widths
            if roles
        )
        self.value = nn.ModuleList(_value_head(width) for width in widths if dueling)

    def common(self, embeddings: list[Tensor]) -> list[Tensor]:
        """Return the embeddings [..., H_i] of all agents in one space: N of [..., d]."""
        if self.kind in ("linear", "mlp"):
            return [p(e) for p, e in zip(self.relation, embeddings, strict=True)]
        widest = max(self.widths)
        return [nn.functional.pad(e, (0, widest - e.shape[-1])) for e in embeddings]

    def log_roles(self, embeddings: list[Tensor], temperature: float) -> Tensor:
        """Return log role distributions of the students, [..., N, K]."""
        scores = [e @ u.T for u, e in zip(self.role, embeddings, strict=True)]
        return log_softmax(torch.stack(scores, -2) / temperature)

    def values(self, embeddings: list[Tensor]) -> Tensor:
        """Return the values of the states as dueling students estimate them, [..., N]."""
        return torch.cat([v(e) for v, e in zip(self.value, embeddings, strict=True)], -1)

    @torch.no_grad()
    def narrowed(self, embeddings: Sequence[Remnant]) -> Projections:
        """Return the same projections of what is left of each agent's embedding."""
        small = deepcopy(self)
        small.widths = tuple(len(left.units) for left in embeddings)
        for i, left in enumerate(embeddings):
            for layer in _readers(small, i):
                layer.weight = _columns(layer.weight, left)
                layer.in_features = small.widths[i]
            if len(small.role):
                small.role[i] = _columns(small.role[i], left)
        return small


def _readers(projections: Projections, i: int) -> list[nn.Linear]:
    """Return the layers that take the embedding of agent ``i``."""
    every = [table[i] for table in (projections.relation, projections.value) if len(table)]
    first = [each[0] if isinstance(each, nn.Sequential) else each for each in every]
    return [layer for layer in first if isinstance(layer, nn.Linear)]


def _columns(weight: Tensor, left: Remnant) -> nn.Parameter:
    kept = (weight[:, left.units] * left.gate).contiguous()
    return nn.Parameter(kept, requires_grad=weight.requires_grad)


def _value_head(width: int) -> nn.Module:
    head = nn.Linear(width, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def _projector(kind: str, width: int, common: int, rng: np.random.Generator) -> nn.Module:
    first = nn.Linear(width, common, bias=kind == "mlp")
    with torch.no_grad():
        first.weight.copy_(_random(common, width, rng))
    if kind == "linear":
        return first
    second = nn.Linear(common, common)
    with torch.no_grad():
        second.weight.copy_(_random(common, common, rng))
    for layer in (first, second):
        nn.init.zeros_(layer.bias)
    return nn.Sequential(first, nn.ReLU(), second)


def _random(rows: int, columns: int, rng: np.random.Generator) -> Tensor:
    q, _ = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    # Row by row: the fused optimiser takes parameters and their restored moments to lie alike.
    return torch.from_numpy(np.ascontiguousarray(q if rows >= columns else q.T, np.float32))
