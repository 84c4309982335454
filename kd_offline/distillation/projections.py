"""Layers that exist during training only, and are thrown away with the optimiser."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from kd_offline.schemas.recipes import LossSwitches


class Projections(nn.Module):
    """Relation projectors ``P_i``, role projections ``U_S`` and linear probes of the students.

    Student embeddings of unequal widths have no cosine; ``P_i`` maps each to a common width.
    ``probes`` maps a name to the width of what is read out of every embedding.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        roles: int,
        probes: dict[str, int],
        switches: LossSwitches,
        rng: np.random.Generator,
    ) -> None:
        super().__init__()
        self.widths = widths
        kind = switches.relation
        if kind == "auto":
            kind = "none" if len(set(widths)) == 1 else "linear"
        self.kind = kind
        common = switches.relation_width
        self.relation = nn.ModuleList(
            _projector(kind, width, common, rng) for width in widths if kind in ("linear", "mlp")
        )
        self.probes = nn.ModuleDict(
            {
                name: nn.ModuleList(_probe(width, outputs, rng) for width in widths)
                for name, outputs in probes.items()
            }
        )
        self.role = nn.ParameterList(
            nn.Parameter(_random(roles, width, rng), requires_grad=switches.learn_role_projection)
            for width in widths
            if roles
        )

    def common(self, embeddings: list[Tensor]) -> Tensor:
        """Return the embeddings [T, B, H_i] of all agents in one space: [T, B, N, d]."""
        if self.kind in ("linear", "mlp"):
            mapped = [p(e) for p, e in zip(self.relation, embeddings, strict=True)]
            return torch.stack(mapped, 2)
        widest = max(self.widths)
        padded = [nn.functional.pad(e, (0, widest - e.shape[-1])) for e in embeddings]
        return torch.stack(padded, 2)

    def log_roles(self, embeddings: list[Tensor], temperature: float) -> Tensor:
        """Return log role distributions of the students, [T, B, N, K]."""
        scores = [e @ u.T for u, e in zip(self.role, embeddings, strict=True)]
        return torch.log_softmax(torch.stack(scores, 2) / temperature, -1)

    def probe(self, name: str, embeddings: list[Tensor]) -> Tensor:
        """Return the linear read-out ``name`` of the students' embeddings, [T, B, N, F]."""
        heads = self.probes[name]
        return torch.stack([h(e) for h, e in zip(heads, embeddings, strict=True)], 2)  # type: ignore[call-overload]


def _probe(width: int, outputs: int, rng: np.random.Generator) -> nn.Linear:
    probe = nn.Linear(width, outputs)
    with torch.no_grad():
        probe.weight.copy_(_random(outputs, width, rng))
    nn.init.zeros_(probe.bias)
    return probe


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
    return torch.from_numpy((q if rows >= columns else q.T).astype(np.float32))
