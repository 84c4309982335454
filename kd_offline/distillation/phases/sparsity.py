"""Sparse matrices whose zeros change during training: RigL (Evci et al., 2020).

Every matrix has the same number of weights that are not zero in every step. Every few steps those
of the least magnitude are dropped, and as many others grow in their place, where the gradient is
largest; they begin at zero. The share that is exchanged falls by a cosine. The gradient of zeros is
there in any case, since training computes with full matrices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kd_offline.distillation.phases.base import Phase
from kd_offline.networks.arithmetic import NetworkShape
from kd_offline.networks.sparsity import sparse_matrices
from kd_offline.schemas.recipes import Sparsity
from kd_offline.students.folding import kept_columns
from kd_offline.students.networks import StudentTeam
from kd_offline.students.policy import fixed_mask
from kd_offline.types import BoolArray

if TYPE_CHECKING:
    from kd_offline.distillation.design import StudentDesign
    from kd_offline.distillation.train import Training


@dataclass(slots=True)
class SparseMatrix:
    """A matrix in training, and which of its blocks are not zero.

    ``columns``: int [C] are those of the deployed matrix; others are left alone. A block is
    ``block`` rows of one column.
    """

    weight: Tensor  # [R, I]
    columns: Tensor
    block: int
    kept: Tensor  # bool [R / block, C]

    @classmethod
    def largest(cls, weight: Tensor, columns: Tensor, block: int, count: int) -> SparseMatrix:
        """Keep the ``count`` blocks of the largest sums of magnitudes."""
        none = torch.zeros(weight.shape[0] // block, len(columns), dtype=torch.bool)
        matrix = cls(weight, columns, block, none.to(weight.device))
        matrix.kept = _first(matrix.scores(weight), count)
        return matrix

    @property
    def mask(self) -> Tensor:
        """1 where weights are trained, 0 where they stay zero: [R, I]."""
        mask = torch.ones_like(self.weight)
        mask[:, self.columns] = self.kept.repeat_interleave(self.block, 0).to(mask.dtype)
        return mask

    def scores(self, values: Tensor) -> Tensor:
        """Return the sum of magnitudes of ``values`` [R, I] in every block, [R / block, C]."""
        sizes = values.detach()[:, self.columns].abs()
        return sizes.view(len(self.kept), self.block, -1).sum(1)

    def exchange(self, gradient: Tensor, share: float) -> None:
        """Drop a share of the kept blocks by magnitude, and grow others by gradient.

        What is dropped does not grow in the same step. Of equal blocks the first one goes, or
        comes.
        """
        free = int((~self.kept).sum())
        count = min(int(share * int(self.kept.sum())), free)
        smallest = -self.scores(self.weight)
        dropped = _first(smallest.masked_fill(~self.kept, -math.inf), count)
        grown = _first(self.scores(gradient).masked_fill(self.kept, -math.inf), count)
        self.kept = (self.kept & ~dropped) | grown


def _first(scores: Tensor, count: int) -> Tensor:
    """Return where the ``count`` largest scores are; of equal ones the first."""
    order = torch.argsort(scores.flatten(), descending=True, stable=True)[:count]
    chosen = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    chosen[order] = True
    return chosen.view(scores.shape)


@dataclass(slots=True)
class SparseTraining(Phase):
    """Keeps matrices sparse from the first step to the last."""

    name = "sparsity"
    saved_as = "sparsity"

    settings: Sparsity
    visible: BoolArray | None  # what students see, [N, O]; None where that is drawn by episode
    matrices: list[SparseMatrix] = field(default_factory=list)

    @classmethod
    def of(cls, design: StudentDesign) -> SparseTraining | None:
        """Return the phase of a recipe; None if no matrix is sparse."""
        settings = design.recipe.sparsity
        if settings is None:
            return None
        epochs = design.recipe.optimisation.epochs
        return cls(0, epochs, settings, fixed_mask(design.card))

    def begin(self, state: Training) -> None:
        """Keep the largest of the weights there are."""
        (team,) = state.teams
        for i in range(len(team.widths)):
            self.matrices += self._of_agent(team, i)
        state.reshaped = True
        self._clear(state, state.average)

    def _of_agent(self, team: StudentTeam, i: int) -> list[SparseMatrix]:
        """Return the sparse matrices of an agent, and note in its shape how sparse they are."""
        network = team.network(i)
        weights = network.matrices()
        columns = [np.ones(weight.shape[1], bool) for weight in weights]
        if self.visible is not None:
            columns[0] = kept_columns(team, i, self.visible[i])[0]
        sizes = [(w.shape[0], int(c.sum())) for w, c in zip(weights, columns, strict=True)]
        sparse = sparse_matrices(sizes, self.settings)
        assert isinstance(network.shape, NetworkShape)  # noqa: S101 - other families decline
        network.shape = replace(network.shape, sparse=sparse)
        return [
            SparseMatrix.largest(
                weight, torch.from_numpy(np.flatnonzero(own)).to(weight.device), sparse.block, count
            )
            for weight, own, count in zip(weights, columns, sparse.kept, strict=True)
            if count is not None
        ]

    def before_step(self, state: Training, step: int, progress: float) -> None:
        """Exchange weights where it is time, and let no optimiser move a zero."""
        settings = self.settings
        if step and step % settings.every == 0 and progress < settings.until:
            share = settings.exchange / 2 * (1 + math.cos(math.pi * progress / settings.until))
            for matrix in self.matrices:
                if matrix.weight.grad is not None:
                    matrix.exchange(matrix.weight.grad, share)
            self._clear(state, state.average)
        for matrix in self.matrices:
            if matrix.weight.grad is not None:
                matrix.weight.grad.mul_(matrix.mask)

    def after_step(self) -> None:
        """Set dropped weights to zero again, since Muon's orthogonal updates change them."""
        with torch.no_grad():
            for matrix in self.matrices:
                matrix.weight.mul_(matrix.mask)

    def _clear(self, state: Training, average: Sequence[Tensor]) -> None:
        """Clear weights, their averages and their moments where there is to be nothing."""
        averages = dict(zip(map(id, state.team.parameters()), average, strict=True))
        with torch.no_grad():
            for matrix in self.matrices:
                mask, weight = matrix.mask, matrix.weight
                weight.mul_(mask)
                averages[id(weight)].mul_(mask)
                for optimiser in state.optimisers:
                    for values in optimiser.state.get(weight, {}).values():
                        if isinstance(values, Tensor) and values.shape == weight.shape:
                            values.mul_(mask)

    def tensors(self) -> dict[str, Tensor]:
        """Return which blocks are kept."""
        return {str(k): matrix.kept for k, matrix in enumerate(self.matrices)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Keep the blocks that were kept."""
        for k, matrix in enumerate(self.matrices):
            matrix.kept = tensors[str(k)].to(matrix.weight.device)
