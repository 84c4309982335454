"""Networks of loss terms that exist in training only; terms may ask to keep them in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kd_offline.errors import CheckpointError, UsageError
from kd_offline.networks.files import read_tensors, write_tensors
from kd_offline.networks.packed import Remnant
from kd_offline.runs.folder import open_run

AUXILIARY = "auxiliary.safetensors"


class AuxiliaryHeads(nn.Module):
    """The auxiliary networks of loss terms, by the term's name."""

    def __init__(self, of_term: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.terms = tuple(of_term)
        self.heads = nn.ModuleList(of_term.values())

    def by_term(self) -> dict[str, nn.Module]:
        """Return the networks by the names of their terms."""
        return dict(zip(self.terms, self.heads, strict=True))

    def each_by_term(self) -> dict[str, Sequence[nn.Module]]:
        """Return the networks by the names of their terms, of the one seed."""
        return {name: (heads,) for name, heads in self.by_term().items()}

    def of_seed(self, number: int) -> dict[str, nn.Module]:
        """Return the networks by the names of their terms; ``number`` is 0."""
        return self.by_term()

    def require_narrowable(self, agents: int) -> None:
        """Raise a ``UsageError`` where a network cannot follow embeddings that get narrower."""
        for term, heads in zip(self.terms, self.heads, strict=True):
            first = list(heads)[:agents] if isinstance(heads, nn.ModuleList) else []
            linear = [head for head in first if isinstance(_first(head), nn.Linear)]
            if len(linear) < agents:
                msg = (
                    f"the loss term {term!r} has a network that does not begin with a linear layer "
                    "for each agent, so unit gates cannot narrow it: allocate the budget by worth"
                )
                raise UsageError(msg)

    @torch.no_grad()
    def narrowed(self, embeddings: Sequence[Remnant]) -> AuxiliaryHeads:
        """Return the same networks for the remaining units of each agent's embedding."""
        small = deepcopy(self)
        for heads in small.heads:
            assert isinstance(heads, nn.ModuleList)  # noqa: S101 - see require_narrowable
            for head, left in zip(heads, embeddings, strict=False):  # of each agent
                layer = _first(head)
                assert isinstance(layer, nn.Linear)  # noqa: S101
                kept = (layer.weight[:, left.units] * left.gate).contiguous()
                layer.weight = nn.Parameter(kept, requires_grad=layer.weight.requires_grad)
                layer.in_features = len(left.units)
        return small


def _first(head: nn.Module) -> nn.Module | None:
    """Return the layer that reads an agent's embedding."""
    return head[0] if isinstance(head, nn.Sequential) else head


def write_auxiliary(
    run: Path, tensors: Mapping[int, Mapping[str, Tensor]], students: Mapping[int, str]
) -> None:
    """Write the auxiliary networks that a run keeps, of every seed; none: write nothing.

    ``students``: the digests of the teams that they were trained with, by seed.
    """
    named = {f"{seed}.{name}": x for seed, own in tensors.items() for name, x in own.items()}
    if named:
        stated = json.dumps({str(seed): digest for seed, digest in students.items()})
        write_tensors(run / AUXILIARY, named, metadata={"students": stated})


def read_auxiliary(run: Path, term: str) -> dict[int, dict[str, Tensor]]:
    """Return the auxiliary networks of a term that a run kept: their weights by seed and name.

    Raises
    ------
    CheckpointError, StorageError
        It kept none, or the file is damaged, or of other students than the run's.
    """
    found = {}
    for seed, tensors in read_all_auxiliary(run, f"distil again, with terms.{term}.save").items():
        own = {name: x for name, x in tensors.items() if name.startswith(f"{term}.")}
        found[seed] = {name.removeprefix(f"{term}."): x for name, x in own.items()}
    return found


def read_all_auxiliary(run: Path, remedy: str) -> dict[int, dict[str, Tensor]]:
    """Return all auxiliary networks that a run kept, by seed; raises as :func:`read_auxiliary`."""
    file = read_tensors(run / AUXILIARY, remedy)
    digests = {str(result.seed): result.digest for result in open_run(run).manifest().results}
    if file.metadata.get("students") != json.dumps(digests):
        msg = f"{str(file.path)!r} is of other students than those of its run: distil again"
        raise CheckpointError(msg)
    return {
        int(seed): {
            name.removeprefix(f"{seed}."): x
            for name, x in file.tensors().items()
            if name.startswith(f"{seed}.")
        }
        for seed in digests
    }


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


def projector(width: int, common: int, rng: np.random.Generator, *, hidden: bool) -> nn.Module:
    """Return a linear map from ``width`` to ``common``, with ``hidden`` of two layers and a ReLU.

    Weights are drawn from ``rng``, each with its shorter side orthonormal.
    """
    first = linear(orthogonal(common, width, rng), bias=hidden)
    if not hidden:
        return first
    second = linear(orthogonal(common, common, rng), bias=True)
    return nn.Sequential(first, nn.ReLU(), second)
