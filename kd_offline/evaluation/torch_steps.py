"""Single decisions in eager PyTorch: of an exported network, and of another library's modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from kd_offline.exports.network import EPSILON, Affine, AgentNetwork, Chain
from kd_offline.types import Array

TorchStep = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""``(obs [B, I], legal [B, A], memory) -> (action [B], memory)``."""


def actor_step(actor: Any, batch: int) -> tuple[TorchStep, Tensor]:
    """Return the step of another library's actor and its memory of fresh episodes."""

    def step(obs: Tensor, legal: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        out, _, memory = actor(obs, memory)
        return _greedy(out, legal), memory

    return step, actor.start(batch)


def exported_step(network: AgentNetwork, batch: int) -> tuple[TorchStep, Tensor]:
    """Return the step of an exported network with PyTorch's operators, and its memory."""
    return ExportedStep(network, batch), torch.zeros(batch, network.memory_width)


class ExportedStep:
    """An exported network, called operator by operator.

    A step of so small a network is nothing but calls, so modules, which are calls of their own, are
    left out, and what does not change from step to step is made before the first.
    """

    def __init__(self, network: AgentNetwork, batch: int) -> None:
        self.facts, self.count = network, len(network.seen)
        self.centre, self.scale = _tensor(network.centre), _tensor(network.scale)
        self.motion = None if network.motion is None else _tensor(network.motion)
        self.trunk = [(*_affine(layer), [len(layer.bias)]) for layer in network.trunk]
        self.gru = None if network.gru is None else _flat(*network.gru)
        self.head = _affine(network.head)
        self.names = list(network.memory)
        self.sizes = [stop - start for start, stop in network.memory.values()]
        self.started = torch.ones(batch, 1)
        self.choices = torch.eye(network.actions)

    def __call__(self, obs: Tensor, legal: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Decide once for every row; as ``AgentNetwork.step`` does in NumPy."""
        kept = self._parts(memory)
        now: dict[str, Tensor] = {}
        x = self._inputs(obs, kept, now)
        for weight, bias, shape in self.trunk:
            x = torch.layer_norm(torch.relu_(linear(x, weight, bias)), shape, eps=EPSILON)
        if self.gru is not None:
            x = now["gru"] = torch.gru_cell(x, kept["gru"], *self.gru)
        action = _greedy(linear(x, *self.head), legal)
        if self.facts.last_action:
            now["last_action"] = self.choices.index_select(0, action)
        if len(now) > 1:
            return action, torch.cat([now[name] for name in self.names], 1)
        return action, now.popitem()[1] if now else memory

    def _parts(self, memory: Tensor) -> dict[str, Tensor]:
        """Return the parts of the memory by name."""
        if len(self.names) < 2:
            return dict.fromkeys(self.names, memory)
        parts = memory.split_with_sizes(self.sizes, 1)
        return dict(zip(self.names, parts, strict=True))

    def _inputs(self, obs: Tensor, kept: dict[str, Tensor], now: dict[str, Tensor]) -> Tensor:
        """Return what the first matrix takes, and put the memory of it into ``now``."""
        facts, bits = self.facts, None
        if facts.drawn:
            obs, bits = obs.split(self.count, 1)  # type: ignore[no-untyped-call]
        x = (obs - self.centre) * self.scale
        x = x if bits is None else x * bits
        parts = [x] if bits is None or not facts.mask_input else [x, bits]
        if self.motion is not None:
            parts.append((x - kept["previous"]) * self.motion * kept["started"])
            now |= {"previous": x, "started": self.started}
        if facts.last_action:
            parts.append(kept["last_action"])
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _greedy(logits: Tensor, legal: Tensor) -> Tensor:
    return torch.where(legal, logits, -torch.inf).argmax(-1)


def _affine(affine: Affine) -> tuple[Tensor, Tensor]:
    return _tensor(affine.values), _tensor(affine.bias)


def _flat(ours: Chain, theirs: Chain) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return weights and biases in the order of ``torch.gru_cell``, which knows full matrices."""
    mine, other = _affine(_product(ours)), _affine(_product(theirs))
    return mine[0], other[0], mine[1], other[1]


def _product(chain: Chain) -> Affine:
    if len(chain) == 1:
        return chain[0]
    thin, wide = chain
    return Affine(wide.values @ thin.values, wide(thin.bias))


def _tensor(values: Array) -> Tensor:
    return torch.from_numpy(values)
