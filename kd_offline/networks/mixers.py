"""Mixers: from the chosen actions' values of all agents to one value of the team.

With ``q`` [..., N] and the state ``s``, QMIX (Rashid et al., 2018) is::

    q_tot = elu(q |W1(s)| + b1(s)) |W2(s)| + V(s)

where W1 (laid out agents first), b1, W2 and V are hypernetworks of the state: one linear layer or
two with a ReLU between them. Absolute weights make the value of the team rise with that of every
agent, so each agent may maximise its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kd_offline.networks.arithmetic import NetworkCost
from kd_offline.networks.mixing_arithmetic import mixer_cost


class Mixer(Protocol):
    """From the values of all agents and the state to the value of the team: a ``Module``."""

    def __call__(self, q: Tensor, state: Tensor) -> Tensor:
        """Mix ``q``: float [..., N] under ``state``: float [..., S] to float [...]."""
        ...

    def credit(self, q: Tensor, state: Tensor) -> Tensor:
        """Return d q_tot / d q, float [..., N]."""
        ...

    def cost(self) -> NetworkCost | None:
        """Return the cost of mixing once; None where it needs no network."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return its parameters, as every module does."""
        ...


@dataclass(frozen=True, slots=True)
class MixerShape:
    """Sizes of a mixer; a hidden width of None makes that hypernetwork one linear layer.

    With ``normalised`` the state is first brought to mean 0 and variance 1 over its features, so
    that what the mixer adds cannot grow with them: no state is worth much because it is far off.
    """

    agents: int
    state: int
    embedding: int = 32
    weights_hidden: int | None = 64
    bias_hidden: int | None = None
    value_hidden: int | None = 32
    normalised: bool = False


class QMixer(nn.Module):
    """The mixing network of QMIX."""

    def __init__(self, shape: MixerShape) -> None:
        super().__init__()
        self.shape = shape
        self.w1 = hypernetwork(shape.state, shape.weights_hidden, shape.agents * shape.embedding)
        self.b1 = hypernetwork(shape.state, shape.bias_hidden, shape.embedding)
        self.w2 = hypernetwork(shape.state, shape.weights_hidden, shape.embedding)
        self.v = hypernetwork(shape.state, shape.value_hidden, 1)

    def forward(self, q: Tensor, state: Tensor) -> Tensor:
        """Mix ``q``: float [..., N] under ``state``: float [..., S] to float [...]."""
        state = self._seen(state)
        before, out_weight = self._layer(q, state)
        mixed = (functional.elu(before) * out_weight).sum(-1)
        return torch.as_tensor(mixed + self.v(state)[..., 0])

    def credit(self, q: Tensor, state: Tensor) -> Tensor:
        """Return how much the team's value rises with each agent's: d q_tot / d q, [..., N]."""
        state = self._seen(state)
        before, out_weight = self._layer(q, state)
        slope = torch.where(before > 0, torch.ones_like(before), before.exp()) * out_weight
        return (self._first(state) @ slope.unsqueeze(-1)).squeeze(-1)

    def cost(self) -> NetworkCost:
        """Return the cost of mixing once."""
        return mixer_cost(self.shape)

    def _seen(self, state: Tensor) -> Tensor:
        return functional.layer_norm(state, state.shape[-1:]) if self.shape.normalised else state

    def _layer(self, q: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        mixed = (q.unsqueeze(-2) @ self._first(state)).squeeze(-2)
        return mixed + self.b1(state), self.w2(state).abs()

    def _first(self, state: Tensor) -> Tensor:
        shape = (self.shape.agents, self.shape.embedding)
        return torch.as_tensor(self.w1(state).abs().unflatten(-1, shape))


class SumMixer(nn.Module):
    """The mixing of VDN; the state does not matter."""

    def forward(self, q: Tensor, state: Tensor) -> Tensor:
        """Mix ``q``: float [..., N] to float [...]."""
        return vdn(q)

    def credit(self, q: Tensor, state: Tensor) -> Tensor:
        """Return ones [..., N]."""
        return torch.ones_like(q)

    def cost(self) -> None:
        """Return None: a sum needs no network."""


def draw_weights(mixer: QMixer, rng: np.random.Generator) -> None:
    """Fill every layer uniformly within one over the root of its inputs, as PyTorch does.

    The last layers of the two hypernetworks that only add are zero: a team is worth nothing before
    its agents are. A value that begins too high takes a hundred targets to come down. Drawn with
    NumPy, whose random streams, unlike PyTorch's, do not depend on the processor.
    """
    for layer in mixer.modules():
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            for tensor in (layer.weight, layer.bias):
                drawn = rng.uniform(-bound, bound, tuple(tensor.shape))
                with torch.no_grad():
                    tensor.copy_(torch.from_numpy(drawn))
    for last in (mixer.b1[-1], mixer.v[-1]):
        for parameter in last.parameters():
            nn.init.zeros_(parameter)


def hypernetwork(inputs: int, hidden: int | None, outputs: int) -> nn.Sequential:
    """Return ``Linear`` or ``Linear - ReLU - Linear``."""
    if hidden is None:
        return nn.Sequential(nn.Linear(inputs, outputs))
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def vdn(q: Tensor) -> Tensor:
    """Mix ``q``: float [..., N] by adding (Sunehag et al., 2018): float [...]."""
    return q.sum(-1)
