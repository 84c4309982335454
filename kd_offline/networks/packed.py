"""The interface of networks that run over packed sequences, as students are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from kd_offline.networks.arithmetic import StudentShape


class Packed(NamedTuple):
    """What a network says at each step of packed sequences, and what it carries on."""

    outputs: Tensor  # [S, A]
    embedding: Tensor  # [S, H]
    memory: Tensor  # [S, M]; M is 0 without a memory


class Folded(NamedTuple):
    """An affine map with what stands before it folded in, differentiable in both."""

    weight: Tensor  # [rows, columns]; of a normalisation [columns], a diagonal
    bias: Tensor  # [rows]


def affine(layer: Any) -> Folded:
    """Return weight and bias of a linear layer or a normalisation, in float64."""
    return Folded(layer.weight.double(), layer.bias.double())


def after(before: Folded | None, this: Folded) -> Folded:
    """Return ``this`` applied to the result of ``before``."""
    if before is None:
        return this
    product = this.weight @ before.weight if before.weight.ndim > 1 else this.weight * before.weight
    return Folded(product, this.bias + this.weight @ before.bias)


def unchanged(first: Folded) -> Folded:
    """Return a matrix as it is."""
    return first


class Remnant(NamedTuple):
    """What is left of an embedding once units are removed, for whatever else reads it."""

    units: Tensor  # int [H']
    gate: Tensor  # float [H'], that the gated network multiplied by and the small one does not


class PackedNetwork(nn.Module):
    """One agent's network, run over packed sequences.

    ``packed`` is called with what :class:`torch.nn.utils.rnn.PackedSequence` holds: the rows of all
    sequences, step after step, longest sequence first. Playing is the same with one step at a time.
    The memory is one matrix that is zero at the start of an episode. A layer called ``head`` gives
    the outputs; it, aligners and vectors are trained by AdamW, all other matrices by Muon.

    ``shape`` is the network in numbers. What is optional raises ``NotImplementedError``; a family
    that offers it says so, see :mod:`kd_offline.students.families.base`.
    """

    shape: StudentShape

    def start(self, batch: int) -> Tensor:
        """Return the memory of ``batch`` fresh episodes: zeros [1, B, M]."""
        raise NotImplementedError

    def packed(
        self, x: Tensor, sizes: list[int], memory: Tensor, columns: Tensor | None = None
    ) -> Packed:
        """Run over packed sequences; differentiable.

        Parameters
        ----------
        x : float [S, I]
        sizes : list of int
            How many sequences have each step; never growing, sum S.
        memory : float [B, M]
            Before the first step, in the order of the sequences.
        columns : int64 [I], optional
            Which of the network's inputs ``x`` has, where all others are zero; None: all. Only
            networks of families that drop columns are given any.
        """
        raise NotImplementedError

    def gated(self, x: Tensor, sizes: list[int], memory: Tensor, gates: Sequence[Tensor]) -> Packed:
        """Run with gates on the hidden units, [H] for each layer of ``shape.units``; optional.

        A gate of 0 removes its unit, and gates of 1 change nothing.
        """
        raise NotImplementedError

    def narrow_into(
        self, small: PackedNetwork, units: Sequence[Tensor], gates: Sequence[Tensor]
    ) -> Remnant:
        """Copy the chosen units of every layer into ``small``, their gates folded in; optional.

        ``units``: int [H'] and ``gates``: float [H'] of each layer of ``shape.units``.
        """
        raise NotImplementedError

    def folded(
        self, before: Folded | None = None, inputs: Callable[[Folded], Folded] = unchanged
    ) -> tuple[Folded, ...]:
        """Return all matrices as they are deployed, in the order of the computation; optional.

        Parameters
        ----------
        before
            Applied to the network's inputs, and so part of the first matrix.
        inputs
            What becomes of the first matrix, whose columns are the inputs.
        """
        raise NotImplementedError

    def run_folded(
        self, x: Tensor, sizes: list[int], memory: Tensor, matrices: Sequence[Folded]
    ) -> Packed:
        """Run with numbers like those of :meth:`folded` in place of the network's; optional."""
        raise NotImplementedError
