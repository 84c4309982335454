"""A GRU over packed sequences of different lengths.

PyTorch's own packed GRU keeps an autograd graph of every step, and its backward pass fills a tensor
of the size of the whole input at every step. Here the backward pass of a step is three operations,
and the gradients of the matrices are one product over all steps (backpropagation through time,
Werbos, 1990).
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


class Weights(NamedTuple):
    """Matrices and biases of a GRU, in PyTorch's order of gates: reset, update, new."""

    ih: Tensor  # [3 H, I]
    hh: Tensor  # [3 H, H]
    ih_bias: Tensor  # [3 H]
    hh_bias: Tensor  # [3 H]


def packed_gru(x: Tensor, sizes: list[int], memory: Tensor, weights: Weights) -> Tensor:
    """Run a GRU (Cho et al., 2014; in PyTorch's form) over packed sequences.

    Parameters
    ----------
    x : float [S, I]
        The inputs of all sequences, step after step, longest sequence first
        (:class:`torch.nn.utils.rnn.PackedSequence`).
    sizes : list of int
        Number of sequences that have each step; not increasing, sum S.
    memory : float [B, H]
        Hidden states before the first step, in the same order of sequences.

    Returns
    -------
    float [S, H]
        The hidden state after each step; differentiable once.
    """
    gates = functional.linear(x, weights.ih, weights.ih_bias)
    states: Tensor = _Steps.apply(gates, memory, weights.hh, weights.hh_bias, sizes)  # type: ignore[no-untyped-call]
    return states


class _Steps(torch.autograd.Function):
    """The recurrence over steps; ``gates`` [S, 3 H] holds the products of the inputs."""

    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, memory: Tensor, weight: Tensor, bias: Tensor, sizes: list[int]
    ) -> Tensor:
        width = memory.shape[1]
        previous, states = (gates.new_empty(len(gates), width) for _ in range(2))
        # Reset, update, and W_hn h + b_hn, which the reset gate scales.
        gate_values = torch.empty_like(gates)
        new = torch.empty_like(states)
        state, weight_t = memory, weight.t()
        for n, rows in _steps(sizes):
            step = torch.addmm(bias, state[:n], weight_t, out=gate_values[rows])
            reset_update = step[:, : 2 * width].add_(gates[rows, : 2 * width]).sigmoid_()
            reset, update = torch.split(reset_update, width, 1)
            previous[rows] = state[:n]
            torch.addcmul(gates[rows, 2 * width :], reset, step[:, 2 * width :], out=new[rows])
            state = torch.lerp(new[rows].tanh_(), state[:n], update, out=states[rows])
        ctx.save_for_backward(previous, gate_values, new, weight)
        ctx.sizes = sizes
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        previous, gate_values, new, weight = ctx.saved_tensors
        width = new.shape[1]
        reset, update, hidden_new = torch.split(gate_values, width, 1)
        # The derivatives of a state by its gates, for all steps at once and in place: for wide
        # batches, allocating memory costs more than the arithmetic.
        gate_gradients = torch.empty_like(gate_values)
        reset_gradient, update_gradient, hidden_new_gradient = torch.split(gate_gradients, width, 1)
        new_factor = torch.mul(new, new).neg_().add_(1)
        new_factor.addcmul_(new_factor, update, value=-1)
        torch.mul(new_factor, reset, out=hidden_new_gradient)
        torch.mul(hidden_new_gradient, hidden_new, out=reset_gradient)
        reset_gradient.addcmul_(reset_gradient, reset, value=-1)
        torch.sub(previous, new, out=update_gradient).mul_(update)
        update_gradient.addcmul_(update_gradient, update, value=-1)
        state_gradients = grad.clone()
        carried = grad.new_zeros(0, width)  # gradient from the following step
        for n, rows in reversed(list(_steps(ctx.sizes))):
            step = state_gradients[rows]
            step[: len(carried)] += carried
            step_gradients = gate_gradients[rows]
            step_gradients.view(n, 3, width).mul_(step.unsqueeze(1))
            carried = torch.addmm(step * update[rows], step_gradients, weight)
        weight_gradient, bias_gradient = gate_gradients.t() @ previous, gate_gradients.sum(0)
        torch.mul(state_gradients, new_factor, out=hidden_new_gradient)
        return gate_gradients, carried, weight_gradient, bias_gradient, None


def steps_before(sizes: list[int], device: torch.device | None = None) -> Tensor:
    """Return the packed row of each row's previous step, int64 [S]; first steps have their own."""
    starts = [0, 0, *accumulate(sizes[:-1])]
    rows = [torch.arange(n) + start for n, start in zip(sizes, starts, strict=False)]
    return torch.cat(rows).to(device)


def _steps(sizes: list[int]) -> zip[tuple[int, slice]]:
    """Return for each step the number of sequences that have it, and the slice of its rows."""
    ends = list(accumulate(sizes))
    return zip(sizes, map(slice, [0, *ends[:-1]], ends), strict=True)
