"""A network's matrices as they are deployed, and a student's forward pass through them in int8.

What is linear and stands before a matrix is part of it: the aligner, the gain and the offset of a
layer normalisation, the bits of a fixed mask. Export writes these matrices down; training that is
aware of rounding computes with them. Both take them from here, so they round the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kd_offline.networks.gru import Weights, packed_gru
from kd_offline.networks.low_rank import LowRankGRU
from kd_offline.networks.quantise import rounded
from kd_offline.networks.recurrent import Packed, RecurrentNetwork
from kd_offline.types import BoolArray

if TYPE_CHECKING:
    from kd_offline.students.networks import StudentTeam


class Folded(NamedTuple):
    """An affine map in float64, differentiable in what it was folded from."""

    weight: Tensor  # [rows, columns]; of a normalisation [columns], a diagonal
    bias: Tensor  # [rows]


class FoldedNetwork(NamedTuple):
    """All matrices of one agent; normalisations are without gain and offset."""

    trunk: tuple[Folded, ...]
    gru: tuple[Folded, ...]  # of the input and of the memory, or none; of low rank two for each
    head: Folded

    @property
    def matrices(self) -> tuple[Folded, ...]:
        """In the order of the computation."""
        return (*self.trunk, *self.gru, self.head)


def fold(team: StudentTeam, i: int, visible: BoolArray | None) -> FoldedNetwork:
    """Return the matrices of agent ``i``.

    Parameters
    ----------
    team : StudentTeam
    i : int
    visible : bool [O], optional
        The agent's row of a fixed mask. Columns that it hides are zero in the first matrix; None
        for a mask that is drawn by episode.
    """
    network, aligner = team.networks[i], team.aligners[i]
    assert isinstance(network, RecurrentNetwork)  # noqa: S101 - nn.ModuleList forgets it
    return fold_network(
        network,
        _affine(aligner) if isinstance(aligner, nn.Linear) else None,
        lambda first: _seen(first, team, i, visible),
    )


def fold_network(
    network: RecurrentNetwork,
    before: Folded | None = None,
    inputs: Callable[[Folded], Folded] = lambda first: first,
) -> FoldedNetwork:
    """Return the matrices of a network.

    Parameters
    ----------
    network : RecurrentNetwork
    before : Folded, optional
        Applied to the network's inputs.
    inputs : callable
        What becomes of the first matrix, whose columns are the inputs.
    """
    found = []
    for layer in network.trunk:
        if isinstance(layer, nn.Linear):
            found.append(_after(before, _affine(layer)))
        elif isinstance(layer, nn.LayerNorm):
            before = _affine(layer)
    depth, unit = len(found), network.gru
    if unit is not None:
        first, *others = _gru(unit)
        found += [_after(before, first), *others]
        before = None
    found.append(_after(before, _affine(network.head)))
    found[0] = inputs(found[0])
    return FoldedNetwork(tuple(found[:depth]), tuple(found[depth:-1]), found[-1])


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
    varying, constant = map(torch.from_numpy, kept_columns(team, i, visible))
    bias = first.bias + first.weight[:, constant].sum(1)
    return Folded(first.weight * varying, bias)


def _after(before: Folded | None, this: Folded) -> Folded:
    """Return ``this`` applied to the result of ``before``."""
    if before is None:
        return this
    product = this.weight @ before.weight if before.weight.ndim > 1 else this.weight * before.weight
    return Folded(product, this.bias + this.weight @ before.bias)


def _gru(unit: nn.GRU | LowRankGRU) -> list[Folded]:
    if isinstance(unit, nn.GRU):
        ih, hh, *biases = (number.double() for number in unit.parameters())
        return [Folded(*each) for each in zip((ih, hh), biases, strict=True)]
    found = []
    for thin, wide, bias in (
        (unit.weight_ih_in, unit.weight_ih_out, unit.bias_ih),
        (unit.weight_hh_in, unit.weight_hh_out, unit.bias_hh),
    ):
        first = thin.double()
        found += [Folded(first, first.new_zeros(len(first))), Folded(wide.double(), bias.double())]
    return found


def _affine(layer: Any) -> Folded:
    return Folded(layer.weight.double(), layer.bias.double())


class _Rounded(torch.autograd.Function):
    """The rounding of int8 weights; gradients go straight through (Bengio et al., 2013)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return torch.from_numpy(rounded(weight.numpy()))

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
        every = [_single(one) for one in folded.matrices]
        depth = len(folded.trunk)
        for weight, bias in every[:depth]:
            x = functional.layer_norm(functional.linear(x, weight, bias).relu(), bias.shape)
        if folded.gru:
            half = len(folded.gru) // 2
            ours, theirs = every[depth : depth + half], every[depth + half : -1]
            weights, biases = zip(_product(ours), _product(theirs), strict=True)
            x = packed_gru(x, sizes, memory, Weights(*weights, *biases))
        after = x if folded.gru else x[:, :0]
        return Packed(functional.linear(x, *every[-1]), self._embedding(team, i, x), after)

    def _embedding(self, team: StudentTeam, i: int, x: Tensor) -> Tensor:
        """Return the embedding in the scale that it has without rounding."""
        network = team.networks[i]
        last = network.trunk[-1] if network.gru is None and len(network.trunk) else None
        return x * last.weight + last.bias if isinstance(last, nn.LayerNorm) else x


def _product(maps: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return one map in place of one or two."""
    if len(maps) == 1:
        return maps[0]
    (thin, first), (wide, second) = maps
    return wide @ thin, wide @ first + second


def _single(folded: Folded) -> tuple[Tensor, Tensor]:
    weight: Tensor = _Rounded.apply(folded.weight.float())  # type: ignore[no-untyped-call]
    return weight, folded.bias.float()
