"""A network's matrices as they are deployed, and a student's forward pass through them in int8.

What is linear and stands before a matrix is part of it: the aligner, the gain and the offset of a
layer normalisation, the bits of a fixed mask. Export writes these matrices down; training that is
aware of rounding computes with them. Both take them from here, so they round the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from kd_offline.networks.packed import Folded, Packed, affine
from kd_offline.networks.quantise import rounded
from kd_offline.types import BoolArray

if TYPE_CHECKING:
    from kd_offline.students.networks import StudentTeam


def fold(team: StudentTeam, i: int, visible: BoolArray | None) -> tuple[Folded, ...]:
    """Return the matrices of agent ``i``.

    Parameters
    ----------
    team : StudentTeam
    i : int
    visible : bool [O], optional
        The agent's row of a fixed mask. Columns that it hides are zero in the first matrix; None
        for a mask that is drawn by episode.
    """
    aligner = team.aligners[i]
    before = affine(aligner) if isinstance(aligner, nn.Linear) else None
    return team.network(i).folded(before, lambda first: _seen(first, team, i, visible))


def kept_columns(team: StudentTeam, i: int, visible: BoolArray) -> tuple[BoolArray, BoolArray]:
    """Return which columns of the first matrix vary under a fixed mask, and which are always 1."""
    width, asked = team.spec.obs_widths[i], team.inputs
    bits, none = visible[:width], np.zeros(width, bool)
    varying, constant = [bits], [none]
    if asked.mask:
        varying, constant = [*varying, none], [*constant, bits]
    if asked.motion:
        varying, constant = [*varying, bits], [*constant, none]
    more = team.spec.action_counts[i] if asked.last_action else 0
    ends = np.ones(more, bool)
    return np.concatenate([*varying, ends]), np.concatenate([*constant, ~ends])


def _seen(first: Folded, team: StudentTeam, i: int, visible: BoolArray | None) -> Folded:
    """Clear the columns of hidden features; the bits of a fixed mask become part of the bias."""
    if visible is None:
        return first
    kept = kept_columns(team, i, visible)
    varying, constant = (torch.from_numpy(x).to(first.weight.device) for x in kept)
    bias = first.bias + first.weight[:, constant].sum(1)
    return Folded(first.weight * varying, bias)


class _Rounded(torch.autograd.Function):
    """The rounding of int8 weights; gradients go straight through (Bengio et al., 2013)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return torch.from_numpy(rounded(weight.cpu().numpy())).to(weight.device)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0]


@dataclass(frozen=True, slots=True)
class RoundedPass:
    """The forward pass of a team's agents with the weights that an int8 export will have.

    ``visible``: a fixed mask, bool [N, O], or None for one that is drawn by episode.
    """

    visible: BoolArray | None

    def __call__(
        self, team: StudentTeam, i: int, x: Tensor, sizes: list[int], memory: Tensor
    ) -> Packed:
        """Run agent ``i`` over packed ``x`` [S, I]; as its network does, aligner included."""
        folded = fold(team, i, None if self.visible is None else self.visible[i])
        return team.network(i).run_folded(x, sizes, memory, [_single(one) for one in folded])


def _single(folded: Folded) -> Folded:
    weight: Tensor = _Rounded.apply(folded.weight.float())  # type: ignore[no-untyped-call]
    return Folded(weight, folded.bias.float())
