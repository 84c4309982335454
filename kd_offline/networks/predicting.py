"""PTDE's student: predicts the teacher's embedding of the state from a history of local inputs.

Stage 2 of PTDE (Chen et al., 2024, arXiv 2210.08872): the teacher's head reads ``(h, z)``, where a
hypernetwork makes ``z`` of the state; the student predicts it, as the state is not there::

    h     = GRU(trunk(local))
    z_hat = Z norm(relu(P h + b)) + c
    out   = V [h, z_hat] + d

Its memory is ``[h | z_hat]``, of which the next step reads ``h``: what is exported keeps one vector
that the head reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kd_offline.networks.deployed import Affine, PredictingCell
from kd_offline.networks.packed import (
    Folded,
    Packed,
    PackedNetwork,
    Stacked,
    affine,
    compose,
    unchanged,
)
from kd_offline.networks.predicting_shape import PredictingShape
from kd_offline.networks.recurrent import RecurrentNetwork, orthogonal
from kd_offline.networks.stacked import StackedAffine, dense


class PredictingNetwork(PackedNetwork):
    """PTDE's student; its tap ``z`` is the prediction.

    ``rng`` draws the first weights; None leaves them arbitrary, for weights that are loaded next.
    """

    shape: PredictingShape

    def __init__(
        self, shape: PredictingShape, rng: np.random.Generator | None, *, head_gain: float = 0.01
    ) -> None:
        super().__init__()
        self.shape = shape
        # The body's head is the layer that predicts.
        self.body = RecurrentNetwork(shape.body, rng, head_gain=float(np.sqrt(2.0)))
        self.norm = nn.LayerNorm(shape.predictor)
        self.z = nn.Linear(shape.predictor, shape.z)
        self.head = nn.Linear(shape.embedding, shape.outputs)
        for layer, gain in ((self.z, 1.0), (self.head, head_gain)):
            orthogonal(layer.weight, gain, rng)
            nn.init.zeros_(layer.bias)

    def start(self, batch: int) -> Tensor:
        """Return the memory of ``batch`` fresh episodes: zeros [1, B, H + Z]."""
        return self.head.weight.new_zeros(1, batch, self.shape.embedding)

    def packed(
        self, x: Tensor, sizes: list[int], memory: Tensor, columns: Tensor | None = None
    ) -> Packed:
        """Run over packed sequences, see :class:`~kd_offline.networks.packed.PackedNetwork`."""
        body = self.body.packed(x, sizes, memory[:, : self.shape.recurrent], columns)
        z = self.z(self.norm(body.outputs.relu()))
        read = torch.cat([body.embedding, z], -1)
        return Packed(self.head(read), read, read, {"z": z})

    def stacked(self, x: Tensor) -> Stacked:
        """Run K networks at once, see :meth:`PackedNetwork.stacked`."""
        state = self.body.stacked_states(*self.body.stacked_trunk(x))
        predicted = dense(state, StackedAffine.of(self.body.head), self.norm.eps)
        z = StackedAffine.of(self.z).after(self.norm)(predicted)
        read = torch.cat([state, z], 2)
        return Stacked(StackedAffine.of(self.head)(read), read, {"z": z})

    def folded(
        self, before: Folded | None = None, inputs: Callable[[Folded], Folded] = unchanged
    ) -> tuple[Folded, ...]:
        """Return the matrices of trunk, GRU, predicting layer, z and head."""
        z = compose(affine(self.norm), affine(self.z))
        return (*self.body.folded(before, inputs), z, affine(self.head))

    def cell(self, matrices: Sequence[Affine]) -> PredictingCell:
        """Return GRU and prediction of an exported network."""
        *gru, predict, z = matrices
        return PredictingCell(self.body.cell(gru), predict, z)

    def run_folded(
        self, x: Tensor, sizes: list[int], memory: Tensor, matrices: Sequence[Folded]
    ) -> Packed:
        """Run with folded matrices."""
        *first, last, head = matrices
        body = self.body.run_folded(x, sizes, memory[:, : self.shape.recurrent], first)
        predicted = functional.layer_norm(body.outputs.relu(), (self.shape.predictor,))
        z = functional.linear(predicted, *last)
        read = torch.cat([body.embedding, z], -1)
        return Packed(functional.linear(read, *head), read, read, {"z": z})
