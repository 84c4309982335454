"""Several networks of one shape, computed together by one matrix product.

Of small networks most of the time goes into many small operations, so K of them in one call cost
little more than one. Values are [T, K, H, B]: of every step, network and feature a row of B
sequences. So a step lies together in memory, rows are long enough for vector instructions, and a
mean over features is a sum of rows. Sequences all have T steps; what is behind the end of a shorter
one is computed too, and its gradient has to be zero.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from kd_offline.networks.gru import Weights

Module = TypeVar("Module", bound=nn.Module)


def stacked_module(modules: Sequence[Module]) -> Module:
    """Return one module whose parameters and buffers are those of K modules, [K, ...].

    ``modules`` are of one shape. They read their numbers from the result from then on.
    """
    whole = copy.deepcopy(modules[0])
    for name, own in chain(whole.named_parameters(), whole.named_buffers()):
        parent, _, leaf = name.rpartition(".")
        each = [getattr(module.get_submodule(parent), leaf) for module in modules]
        own.data = torch.stack([part.detach() for part in each])
        for part, view in zip(each, own.data, strict=True):
            part.data = view
    return whole


class StackedAffine(NamedTuple):
    """Linear maps of K networks."""

    weight: Tensor  # [K, O, I]
    bias: Tensor  # [K, O]

    @classmethod
    def of(cls, layer: nn.Linear) -> StackedAffine:
        """Return the maps of a linear layer whose weights are [K, ...], with bias or without."""
        zero = layer.weight.new_zeros(layer.weight.shape[:2])
        return cls(layer.weight, zero if layer.bias is None else layer.bias)

    def __call__(self, x: Tensor) -> Tensor:
        """Map ``x`` [T, K, I, B] to [T, K, O, B]."""
        return self.weight @ x + self.bias.unsqueeze(-1)

    def after(self, norm: nn.LayerNorm | None) -> StackedAffine:
        """Return the maps with gain and offset [K, I] of a normalisation before them, if any."""
        if norm is None:
            return self
        moved = torch.bmm(self.weight, norm.bias.unsqueeze(-1)).squeeze(-1)
        return StackedAffine(self.weight * norm.weight.unsqueeze(1), self.bias + moved)


def scaled(x: Tensor, norm: nn.LayerNorm | None) -> Tensor:
    """Return ``x`` [T, K, H, B] times gain plus offset [K, H] of a normalisation, if any."""
    return x if norm is None else x * norm.weight.unsqueeze(-1) + norm.bias.unsqueeze(-1)


def dense(x: Tensor, layer: StackedAffine, eps: float) -> Tensor:
    """Return ``LayerNorm(relu(layer(x)))`` without gain and offset; differentiable once.

    ``x``: [T, K, I, B]; the result is [T, K, O, B], normalised over O.
    """
    out: Tensor = _Dense.apply(x, *layer, eps)  # type: ignore[no-untyped-call]
    return out


class _Dense(torch.autograd.Function):
    """Linear, ReLU and layer normalisation (Ba et al., 2016) in one, a few steps at a time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        every = x.new_empty(*x.shape[:2], weight.shape[1], x.shape[3])
        scales, closed = [], []  # what zeros became
        for own, out in zip(_parts(x), _parts(every, like=x), strict=True):
            torch.matmul(weight, own, out=out)
            out.add_(bias.unsqueeze(-1)).relu_()
            mean = out.mean(2, keepdim=True)
            out.sub_(mean)
            scales.append(out.square().mean(2, keepdim=True).add_(eps).rsqrt_())
            out.mul_(scales[-1])
            closed.append(mean.neg_().mul_(scales[-1]))
        ctx.save_for_backward(x, weight, every, *scales, *closed)
        return every

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, every, *kept = ctx.saved_tensors
        scales, closed = kept[: len(kept) // 2], kept[len(kept) // 2 :]
        to_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        of_weight, of_bias = torch.zeros_like(weight), weight.new_zeros(weight.shape[:2])
        of_steps = zip(
            _parts(grad, like=x), _parts(x), _parts(every, like=x), scales, closed, strict=True
        )
        into = iter(() if to_x is None else _parts(to_x))
        for given, own, out, scale, zero in of_steps:
            along = (given * out).mean(2, keepdim=True)
            inner = given - given.mean(2, keepdim=True)
            inner.addcmul_(out, along, value=-1).mul_(scale).mul_(out > zero)
            if to_x is not None:
                torch.matmul(weight.mT, inner, out=next(into))
            of_weight += (inner @ own.mT).sum(0)
            of_bias += inner.sum((0, 3))
        return to_x, of_weight, of_bias, None


_PART = 2**16  # numbers that are worked on at once on a CPU, so that they stay in its cache


def _parts(values: Tensor, like: Tensor | None = None) -> tuple[Tensor, ...]:
    """Return ``values`` [T, K, H, B] in parts of a few steps; ``like`` decides how many."""
    like = values if like is None else like
    if like.device.type != "cpu":
        return (values,)
    return torch.split(values, max(1, _PART // max(1, like[0].numel())))


def stacked_gru(x: Tensor, weights: Weights) -> Tensor:
    """Run K GRUs (as PyTorch computes them) from zero states.

    Parameters
    ----------
    x : float [T, K, I, B]
    weights : Weights
        Of all networks: matrices [K, 3 H, I] and [K, 3 H, H], biases [K, 3 H].

    Returns
    -------
    float [T, K, H, B], the state after each step; differentiable once.
    """
    states: Tensor = _Steps.apply(x, *weights)  # type: ignore[no-untyped-call]
    return states


class _Steps(torch.autograd.Function):
    """Backpropagation through time (Werbos, 1990) for K networks at once."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, ih: Tensor, hh: Tensor, ih_bias: Tensor, hh_bias: Tensor
    ) -> Tensor:
        width = hh.shape[2]
        biases = ih_bias.unsqueeze(-1), hh_bias.unsqueeze(-1)
        states = x.new_empty(len(x), len(hh), width, x.shape[3])
        h, kept = torch.zeros_like(states[0]), []
        for own, after in zip(x, states, strict=True):
            gates = torch.baddbmm(biases[0], ih, own)
            step = torch.baddbmm(biases[1], hh, h)
            gates[:, : 2 * width].add_(step[:, : 2 * width]).sigmoid_()
            reset, update, new = torch.split(gates, width, 1)
            inner = step[:, 2 * width :]
            new.addcmul_(reset, inner).tanh_()
            h = torch.lerp(new, h, update, out=after)
            kept += [gates, step]
        ctx.save_for_backward(x, ih, hh, states, *kept)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, ih, hh, states, *kept = ctx.saved_tensors
        width = hh.shape[2]
        # A step's gradients stand in the order inner, reset, update, new: the first three are those
        # of the product with the states, the last three those of the product with the inputs.
        inner_first = torch.cat([hh[:, 2 * width :], hh[:, : 2 * width]], 1)
        to_states, to_inputs = (m.mT.contiguous() for m in (inner_first, ih))
        of_states, of_inputs = torch.zeros_like(hh), torch.zeros_like(ih)
        of_biases = hh.new_zeros(len(hh), 4 * width)
        start = torch.zeros_like(states[0])
        after = torch.zeros_like(states[0])  # what the step behind wants of these states
        to_x = torch.empty_like(x)
        for t in reversed(range(len(x))):
            gates, step = kept[2 * t : 2 * t + 2]
            before = states[t - 1] if t else start
            reset, update, new = torch.split(gates, width, 1)
            share = gates.new_empty(len(hh), 4 * width, x.shape[3])
            to_inner, to_reset, to_update, to_new = torch.split(share, width, 1)
            total = after.add_(grad[t])
            onwards = total * update
            torch.sub(total, onwards, out=to_new)
            to_new.addcmul_(to_new, new.square(), value=-1)
            torch.mul(to_new, reset, out=to_inner)
            torch.mul(to_inner, step[:, 2 * width :], out=to_reset)
            to_reset.addcmul_(to_reset, reset, value=-1)
            torch.sub(before, new, out=to_update).mul_(onwards)
            to_update.addcmul_(to_update, update, value=-1)
            of_product, of_gates = share[:, : 3 * width], share[:, width:]
            after = onwards.baddbmm_(to_states, of_product)
            of_states.baddbmm_(of_product, before.mT)
            of_inputs.baddbmm_(of_gates, x[t].mT)
            torch.bmm(to_inputs, of_gates, out=to_x[t])
            of_biases += share.sum(2)
        hidden = torch.cat([of_states[:, width:], of_states[:, :width]], 1)
        hidden_bias = torch.cat([of_biases[:, width : 3 * width], of_biases[:, :width]], 1)
        return to_x, of_inputs, hidden, of_biases[:, width:], hidden_bias
