"""The one network family of experts, critics and students: dense trunk, optional GRU, linear head.

``Linear - ReLU - LayerNorm`` for every trunk width, then an optional GRU, then a linear head. The
*embedding* is the GRU's state after the step, or the last trunk layer where there is no GRU. There
is no normalisation of the inputs by LayerNorm, so dropping masked input columns at export leaves
every output as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from kd_offline.networks.gru import Weights, packed_gru
from kd_offline.networks.low_rank import LowRankGRU


@dataclass(frozen=True, slots=True)
class NetworkShape:
    """Widths of inputs, trunk layers, GRU (None: no memory) and outputs."""

    inputs: int
    trunk: tuple[int, ...]
    gru: int | None
    outputs: int
    rank: int | None = None  # of both matrices of the GRU; None: full

    @property
    def embedding(self) -> int:
        """Width of the embedding, H."""
        return self.gru if self.gru is not None else (self.inputs, *self.trunk)[-1]


class Packed(NamedTuple):
    """What a network says at each step of packed sequences, and what it carries on."""

    outputs: Tensor  # [S, A]
    embedding: Tensor  # [S, H]
    memory: Tensor  # [S, H], or [S, 0] without a GRU


class RecurrentNetwork(nn.Module):
    """One network of a :class:`NetworkShape`, unrolled over whole sequences.

    ``rng`` draws the first weights; None leaves them arbitrary, for weights that are loaded next.
    """

    def __init__(
        self, shape: NetworkShape, rng: np.random.Generator | None, *, head_gain: float = 0.01
    ) -> None:
        super().__init__()
        self.shape = shape
        widths = (shape.inputs, *shape.trunk)
        self.trunk = nn.Sequential()
        for inputs, outputs in pairwise(widths):
            linear = nn.Linear(inputs, outputs)
            _orthogonal(linear.weight, float(np.sqrt(2.0)), rng)
            nn.init.zeros_(linear.bias)
            self.trunk.extend([linear, nn.ReLU(inplace=True), nn.LayerNorm(outputs)])
        self.gru = _unit(shape, widths[-1])
        if self.gru is not None:
            for name, weight in self.gru.named_parameters():
                if name.startswith("weight"):
                    _orthogonal(weight, 1.0, rng)
                else:
                    nn.init.zeros_(weight)
        self.head = nn.Linear(shape.embedding, shape.outputs)
        _orthogonal(self.head.weight, head_gain, rng)
        nn.init.zeros_(self.head.bias)

    def start(self, batch: int) -> Tensor:
        """Return the memory of ``batch`` fresh episodes: zeros [1, B, H]; width 0 without a GRU."""
        return self.head.weight.new_zeros(1, batch, self.shape.gru or 0)

    def forward(
        self, x: Tensor, memory: Tensor, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Map ``x``: float [T, B, inputs] to outputs [T, B, A], embeddings [T, B, H] and memory.

        With ``lengths``: int [B], at least 1, nothing is computed behind a sequence's end: outputs
        and embeddings are zero there, and the memory is that of its last step.
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
        """Run over packed sequences as :func:`packed_gru` takes them.

        ``x``: float [S, inputs]; ``memory``: float [B, H], of width 0 without a GRU. ``columns``:
        int64 [I], which inputs ``x`` [S, I] has, where all others are zero and there is a trunk or
        a GRU; None: all.
        """
        gru = None if self.gru is None else weights_of(self.gru)
        if columns is None:
            x = self.trunk(x)
        elif len(self.trunk):
            first = self.trunk[0]
            assert isinstance(first, nn.Linear)  # noqa: S101 - nn.Sequential forgets it
            x = self.trunk[1:](functional.linear(x, first.weight[:, columns], first.bias))
        elif gru is not None:
            gru = gru._replace(ih=gru.ih[:, columns])
        if gru is None:
            return Packed(self.head(x), x, x[:, :0])
        x = packed_gru(x, sizes, memory, gru)
        return Packed(self.head(x), x, x)

    def _up_to(self, lengths: Tensor, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        given = pack_padded_sequence(x, lengths, enforce_sorted=False)
        sizes, order, back = given.batch_sizes, given.sorted_indices, given.unsorted_indices
        found = self.packed(given.data, sizes.tolist(), memory[0, order])
        ends = (sizes.cumsum(0) - sizes)[lengths[order] - 1] + torch.arange(len(lengths))
        both = (given._replace(data=y) for y in (found.outputs, found.embedding))
        outputs, embeddings = (pad_packed_sequence(y, total_length=len(x))[0] for y in both)
        return outputs, embeddings, found.memory[ends[back]].unsqueeze(0)


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


def _orthogonal(weight: Tensor, gain: float, rng: np.random.Generator | None) -> None:
    """Fill ``weight`` [out, in] with a scaled orthogonal matrix (Saxe et al., 2014).

    Drawn with NumPy, whose random streams, unlike PyTorch's, do not depend on the processor.
    """
    if rng is None:
        return
    rows, columns = weight.shape
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q = q * np.sign(np.diag(r))
    matrix = q if rows >= columns else q.T
    with torch.no_grad():
        weight.copy_(torch.from_numpy(gain * matrix))
