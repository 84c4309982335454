"""Mixers of value-based algorithms: from all agents' chosen action values to one team value.

With ``q`` [..., N] and the state ``s``, QMIX (Rashid et al., 2018) is::

    q_tot = elu(q |W1(s)| + b1(s)) |W2(s)| + V(s)

where W1 (agents are its first axis), b1, W2 and V are hypernetworks of the state: one linear layer
or two with a ReLU between them. Absolute weights make the team value increase with the value of
every agent, so each agent can maximise its own value.

Qatten (Yang et al., 2020, arXiv 2002.03939, Eq. 11) weights agents by attention, with queries and
keys of the state, and heads by absolute values of the state::

    q_tot = sum_h |w_h(s)| sum_i softmax_i(key_i(s) . query_h(s) / sqrt(d)) q_i + V(s)

QPLEX (Wang et al., 2021, arXiv 2008.01062, Eqs. 6 to 11) splits each agent's value into the one of
its greedy action and an advantage, which is never positive, and weights advantages by the joint
action::

    q_tot = sum_i w_i(s) best_i + b_i(s) + sum_i lambda_i(s, u) w_i(s) (q_i - best_i)

With positive w and lambda the greedy actions of the agents are those of the team, which is all that
QPLEX asks for; q_tot need not be monotone in any other sense. The networks of lambda are deep:
lambda has to grow without bound while advantages shrink where the team's best actions are bad for
each agent alone, and the output of one linear layer grows too slowly for that. Without the
transformation of each agent's values by w and b, ``weighted_head`` in the authors' code, the sum of
``best`` takes the place of the first part and w is 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kd_offline.networks.arithmetic import NetworkCost

_ADDED = ("b1", "b", "v")  # hypernetworks whose outputs are added
_POSITIVE = 1e-10  # keeps weights above zero
_LAMBDA_LAYERS = 3  # of each network of QPLEX's lambda, as in the authors' code for matrix games


class JointAction(NamedTuple):
    """The executed actions, for mixers whose weights depend on them."""

    actions: Tensor  # int64 [..., N], -1 where an agent does not act
    best: Tensor  # float [..., N], the value of each agent's greedy legal action


class Mixer(Protocol):
    """A module that maps the values of all agents and the state to the value of the team.

    ``joint`` says which actions the values are of; None: every agent's greedy one.
    """

    def __call__(self, q: Tensor, state: Tensor, joint: JointAction | None = None) -> Tensor:
        """Mix ``q``: float [..., N] under ``state``: float [..., S] to float [...]."""
        ...

    def credit(self, q: Tensor, state: Tensor, joint: JointAction | None = None) -> Tensor:
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
    heads: int = 4  # of attention, and of QPLEX's weights
    actions: int = 0  # how many the widest agent has; only QPLEX asks
    transformed: bool = True  # whether QPLEX has w and b


class QMixer(nn.Module):
    """The mixing network of QMIX."""

    def __init__(self, shape: MixerShape) -> None:
        super().__init__()
        self.shape = shape
        self.w1 = hypernetwork(shape.state, shape.weights_hidden, shape.agents * shape.embedding)
        self.b1 = hypernetwork(shape.state, shape.bias_hidden, shape.embedding)
        self.w2 = hypernetwork(shape.state, shape.weights_hidden, shape.embedding)
        self.v = hypernetwork(shape.state, shape.value_hidden, 1)

    def forward(self, q: Tensor, state: Tensor, joint: JointAction | None = None) -> Tensor:
        """Mix ``q``: float [..., N] under ``state``: float [..., S] to float [...]."""
        state = normalised(state, self.shape)
        hidden, output_weights = self._layer(q, state)
        mixed = (functional.elu(hidden) * output_weights).sum(-1)
        return torch.as_tensor(mixed + self.v(state)[..., 0])

    def credit(self, q: Tensor, state: Tensor, joint: JointAction | None = None) -> Tensor:
        """Return the gradient of the team value by each agent's value, d q_tot / d q: [..., N]."""
        state = normalised(state, self.shape)
        hidden, output_weights = self._layer(q, state)
        gradient = torch.where(hidden > 0, torch.ones_like(hidden), hidden.exp()) * output_weights
        return (self._first_weights(state) @ gradient.unsqueeze(-1)).squeeze(-1)

    def cost(self) -> NetworkCost:
        """Return the cost of one call."""
        return mixer_cost(self.shape)

    def _layer(self, q: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        mixed = (q.unsqueeze(-2) @ self._first_weights(state)).squeeze(-2)
        return mixed + self.b1(state), self.w2(state).abs()

    def _first_weights(self, state: Tensor) -> Tensor:
        shape = (self.shape.agents, self.shape.embedding)
        return torch.as_tensor(self.w1(state).abs().unflatten(-1, shape))


class AttentionMixer(nn.Module):
    """The mixing of Qatten.

    The paper makes keys of every agent's own part of the state. A state need not have such parts
    here, so each agent has a linear key of the whole state.
    """

    def __init__(self, shape: MixerShape) -> None:
        super().__init__()
        self.shape = shape
        width = shape.heads * shape.embedding
        self.query = hypernetwork(shape.state, shape.weights_hidden, width)
        self.key = hypernetwork(shape.state, None, shape.agents * shape.embedding)
        self.head = hypernetwork(shape.state, shape.weights_hidden, shape.heads)
        self.v = hypernetwork(shape.state, shape.value_hidden, 1)

    def forward(self, q: Tensor, state: Tensor, joint: JointAction | None = None) -> Tensor:
        """Mix ``q``: float [..., N] under ``state``: float [..., S] to float [...]."""
        mixed = (self.credit(q, state) * q).sum(-1)
        return torch.as_tensor(mixed + self.v(normalised(state, self.shape))[..., 0])

    def credit(self, q: Tensor, state: Tensor, joint: JointAction | None = None) -> Tensor:
        """Return the weight of each agent, the sum over heads: float [..., N]."""
        state, shape = normalised(state, self.shape), self.shape
        query = self.query(state).unflatten(-1, (shape.heads, shape.embedding))
        key = self.key(state).unflatten(-1, (shape.agents, shape.embedding))
        share = (query @ key.transpose(-1, -2) / shape.embedding**0.5).softmax(-1)  # [..., H, N]
        return torch.as_tensor((self.head(state).abs().unsqueeze(-2) @ share).squeeze(-2))

    def cost(self) -> NetworkCost:
        """Return the cost of one call."""
        return attention_mixer_cost(self.shape)


class DuplexMixer(nn.Module):
    """The duplex duelling mixing of QPLEX."""

    def __init__(self, shape: MixerShape) -> None:
        super().__init__()
        self.shape = shape
        n, s = shape.agents, shape.state
        if shape.transformed:
            self.w = hypernetwork(s, shape.weights_hidden, n)
            self.b = hypernetwork(s, shape.weights_hidden, n)
        played, hidden = s + n * shape.actions, shape.weights_hidden
        self.key = hypernetwork(s, hidden, shape.heads, layers=_LAMBDA_LAYERS)
        self.agent = hypernetwork(s, hidden, shape.heads * n, layers=_LAMBDA_LAYERS)
        self.action = hypernetwork(played, hidden, shape.heads * n, layers=_LAMBDA_LAYERS)

    def forward(self, q: Tensor, state: Tensor, joint: JointAction | None = None) -> Tensor:
        """Mix ``q``: float [..., N] under ``state``: float [..., S] to float [...].

        As in the authors' code the advantages carry no gradient where they are weighted by the
        joint action: the gradient of ``q`` is that of the weighted sum of values.
        """
        state = normalised(state, self.shape)
        weight = self._weight(state, q)
        total = (weight * q + self.b(state) if self.shape.transformed else q).sum(-1)
        if joint is None:
            return torch.as_tensor(total)
        advantage = (weight * (q - joint.best)).detach()
        return torch.as_tensor(total + ((self._share(state, joint) - 1) * advantage).sum(-1))

    def credit(self, q: Tensor, state: Tensor, joint: JointAction | None = None) -> Tensor:
        """Return d q_tot / d q: w of greedy actions, lambda w of all others, float [..., N]."""
        state = normalised(state, self.shape)
        weight = self._weight(state, q)
        if joint is None:
            return weight
        return torch.where(q < joint.best, weight * self._share(state, joint), weight)

    def cost(self) -> NetworkCost:
        """Return the cost of one call."""
        return duplex_mixer_cost(self.shape)

    def _weight(self, state: Tensor, q: Tensor) -> Tensor:
        """Return w, float [..., N]."""
        if not self.shape.transformed:
            return torch.ones_like(q)
        return torch.as_tensor(self.w(state).abs() + _POSITIVE)

    def _share(self, state: Tensor, joint: JointAction) -> Tensor:
        """Return lambda, float [..., N], above 0: a sum over heads of three positive factors."""
        sizes = (self.shape.heads, self.shape.agents)
        one_hot = torch.eye(self.shape.actions + 1).to(state)[joint.actions]
        played = torch.cat([state, one_hot[..., :-1].flatten(-2)], -1)
        key = (self.key(state).abs() + _POSITIVE).unsqueeze(-1)
        agent = self.agent(state).sigmoid().unflatten(-1, sizes)
        action = self.action(played).sigmoid().unflatten(-1, sizes)
        return torch.as_tensor((key * agent * action).sum(-2))


class SumMixer(nn.Module):
    """The mixer of VDN (Sunehag et al., 2018), a sum; the state is not used."""

    def forward(self, q: Tensor, state: Tensor, joint: JointAction | None = None) -> Tensor:
        """Mix ``q``: float [..., N] to float [...]."""
        return vdn(q)

    def credit(self, q: Tensor, state: Tensor, joint: JointAction | None = None) -> Tensor:
        """Return ones [..., N]."""
        return torch.ones_like(q)

    def cost(self) -> None:
        """Return None: a sum has no network."""


class OffsetSumMixer(nn.Module):
    """The sum of the agents' values and a value of the state, as in QTRAN (Son et al., 2019)."""

    def __init__(self, shape: MixerShape) -> None:
        super().__init__()
        self.shape = shape
        self.v = hypernetwork(shape.state, shape.value_hidden, 1)

    def forward(self, q: Tensor, state: Tensor, joint: JointAction | None = None) -> Tensor:
        """Mix ``q``: float [..., N] under ``state``: float [..., S] to float [...]."""
        return torch.as_tensor(vdn(q) + self.v(normalised(state, self.shape))[..., 0])

    def credit(self, q: Tensor, state: Tensor, joint: JointAction | None = None) -> Tensor:
        """Return ones [..., N]."""
        return torch.ones_like(q)

    def cost(self) -> NetworkCost:
        """Return the cost of one call."""
        return offset_sum_cost(self.shape)


def normalised(state: Tensor, shape: MixerShape) -> Tensor:
    """Return the state as a mixer's networks take it, float [..., S]."""
    return functional.layer_norm(state, state.shape[-1:]) if shape.normalised else state


def draw_weights(mixer: nn.Module, rng: np.random.Generator) -> None:
    """Initialise every layer uniformly within 1 / sqrt(inputs), as PyTorch does.

    The output layers of additive hypernetworks are zero: an initial team value that is too high
    takes about a hundred target updates to decrease. The weights are drawn with NumPy, whose random
    streams, unlike PyTorch's, do not depend on the processor.
    """
    for layer in mixer.modules():
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            for tensor in (layer.weight, layer.bias):
                drawn = rng.uniform(-bound, bound, tuple(tensor.shape))
                with torch.no_grad():
                    tensor.copy_(torch.from_numpy(drawn))
    for name, network in mixer.named_children():
        if name in _ADDED and isinstance(network, nn.Sequential):
            for parameter in network[-1].parameters():
                nn.init.zeros_(parameter)


def hypernetwork(
    inputs: int, hidden: int | None, outputs: int, *, layers: int = 2
) -> nn.Sequential:
    """Return linear layers with a ReLU between them, a single one without a hidden width."""
    widths = [inputs, *_hidden_widths(hidden, layers), outputs]
    modules: list[nn.Module] = []
    for width, following in pairwise(widths):
        modules += [nn.Linear(width, following), nn.ReLU()]
    return nn.Sequential(*modules[:-1])


def _hidden_widths(hidden: int | None, layers: int) -> list[int]:
    return [] if hidden is None else [hidden] * (layers - 1)


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
    return _added(hypernetworks, macs=n * e, elementwise=absolute + biases + activation + product)


def attention_mixer_cost(shape: MixerShape) -> NetworkCost:
    """Return the cost of mixing once with attention (Qatten, Yang et al., 2020).

    Beside the hypernetworks: H N E multiply-accumulates of queries and keys and H N of heads and
    shares. Elementwise are scaling and softmax (5 operations an entry), absolute values, and the
    product with the agents' values.
    """
    n, s, e, h = shape.agents, shape.state, shape.embedding, shape.heads
    hypernetworks = [
        _hypernetwork(s, shape.weights_hidden, h * e),
        _hypernetwork(s, None, n * e),
        _hypernetwork(s, shape.weights_hidden, h),
        _hypernetwork(s, shape.value_hidden, 1),
    ]
    return _added(hypernetworks, macs=h * n * e + h * n, elementwise=5 * h * n + h + 2 * n)


def duplex_mixer_cost(shape: MixerShape) -> NetworkCost:
    """Return the cost of mixing once by duplex duelling (QPLEX, Wang et al., 2021).

    Elementwise are two sigmoids and two products of every head and agent, absolute values, and six
    operations an agent on values and advantages; three, and no absolute w, without w and b.
    """
    n, s, h, hidden = shape.agents, shape.state, shape.heads, shape.weights_hidden
    hypernetworks = [
        *([_hypernetwork(s, hidden, n)] * 2 if shape.transformed else []),
        _hypernetwork(s, hidden, h, _LAMBDA_LAYERS),
        _hypernetwork(s, hidden, h * n, _LAMBDA_LAYERS),
        _hypernetwork(s + n * shape.actions, hidden, h * n, _LAMBDA_LAYERS),
    ]
    own = 2 * n + 6 * n if shape.transformed else 3 * n
    return _added(hypernetworks, macs=0, elementwise=5 * h * n + 2 * h + own)


def offset_sum_cost(shape: MixerShape) -> NetworkCost:
    """Return the cost of a sum and a value of the state (QTRAN, Son et al., 2019)."""
    hypernetworks = [_hypernetwork(shape.state, shape.value_hidden, 1)]
    return _added(hypernetworks, macs=0, elementwise=shape.agents)


def _added(parts: Sequence[NetworkCost], *, macs: int, elementwise: int) -> NetworkCost:
    return NetworkCost(
        sum(part.parameters for part in parts),
        sum(part.macs for part in parts) + macs,
        sum(part.elementwise for part in parts) + elementwise,
    )


def _hypernetwork(inputs: int, hidden: int | None, outputs: int, layers: int = 2) -> NetworkCost:
    widths = [inputs, *_hidden_widths(hidden, layers), outputs]
    macs = sum(width * following for width, following in pairwise(widths))
    biases, activations = sum(widths[1:]), sum(widths[1:-1])
    return NetworkCost(macs + biases, macs, biases + activations)
