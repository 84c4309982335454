"""A GRU whose two matrices are low-rank products, with fewer weights and multiply-accumulates."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd_offline.networks.gru import Weights


class LowRankGRU(nn.Module):
    """A GRU [x -> h] with weights ``U V``: ``V`` of [r, x] or [r, h], ``U`` of [3 h, r].

    It is called like :class:`torch.nn.GRU`, over whole sequences. Training forms the products once
    a call, which is faster there than two thin products at every step. Its cost is that of the
    deployed form ``U (V x)`` (low-rank matrices of recurrent networks: Sak et al., 2014).
    """

    def __init__(self, inputs: int, width: int, rank: int) -> None:
        super().__init__()
        self.weight_ih_in = nn.Parameter(torch.empty(rank, inputs))
        self.weight_ih_out = nn.Parameter(torch.empty(3 * width, rank))
        self.weight_hh_in = nn.Parameter(torch.empty(rank, width))
        self.weight_hh_out = nn.Parameter(torch.empty(3 * width, rank))
        self.bias_ih = nn.Parameter(torch.empty(3 * width))
        self.bias_hh = nn.Parameter(torch.empty(3 * width))

    def weights(self) -> Weights:
        """Return the full matrices."""
        return Weights(
            self.weight_ih_out @ self.weight_ih_in,
            self.weight_hh_out @ self.weight_hh_in,
            self.bias_ih,
            self.bias_hh,
        )

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``x``: float [T, B, x] and memory [1, B, h] to states [T, B, h] and memory."""
        weights = list(self.weights())
        out, final_memory = torch.gru(x, memory, weights, True, 1, 0.0, self.training, False, False)
        return out, final_memory
