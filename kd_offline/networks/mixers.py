"""Mixers of value-based algorithms: from all agents' chosen action values to one team value.

With ``q`` [..., N] and the state ``s``, QMIX (Rashid et al., 2018) is::

    q_tot = elu(q |W1(s)| + b1(s)) |W2(s)| + V(s)

where W1 (agents are its first axis), b1, W2 and V are hypernetworks of the state: one linear layer
or two with a ReLU between them. Absolute weights make the team value increase with the value of
every agent, so each agent can maximise its own value.
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


class Mixer(Protocol):
    """A module that maps the values of all agents and the state to the value of the team."""

    def __call__(self, q: Tensor, state: Tensor) -> Tensor:
        """Mix ``q``: float [..., N] under ``state``: float [..., S] to float [...]."""
        ...

    def credit(self, q: Tensor, state: Tensor) -> Tensor:
        """Return d q_tot / d q, float [..., N]."""
        ...

    def cost(self) -> NetworkCost | None:
        """Return the cost of one call; None where the mixer has no network."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return the trainable parameters."""
        ...


@dataclass(frozen=True, slots=True)
class MixerShape:
    """Sizes of a mixer; a hidden width of None makes that hypernetwork one linear layer.

    ``normalised`` applies a layer normalisation to the state, so that what the mixer adds does not
    grow with the magnitude of the state.
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
        state = self._normalised(state)
        hidden, output_weights = self._layer(q, state)
        mixed = (functional.elu(hidden) * output_weights).sum(-1)
        return torch.as_tensor(mixed + self.v(state)[..., 0])

    def credit(self, q: Tensor, state: Tensor) -> Tensor:
        """Return the gradient of the team value by each agent's value, d q_tot / d q: [..., N]."""
        state = self._normalised(state)
        hidden, output_weights = self._layer(q, state)
        gradient = torch.where(hidden > 0, torch.ones_like(hidden), hidden.exp()) * output_weights
        return (self._first_weights(state) @ gradient.unsqueeze(-1)).squeeze(-1)

    def cost(self) -> NetworkCost:
        """Return the cost of one call."""
        return mixer_cost(self.shape)

    def _normalised(self, state: Tensor) -> Tensor:
        return functional.layer_norm(state, state.shape[-1:]) if self.shape.normalised else state

    def _layer(self, q: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        mixed = (q.unsqueeze(-2) @ self._first_weights(state)).squeeze(-2)
        return mixed + self.b1(state), self.w2(state).abs()

    def _first_weights(self, state: Tensor) -> Tensor:
        shape = (self.shape.agents, self.shape.embedding)
        return torch.as_tensor(self.w1(state).abs().unflatten(-1, shape))


class SumMixer(nn.Module):
    """The mixer of VDN (Sunehag et al., 2018), a sum; the state is not used."""

    def forward(self, q: Tensor, state: Tensor) -> Tensor:
        """Mix ``q``: float [..., N] to float [...]."""
        return vdn(q)

    def credit(self, q: Tensor, state: Tensor) -> Tensor:
        """Return ones [..., N]."""
        return torch.ones_like(q)

    def cost(self) -> None:
        """Return None: a sum has no network."""


def draw_weights(mixer: QMixer, rng: np.random.Generator) -> None:
    """Initialise every layer uniformly within 1 / sqrt(inputs), as PyTorch does.

    The output layers of the two additive hypernetworks, b1 and V, are zero: an initial team value
    that is too high takes about a hundred target updates to decrease. The weights are drawn with
    NumPy, whose random streams, unlike PyTorch's, do not depend on the processor.
    """
    for layer in mixer.modules():
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            for tensor in (layer.weight, layer.bias):
                sample = rng.uniform(-bound, bound, tuple(tensor.shape))
                with torch.no_grad():
                    tensor.copy_(torch.from_numpy(sample))
    for output_layer in (mixer.b1[-1], mixer.v[-1]):
        for parameter in output_layer.parameters():
            nn.init.zeros_(parameter)


def hypernetwork(inputs: int, hidden: int | None, outputs: int) -> nn.Sequential:
    """Return ``Linear``, or ``Linear - ReLU - Linear`` with a hidden width."""
    if hidden is None:
        return nn.Sequential(nn.Linear(inputs, outputs))
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def vdn(q: Tensor) -> Tensor:
    """Return the sum over agents of ``q``: float [..., N] (VDN, Sunehag et al., 2018)."""
    return q.sum(-1)


def mixer_cost(shape: MixerShape) -> NetworkCost:
    """Return the cost of mixing the values of a team once (QMIX, Rashid et al., 2018).

    Four hypernetworks of the state, and ``q |W1|`` with N E multiply-accumulates. The last product
    is of two vectors, so it counts as elementwise arithmetic, as do absolute values, biases and
    the activation.
    """
    n, s, e = shape.agents, shape.state, shape.embedding
    hypernetworks = [
        _hypernetwork(s, shape.weights_hidden, n * e),
        _hypernetwork(s, shape.bias_hidden, e),
        _hypernetwork(s, shape.weights_hidden, e),
        _hypernetwork(s, shape.value_hidden, 1),
    ]
    absolute, biases, activation, product = n * e + e, e + 1, e, 2 * e - 1
    mixing = absolute + biases + activation + product
    return NetworkCost(
        sum(network.parameters for network in hypernetworks),
        sum(network.macs for network in hypernetworks) + n * e,
        sum(network.elementwise for network in hypernetworks) + mixing,
    )


def _hypernetwork(inputs: int, hidden: int | None, outputs: int) -> NetworkCost:
    if hidden is None:
        return NetworkCost((inputs + 1) * outputs, inputs * outputs, outputs)
    parameters = (inputs + 1) * hidden + (hidden + 1) * outputs
    return NetworkCost(parameters, hidden * (inputs + outputs), 2 * hidden + outputs)
