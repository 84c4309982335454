"""Single decisions in eager PyTorch: of an expert's actor, and of a student as it is exported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kd_offline.exports.network import Affine, AgentNetwork

TorchStep = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""``(obs [B, I], legal [B, A], memory) -> (action [B], memory)``."""


def actor_step(actor: Any, batch: int) -> tuple[TorchStep, Tensor]:
    """Return the step of an expert's actor and its memory of fresh episodes.

    The actor of another library takes rows [B, I], ours sequences [1, B, I].
    """
    from kd_offline.networks.recurrent import RecurrentNetwork

    sequences = isinstance(actor, RecurrentNetwork)

    def step(obs: Tensor, legal: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        out, _, memory = actor(obs.unsqueeze(0) if sequences else obs, memory)
        return _greedy(out[0] if sequences else out, legal), memory

    return step, actor.start(batch)


def student_step(network: AgentNetwork, batch: int) -> tuple[TorchStep, Tensor]:
    """Return the step of an exported student with PyTorch's own layers, and its memory."""
    torch_net = StudentModule(network).eval().requires_grad_(False)
    return torch_net, torch.zeros(batch, network.memory_width)


class StudentModule(nn.Module):
    """An exported student as ``nn.Linear``, ``nn.LayerNorm`` and ``nn.GRU``."""

    def __init__(self, network: AgentNetwork) -> None:
        super().__init__()
        self.facts = network
        self.centre, self.scale = (torch.from_numpy(x) for x in (network.centre, network.scale))
        self.motion = None if network.motion is None else torch.from_numpy(network.motion)
        self.trunk = nn.Sequential()
        for layer in network.trunk:
            norm = nn.LayerNorm(len(layer.bias), elementwise_affine=False)
            self.trunk.extend([_linear(layer), nn.ReLU(inplace=True), norm])
        self.gru = None if network.gru is None else _gru(*network.gru)
        self.head = _linear(network.head)

    def forward(self, obs: Tensor, legal: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Decide once for every row; as ``AgentNetwork.step`` does in NumPy."""
        kept = {name: memory[:, a:b] for name, (a, b) in self.facts.memory.items()}
        x, now = self._inputs(obs, kept)
        x = self.trunk(x)
        if self.gru is not None:
            x, _ = self.gru(x.unsqueeze(0), kept["gru"].unsqueeze(0).contiguous())
            x = now["gru"] = x[0]
        action = _greedy(self.head(x), legal)
        if self.facts.last_action:
            now["last_action"] = functional.one_hot(action, self.facts.actions).to(obs.dtype)
        parts = [now[name] for name in kept]
        return action, (
            memory if not parts else parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        )

    def _inputs(self, obs: Tensor, kept: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        count, now = len(self.facts.seen), {}
        x, bits = (obs[:, :count] - self.centre) * self.scale, obs[:, count:]
        x = x * bits if self.facts.drawn else x
        parts = [x, bits] if self.facts.mask_input else [x]
        if self.motion is not None:
            parts.append((x - kept["previous"]) * self.motion * kept["started"])
            now = {"previous": x, "started": torch.ones_like(kept["started"])}
        if self.facts.last_action:
            parts.append(kept["last_action"])
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1), now


def _greedy(logits: Tensor, legal: Tensor) -> Tensor:
    return logits.masked_fill(~legal, -torch.inf).argmax(-1)


def _linear(affine: Affine) -> nn.Linear:
    rows, columns = affine.weight.shape
    layer = nn.Linear(columns, rows)
    layer.load_state_dict(_tensors({"weight": affine.values, "bias": affine.bias}))
    return layer


def _gru(ours: Affine, theirs: Affine) -> nn.GRU:
    layer = nn.GRU(ours.weight.shape[1], theirs.weight.shape[1])
    names = [(f"{kind}_{side}_l0") for kind in ("weight", "bias") for side in ("ih", "hh")]
    values = [ours.values, theirs.values, ours.bias, theirs.bias]
    layer.load_state_dict(_tensors(dict(zip(names, values, strict=True))))
    return layer


def _tensors(arrays: dict[str, np.ndarray[Any, Any]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in arrays.items()}
