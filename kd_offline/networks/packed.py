"""The interface of networks that run over packed sequences, as students do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor, nn

from kd_offline.networks.arithmetic import StudentShape
from kd_offline.networks.deployed import Affine, Cell

NO_TAPS: Mapping[str, Tensor] = MappingProxyType({})


class Packed(NamedTuple):
    """Outputs, embeddings and memory at each step of packed sequences.

    ``taps``: values of inner layers by name, [S, W] each; their widths are those of ``shape.taps``.
    """

    outputs: Tensor  # [S, A]
    embedding: Tensor  # [S, H]
    memory: Tensor  # [S, M]; M is 0 without a memory
    taps: Mapping[str, Tensor] = NO_TAPS

    def parts(self) -> dict[str, Tensor]:
        """Return every tensor by its name, taps too."""
        named = {f"tap {name}": values for name, values in self.taps.items()}
        return {
            "outputs": self.outputs,
            "embedding": self.embedding,
            **named,
            "memory": self.memory,
        }


class Stacked(NamedTuple):
    """Outputs, embeddings and taps of K networks at each of T steps of B sequences."""

    outputs: Tensor  # [T, K, A, B]
    embedding: Tensor  # [T, K, H, B]
    taps: Mapping[str, Tensor] = NO_TAPS  # [T, K, W, B] each


class Folded(NamedTuple):
    """An affine map with the preceding affine map folded in, differentiable in both."""

    weight: Tensor  # [rows, columns]; of a normalisation [columns], a diagonal
    bias: Tensor  # [rows]


def affine(layer: Any) -> Folded:
    """Return weight and bias of a linear layer or a normalisation, in float64."""
    return Folded(layer.weight.double(), layer.bias.double())


def compose(first: Folded | None, second: Folded) -> Folded:
    """Return the map that applies ``first`` and then ``second``."""
    if first is None:
        return second
    product = (
        second.weight @ first.weight if first.weight.ndim > 1 else second.weight * first.weight
    )
    return Folded(product, second.bias + second.weight @ first.bias)


def unchanged(matrix: Folded) -> Folded:
    """Return a matrix as it is."""
    return matrix


class Remnant(NamedTuple):
    """The kept units of an embedding after pruning, for other layers that read it."""

    units: Tensor  # int [H']
    gate: Tensor  # float [H'], factors of the gated network, which the small one does not apply


class PackedNetwork(nn.Module):
    """One agent's network, run over packed sequences.

    ``packed`` takes the content of :class:`torch.nn.utils.rnn.PackedSequence`: the rows of all
    sequences, step after step, longest sequence first. Acting is the same with one step at a time.
    The memory is one matrix that is zero at the start of an episode. A layer called ``head`` gives
    the outputs. The head, aligners and vectors are trained by AdamW, all other matrices by Muon.

    ``shape`` describes the network. Optional methods raise ``NotImplementedError``; a family
    declares which it offers, see :mod:`kd_offline.students.families.base`.
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
            Number of sequences that have each step; not increasing, sum S.
        memory : float [B, M]
            Before the first step, in the order of the sequences.
        columns : int64 [I], optional
            Indices of the network's inputs that are in ``x``; all others are zero. None: all. Given
            only to networks of families that drop columns.
        """
        raise NotImplementedError

    def stacked(self, x: Tensor) -> Stacked:
        """Run K networks of one shape over fresh episodes, ``x`` [T, K, I, B]; optional.

        Every parameter and buffer of this one has the networks as its first axis, see
        :mod:`kd_offline.networks.stacked`. What is returned is what :meth:`packed` gives for each
        network, up to rounding, and so are its gradients.
        """
        raise NotImplementedError

    @classmethod
    def is_stackable(cls) -> bool:
        """Tell whether :meth:`stacked` is there, and is that of the class that has :meth:`packed`.

        A class that changes how its networks run has to change both.
        """
        owner = next(c for c in cls.__mro__ if {"packed", "stacked"} & vars(c).keys())
        return owner is not PackedNetwork and "stacked" in vars(owner)

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

    def matrices(self) -> tuple[Tensor, ...]:
        """Return the parameters [rows, columns] that :meth:`folded` has one for one; optional.

        Where one of them is zero, and no map comes before the network, the folded one is too.
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

    def cell(self, matrices: Sequence[Affine]) -> Cell:
        """Return the recurrence of an exported network; optional.

        ``matrices``: those of :meth:`folded` between the layers of ``shape.trunk`` and the head, in
        float32, without the columns that a fixed mask hides.
        """
        raise NotImplementedError

    def run_folded(
        self, x: Tensor, sizes: list[int], memory: Tensor, matrices: Sequence[Folded]
    ) -> Packed:
        """Run with numbers like those of :meth:`folded` in place of the network's; optional."""
        raise NotImplementedError
