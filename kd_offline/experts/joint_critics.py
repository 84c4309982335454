"""Unrestricted values of joint actions, used to train a mixer and then discarded."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from kd_offline.experts.team import ActorCritic, steps_that_count
from kd_offline.experts.views import Seen
from kd_offline.networks.mixers import draw_weights


class JointCritic(nn.Module):
    """The value of a joint action, from agents of its own and a network of the whole team.

    Its agents have the form of the acting agents; their outputs are features of each agent's
    history. The value need not be monotone in any agent's value. It can therefore represent values
    that a mixer cannot, but it cannot be maximised agent by agent.
    """

    def __init__(self, agents: ActorCritic) -> None:
        super().__init__()
        self.agents = agents

    def features(self, seen: Seen, last_actions: Tensor, alive: Tensor) -> Tensor:
        """Return the outputs of the critic's agents over whole episodes, float [T, B, N, A].

        ``seen``: leading axes [T, B]; ``last_actions``: int64 [T, B, N], -1 where there is none;
        ``alive``: bool [T, B, N].
        """
        return self.agents.act_episodes(seen, last_actions, steps_that_count(alive))

    def forward(self, features: Tensor, actions: Tensor, alive: Tensor, state: Tensor) -> Tensor:
        """Return the value of ``actions``, int64 [..., N], under ``state`` [..., S]: [...]."""
        raise NotImplementedError


class FeedForwardCritic(JointCritic):
    """Mixes the values of the chosen actions and the state without a restriction.

    The central network of weighted QMIX (Rashid et al., 2020, arXiv 2006.10800, Section 4): three
    hidden layers.
    """

    def __init__(
        self, agents: ActorCritic, state: int, hidden: int, rng: np.random.Generator
    ) -> None:
        super().__init__(agents)
        n = agents.spec.n_agents
        self.mix = _layers((n + state, hidden, hidden, hidden, 1))
        draw_weights(self.mix, rng)

    def forward(self, features: Tensor, actions: Tensor, alive: Tensor, state: Tensor) -> Tensor:
        """Return the value of ``actions``, int64 [..., N], under ``state`` [..., S]: [...]."""
        chosen = features.gather(-1, actions.unsqueeze(-1)).squeeze(-1) * alive
        return torch.as_tensor(self.mix(torch.cat([chosen, state], -1))[..., 0])


class ActionSumCritic(JointCritic):
    """Adds encoded pairs of history and action over the agents, and reads the sum and the state.

    The joint action-value network of QTRAN-base (Son et al., 2019, arXiv 1905.05408, Section 4.1).
    """

    def __init__(
        self, agents: ActorCritic, state: int, hidden: int, rng: np.random.Generator
    ) -> None:
        super().__init__(agents)
        width = 2 * agents.spec.action_count
        self.encode = _layers((width, hidden, hidden))
        self.mix = _layers((hidden + state, hidden, hidden, 1))
        for part in (self.encode, self.mix):
            draw_weights(part, rng)

    def forward(self, features: Tensor, actions: Tensor, alive: Tensor, state: Tensor) -> Tensor:
        """Return the value of ``actions``, int64 [..., N], under ``state`` [..., S]: [...]."""
        one_hot = torch.eye(features.shape[-1]).to(features)[actions]
        pairs = self.encode(torch.cat([features, one_hot], -1)) * alive.unsqueeze(-1)
        return torch.as_tensor(self.mix(torch.cat([pairs.sum(-2), state], -1))[..., 0])


def _layers(widths: Sequence[int]) -> nn.Sequential:
    """Return linear layers with a ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
