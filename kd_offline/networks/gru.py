"""A GRU over sequences of different lengths: nothing is computed behind the end of any of them.

PyTorch's own packed GRU keeps a graph of every step, and its backward pass fills a tensor as large
as the whole input once a step. Here one step back is three operations, and the gradients of the
matrices are one product over all steps (backpropagation through time, Werbos, 1990).
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


class Weights(NamedTuple):
    """Matrices and biases as :class:`torch.nn.GRU` has them: reset, update and new gate."""

    ih: Tensor  # [3 H, I]
    hh: Tensor  # [3 H, H]
    ih_bias: Tensor  # [3 H]
    hh_bias: Tensor  # [3 H]


def packed_gru(x: Tensor, sizes: list[int], memory: Tensor, weights: Weights) -> Tensor:
    """Run a GRU (Cho et al., 2014; as PyTorch computes it) over packed sequences.

    Parameters
    ----------
    x : float [S, I]
        The inputs of all sequences, step after step, longest sequence first
        (:class:`torch.nn.utils.rnn.PackedSequence`).
    sizes : list of int
        How many sequences have each step; never growing, sum S.
    memory : float [B, H]
        States before the first step, in the same order of sequences.

    Returns
    -------
    float [S, H], the state after each step; differentiable once.
    """
    gates = functional.linear(x, weights.ih, weights.ih_bias)
    states: Tensor = _Steps.apply(gates, memory, weights.hh, weights.hh_bias, sizes)  # type: ignore[no-untyped-call]
    return states


class _Steps(torch.autograd.Function):
    """The part that goes from step to step; ``gates`` [S, 3 H] came from the inputs."""

    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, memory: Tensor, weight: Tensor, bias: Tensor, sizes: list[int]
    ) -> Tensor:
        width = memory.shape[1]
        before, states = (gates.new_empty(len(gates), width) for _ in range(2))
        kept = torch.empty_like(gates)  # reset and update, then what the reset scales
        new = torch.empty_like(states)
        h, back = memory, weight.t()
        for n, rows in _steps(sizes):
            step = torch.addmm(bias, h[:n], back, out=kept[rows])
            reset_update = step[:, : 2 * width].add_(gates[rows, : 2 * width]).sigmoid_()
            reset, update = torch.split(reset_update, width, 1)
            before[rows] = h[:n]
            torch.addcmul(gates[rows, 2 * width :], reset, step[:, 2 * width :], out=new[rows])
            h = torch.lerp(new[rows].tanh_(), h[:n], update, out=states[rows])
        ctx.save_for_backward(before, kept, new, weight)
        ctx.sizes = sizes
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        before, kept, new, weight = ctx.saved_tensors
        width = new.shape[1]
        reset, update, inner = torch.split(kept, width, 1)
        # How a state's gradient becomes that of the gates, for all steps at once and in place: of
        # wide batches new memory costs more than the arithmetic.
        share = torch.empty_like(kept)
        to_reset, to_update, to_inner = torch.split(share, width, 1)
        to_new = torch.mul(new, new).neg_().add_(1)
        to_new.addcmul_(to_new, update, value=-1)
        torch.mul(to_new, reset, out=to_inner)
        torch.mul(to_inner, inner, out=to_reset)
        to_reset.addcmul_(to_reset, reset, value=-1)
        torch.sub(before, new, out=to_update).mul_(update)
        to_update.addcmul_(to_update, update, value=-1)
        total = grad.clone()
        after = grad.new_zeros(0, width)  # what the step behind wants of these states
        for n, rows in reversed(list(_steps(ctx.sizes))):
            step = total[rows]
            step[: len(after)] += after
            gates = share[rows]
            gates.view(n, 3, width).mul_(step.unsqueeze(1))
            after = torch.addmm(step * update[rows], gates, weight)
        hidden, bias = share.t() @ before, share.sum(0)
        torch.mul(total, to_new, out=to_inner)
        return share, after, hidden, bias, None


def steps_before(sizes: list[int]) -> Tensor:
    """Return the packed row of each row's step before, int64 [S]; of first steps their own."""
    starts = [0, 0, *accumulate(sizes[:-1])]
    return torch.cat([torch.arange(n) + start for n, start in zip(sizes, starts, strict=False)])


def _steps(sizes: list[int]) -> zip[tuple[int, slice]]:
    """Return for each step how many sequences have it, and its rows."""
    ends = list(accumulate(sizes))
    return zip(sizes, map(slice, [0, *ends[:-1]], ends), strict=True)
