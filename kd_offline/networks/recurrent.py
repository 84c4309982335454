"""The one network family of experts, critics and students: dense trunk, optional GRU, linear head.

``Linear - ReLU - LayerNorm`` for every trunk width, then an optional GRU, then a linear head. The
*embedding* is the GRU's state after the step, or the last trunk layer where there is no GRU. There
is no normalisation of the inputs by LayerNorm, so dropping masked input columns at export leaves
every output as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from kd_offline.networks.arithmetic import NetworkShape
from kd_offline.networks.deployed import Affine, GRUCell
from kd_offline.networks.gru import Weights, packed_gru
from kd_offline.networks.low_rank import LowRankGRU
from kd_offline.networks.packed import (
    Folded,
    Packed,
    PackedNetwork,
    Remnant,
    Stacked,
    affine,
    compose,
    unchanged,
)
from kd_offline.networks.stacked import StackedAffine, dense, scaled, stacked_gru

_NO_UNIT = 1e-6  # of a sum of gates: what a layer of closed gates is divided by


class RecurrentNetwork(PackedNetwork):
    """One network of a :class:`NetworkShape`, unrolled over whole sequences.

    ``rng`` draws the first weights; None leaves them arbitrary, for weights that are loaded next.
    """

    def __init__(
        self, shape: NetworkShape, rng: np.random.Generator | None, *, head_gain: float = 0.01
    ) -> None:
        super().__init__()
        self.shape: NetworkShape = shape
        widths = (shape.inputs, *shape.trunk)
        self.trunk = nn.Sequential()
        for inputs, outputs in pairwise(widths):
            linear = nn.Linear(inputs, outputs)
            orthogonal(linear.weight, float(np.sqrt(2.0)), rng)
            nn.init.zeros_(linear.bias)
            self.trunk.extend([linear, nn.ReLU(inplace=True), nn.LayerNorm(outputs)])
        self.gru = _unit(shape, widths[-1])
        if self.gru is not None:
            for name, weight in self.gru.named_parameters():
                if name.startswith("weight"):
                    orthogonal(weight, 1.0, rng)
                else:
                    nn.init.zeros_(weight)
        self.head = nn.Linear(shape.embedding, shape.outputs)
        orthogonal(self.head.weight, head_gain, rng)
        nn.init.zeros_(self.head.bias)

    def start(self, batch: int) -> Tensor:
        """Return the memory of ``batch`` fresh episodes: zeros [1, B, H]; width 0 without a GRU."""
        return self.head.weight.new_zeros(1, batch, self.shape.gru or 0)

    def forward(
        self, x: Tensor, memory: Tensor, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Map ``x``: float [T, B, inputs] to outputs [T, B, A], embeddings [T, B, H] and memory.

        With ``lengths``: int [B], at least 1, on the processor, nothing is computed behind a
        sequence's end: outputs and embeddings are zero there, and the memory is that of its last
        step.
        """
        if lengths is not None:
            return self._up_to(lengths, x, memory)
        x = self.trunk(x)
        if self.gru is not None:
            x, memory = self.gru(x, memory)
        return self.head(x), x, memory

    def packed(
        self, x: Tensor, sizes: list[int], memory: Tensor, columns: Tensor | None = None
    ) -> Packed:
        """Run over packed sequences, see :class:`~kd_offline.networks.packed.PackedNetwork`."""
        gru = None if self.gru is None else weights_of(self.gru)
        if columns is None:
            x = self.trunk(x)
        elif len(self.trunk):
            first = self._linear(0)
            x = self.trunk[1:](functional.linear(x, first.weight[:, columns], first.bias))
        elif gru is not None:
            gru = gru._replace(ih=gru.ih[:, columns])
        else:  # the inputs are the embedding
            x = x.new_zeros(len(x), self.shape.inputs).index_copy(1, columns, x)
        if gru is None:
            return Packed(self.head(x), x, x[:, :0])
        x = packed_gru(x, sizes, memory, gru)
        return Packed(self.head(x), x, x)

    def stacked(self, x: Tensor) -> Stacked:
        """Run K networks at once, see :meth:`PackedNetwork.stacked`."""
        embedding = self.stacked_states(*self.stacked_trunk(x))
        return Stacked(StackedAffine.of(self.head)(embedding), embedding)

    def stacked_trunk(self, x: Tensor) -> tuple[Tensor, nn.LayerNorm | None]:
        """Return the last layer of K trunks, and the normalisation whose gain it still lacks."""
        norm = None  # gain and offset become part of the layer that reads them
        for index in range(len(self.shape.trunk)):
            layer = StackedAffine.of(self._linear(index)).after(norm)
            norm = self._norm(index)
            x = dense(x, layer, norm.eps)
        return x, norm

    def stacked_states(self, x: Tensor, norm: nn.LayerNorm | None = None) -> Tensor:
        """Return the states of K GRUs, or without them ``x``, with ``norm`` applied before."""
        if self.gru is None:
            return scaled(x, norm)
        gru = weights_of(self.gru)
        ih, ih_bias = StackedAffine(gru.ih, gru.ih_bias).after(norm)
        return stacked_gru(x, gru._replace(ih=ih, ih_bias=ih_bias))

    def gated(self, x: Tensor, sizes: list[int], memory: Tensor, gates: Sequence[Tensor]) -> Packed:
        """Run with gates on the hidden units; full GRUs only."""
        for index, gate in enumerate(gates[: len(self.shape.trunk)]):
            x = gated_norm(functional.relu(self._linear(index)(x)), self._norm(index), gate)
        if self.gru is None:
            return Packed(self.head(x), x, x[:, :0])
        # The carried state is not gated; the layers that read it get the gated state.
        own = weights_of(self.gru)
        states = packed_gru(x, sizes, memory, own._replace(hh=own.hh * gates[-1]))
        seen = states * gates[-1]
        return Packed(self.head(seen), seen, states)

    def narrow_into(
        self, small: PackedNetwork, units: Sequence[Tensor], gates: Sequence[Tensor]
    ) -> Remnant:
        """Copy the chosen units into a network with that number of units; full GRUs only."""
        assert isinstance(small, RecurrentNetwork)  # noqa: S101 - of the same family
        input_units = torch.arange(self.shape.inputs)
        for index in range(len(self.shape.trunk)):
            kept_units, gate = units[index], gates[index]
            _copy(small._linear(index), self._linear(index), kept_units, input_units)
            norm, small_norm = self._norm(index), small._norm(index)
            small_norm.weight.copy_(norm.weight[kept_units] * gate)
            small_norm.bias.copy_(norm.bias[kept_units] * gate)
            input_units = kept_units
        gate = torch.ones(len(input_units))
        if self.gru is not None and small.gru is not None:
            kept_units, gate = units[-1], gates[-1]
            rows = torch.cat([kept_units + k * self.shape.embedding for k in range(3)])
            input_weights, hidden_weights, *biases = (p[rows] for p in self.gru.parameters())
            parts = [input_weights[:, input_units], hidden_weights[:, kept_units] * gate, *biases]
            for target, values in zip(small.gru.parameters(), parts, strict=True):
                target.copy_(values)
            input_units = kept_units
        small.head.weight.copy_(self.head.weight[:, input_units] * gate)
        small.head.bias.copy_(self.head.bias)
        return Remnant(input_units, gate)

    def matrices(self) -> tuple[Tensor, ...]:
        """Return the matrices of trunk, GRU and head, as :meth:`folded` has them."""
        named = (p for name, p in self.named_parameters() if p.ndim == 2 and name != "head.weight")
        return (*named, self.head.weight)

    def folded(
        self, before: Folded | None = None, inputs: Callable[[Folded], Folded] = unchanged
    ) -> tuple[Folded, ...]:
        """Return the matrices of trunk, GRU and head; of a low-rank GRU two for each side."""
        matrices = []
        for layer in self.trunk:
            if isinstance(layer, nn.Linear):
                matrices.append(compose(before, affine(layer)))
            elif isinstance(layer, nn.LayerNorm):
                before = affine(layer)
        if self.gru is not None:
            first, *other_matrices = _gru_matrices(self.gru)
            matrices += [compose(before, first), *other_matrices]
            before = None
        matrices.append(compose(before, affine(self.head)))
        return (inputs(matrices[0]), *matrices[1:])

    def cell(self, matrices: Sequence[Affine]) -> GRUCell:
        """Return the GRU of an exported network."""
        half = len(matrices) // 2
        return GRUCell(tuple(matrices[:half]), tuple(matrices[half:]))

    def run_folded(
        self, x: Tensor, sizes: list[int], memory: Tensor, matrices: Sequence[Folded]
    ) -> Packed:
        """Run with folded matrices; the embedding keeps its scale."""
        depth, x = len(self.shape.trunk), self._through_trunk(x, matrices)
        if self.gru is None:
            return Packed(functional.linear(x, *matrices[-1]), self._rescaled(x), x[:, :0])
        half = (len(matrices) - depth - 1) // 2
        sides = matrices[depth : depth + half], matrices[depth + half : -1]
        weights, biases = zip(*map(_product, sides), strict=True)
        x = packed_gru(x, sizes, memory, Weights(*weights, *biases))
        return Packed(functional.linear(x, *matrices[-1]), x, x)

    def folded_trunk(self, x: Tensor, matrices: Sequence[Folded]) -> Tensor:
        """Return the trunk's output for ``x`` [S, I] with folded matrices, in its own scale."""
        return self._rescaled(self._through_trunk(x, matrices))

    def _through_trunk(self, x: Tensor, matrices: Sequence[Folded]) -> Tensor:
        for weight, bias in matrices[: len(self.shape.trunk)]:
            x = functional.layer_norm(functional.linear(x, weight, bias).relu(), bias.shape)
        return x

    def _rescaled(self, x: Tensor) -> Tensor:
        """Return what the trunk gives with the gain and offset of its last layer."""
        depth = len(self.shape.trunk)
        last = self._norm(depth - 1) if depth else None
        return x if last is None else x * last.weight + last.bias

    def _linear(self, index: int) -> nn.Linear:
        layer = self.trunk[3 * index]
        assert isinstance(layer, nn.Linear)  # noqa: S101 - nn.Sequential forgets it
        return layer

    def _norm(self, index: int) -> nn.LayerNorm:
        layer = self.trunk[3 * index + 2]
        assert isinstance(layer, nn.LayerNorm)  # noqa: S101 - nn.Sequential forgets it
        return layer

    def _up_to(self, lengths: Tensor, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        sizes, order, back = packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices
        result = self.packed(packed.data, sizes.tolist(), memory[0, order])
        longest_first = lengths.sort(descending=True).values
        ends = (sizes.cumsum(0) - sizes)[longest_first - 1] + torch.arange(len(lengths))
        sequences = (packed._replace(data=y) for y in (result.outputs, result.embedding))
        outputs, embeddings = (pad_packed_sequence(y, total_length=len(x))[0] for y in sequences)
        return outputs, embeddings, result.memory[ends.to(x.device)[back]].unsqueeze(0)


def gated_norm(x: Tensor, norm: nn.LayerNorm, gate: Tensor) -> Tensor:
    """Return ``x`` [..., H], normalised over the units that are open, times the gate.

    Mean and variance are weighted by ``gate`` [H], so that with gates of 0 and 1 the result is that
    of the layer's normalisation without the closed units.
    """
    total = gate.sum().clamp(min=_NO_UNIT)
    centred = x - ((x @ gate) / total).unsqueeze(-1)
    variance = (centred.square() @ gate) / total
    scale = (variance + norm.eps).rsqrt().unsqueeze(-1)
    return centred * scale * (norm.weight * gate) + norm.bias * gate


def _copy(target: nn.Linear, source: nn.Linear, rows: Tensor, columns: Tensor) -> None:
    target.weight.copy_(source.weight[rows][:, columns])
    target.bias.copy_(source.bias[rows])


def _gru_matrices(unit: nn.GRU | LowRankGRU) -> list[Folded]:
    if isinstance(unit, nn.GRU):
        ih, hh, *biases = (parameter.double() for parameter in unit.parameters())
        return [Folded(*pair) for pair in zip((ih, hh), biases, strict=True)]
    matrices = []
    for inner, outer, bias in (
        (unit.weight_ih_in, unit.weight_ih_out, unit.bias_ih),
        (unit.weight_hh_in, unit.weight_hh_out, unit.bias_hh),
    ):
        first = inner.double()
        matrices += [
            Folded(first, first.new_zeros(len(first))),
            Folded(outer.double(), bias.double()),
        ]
    return matrices


def _product(maps: Sequence[Folded]) -> Folded:
    """Return the product of one or two maps as one map."""
    if len(maps) == 1:
        return maps[0]
    (inner, first), (outer, second) = maps
    return Folded(outer @ inner, outer @ first + second)


def weights_of(gru: nn.GRU | LowRankGRU) -> Weights:
    """Return the matrices and biases of a GRU."""
    if isinstance(gru, LowRankGRU):
        return gru.weights()
    return Weights(*gru.parameters())


def _unit(shape: NetworkShape, inputs: int) -> nn.GRU | LowRankGRU | None:
    if shape.gru is None:
        return None
    if shape.rank is None:
        return nn.GRU(inputs, shape.gru)
    return LowRankGRU(inputs, shape.gru, shape.rank)


def orthogonal(weight: Tensor, gain: float, rng: np.random.Generator | None) -> None:
    """Fill ``weight`` [out, in] with a scaled orthogonal matrix (Saxe et al., 2014).

    It is drawn with NumPy, whose random streams, unlike PyTorch's, do not depend on the processor.
    """
    if rng is None:
        return
    rows, columns = weight.shape
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q = q * np.sign(np.diag(r))
    matrix = q if rows >= columns else q.T
    with torch.no_grad():
        weight.copy_(torch.from_numpy(gain * matrix))
