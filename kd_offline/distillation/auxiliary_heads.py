"""Networks of loss terms that exist in training only, and are thrown away with the optimiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn

from kd_offline.errors import UsageError
from kd_offline.networks.packed import Remnant


class AuxiliaryHeads(nn.Module):
    """The auxiliary networks of loss terms, by the term's name."""

    def __init__(self, of_term: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.terms = tuple(of_term)
        self.heads = nn.ModuleList(of_term.values())

    def by_term(self) -> dict[str, nn.Module]:
        """Return the networks by the names of their terms."""
        return dict(zip(self.terms, self.heads, strict=True))

    def require_narrowable(self) -> None:
        """Raise a ``UsageError`` where a network cannot follow embeddings that get narrower."""
        for term, heads in zip(self.terms, self.heads, strict=True):
            agents = heads if isinstance(heads, nn.ModuleList) else [heads]
            if not all(isinstance(_first(head), nn.Linear) for head in agents):
                msg = (
                    f"the loss term {term!r} has a network that does not begin with a linear layer "
                    "for each agent, so unit gates cannot narrow it: allocate the budget by worth"
                )
                raise UsageError(msg)

    @torch.no_grad()
    def narrowed(self, embeddings: Sequence[Remnant]) -> AuxiliaryHeads:
        """Return the same networks of what is left of each agent's embedding."""
        small = deepcopy(self)
        for heads in small.heads:
            assert isinstance(heads, nn.ModuleList)  # noqa: S101 - see require_narrowable
            for head, left in zip(heads, embeddings, strict=True):  # of each agent
                layer = _first(head)
                assert isinstance(layer, nn.Linear)  # noqa: S101
                kept = (layer.weight[:, left.units] * left.gate).contiguous()
                layer.weight = nn.Parameter(kept, requires_grad=layer.weight.requires_grad)
                layer.in_features = len(left.units)
        return small


def _first(head: nn.Module) -> nn.Module | None:
    """Return the layer that reads an agent's embedding."""
    return head[0] if isinstance(head, nn.Sequential) else head


def linear(weight: Tensor, *, bias: bool) -> nn.Linear:
    """Return a linear layer of the given weight [O, I], its bias zero."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias)
    with torch.no_grad():
        layer.weight.copy_(weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def orthogonal(rows: int, columns: int, rng: np.random.Generator) -> Tensor:
    """Return a random matrix [rows, columns] whose shorter side is orthonormal."""
    q, _ = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    # Row by row: the fused optimiser takes parameters and their restored moments to lie alike.
    return torch.from_numpy(np.ascontiguousarray(q if rows >= columns else q.T, np.float32))
