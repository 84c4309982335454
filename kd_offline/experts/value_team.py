"""A team that acts by action values: VDN (Sunehag et al., 2018), QMIX (Rashid et al., 2018).

Agents are the actors of :mod:`kd_offline.experts.team`, whose outputs are action values instead of
logits. A mixer combines the values of the chosen actions into one team value, from which all agents
learn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from kd_offline.distributions.categorical import epsilon_greedy
from kd_offline.experts.mixing import TeamValue
from kd_offline.experts.policy_team import NORM, load_frozen
from kd_offline.experts.ppo import ValueNorm
from kd_offline.experts.team import ActorCritic, Memory, steps_that_count
from kd_offline.experts.views import Seen
from kd_offline.networks.arithmetic import ValuePart
from kd_offline.networks.mixers import Mixer
from kd_offline.types import IntArray, PolicyOutput, SeedArray, TeamPolicy, View


class MixedAgents(nn.Module):
    """Agents, whose outputs are action values, and the mixer of these values."""

    def __init__(self, agents: ActorCritic, mixer: Mixer) -> None:
        super().__init__()
        self.agents = agents
        self.side_of = agents.side_of
        self.mixer = mixer

    def start(self, batch: int) -> Memory:
        """Return the memory of ``batch`` fresh episodes."""
        return self.agents.start(batch)

    def keep(self, memory: Memory, episodes: IntArray) -> Memory:
        """Return the memory of some episodes of a batch, indices ``episodes``."""
        return self.agents.keep(memory, episodes)

    def values(self, seen: Seen, last_actions: Tensor, alive: Tensor) -> Tensor:
        """Return the values of all actions over whole episodes.

        ``seen``: leading axes [T, B]; ``last_actions``: int64 [T, B, N], -1 where there is none;
        ``alive``: bool [T, B, N]. Returns float [T, B, N, A], zero once an agent stays dead.
        """
        return self.agents.act_episodes(seen, last_actions, steps_that_count(alive))

    def parameter_counts(self) -> dict[str, int]:
        """Return the number of parameters of the agents and of the mixer."""
        return {
            "actor": sum(p.numel() for p in self.agents.parameters()),
            "mixer": sum(p.numel() for p in self.mixer.parameters()),
        }


@dataclass(frozen=True, slots=True)
class ValueTeam:
    """Agents and a mixer of one team, which acts epsilon-greedily after training.

    ``norm`` holds the unit of the networks' values.
    """

    model: MixedAgents
    norm: ValueNorm
    epsilon: float

    @property
    def actors(self) -> ActorCritic:
        """The networks that act."""
        return self.model.agents

    def weights(self) -> dict[str, Tensor]:
        """Return the content of ``weights.safetensors``."""
        return {**self.model.state_dict(), NORM: self.norm.moments}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Load what :meth:`weights` returned and freeze the networks."""
        load_frozen(self.model, self.norm, weights)

    def to(self, device: torch.device) -> None:
        """Compute on ``device`` from now on; the unit of values stays on the processor."""
        self.model.to(device)

    def parameter_counts(self) -> dict[str, int]:
        """Return the number of parameters of the agents and of the mixer."""
        return self.model.parameter_counts()

    def policy(self, *, with_value: bool = True) -> TeamPolicy:
        """Return the policy of the finished expert; greedy play is the argmax of its values."""
        return ValuePolicy(self.model, self.norm, self.epsilon, with_value=with_value)

    def value_parts(self) -> tuple[ValuePart, ...]:
        """Return the cost of the mixer; empty where it has none."""
        cost = self.model.mixer.cost()
        return () if cost is None else (ValuePart(cost),)


@dataclass(frozen=True, slots=True)
class ValuePolicy:
    """A value team as a :class:`~kd_offline.types.TeamPolicy` that acts epsilon-greedily.

    ``norm`` holds the unit of the networks' values. Without ``with_value`` values are not mixed.
    """

    model: MixedAgents
    norm: ValueNorm
    epsilon: float
    with_value: bool = True

    @property
    def needs_full(self) -> bool:
        """Whether it acts by full observations."""
        return self.model.agents.needs_full

    def start(self, seeds: SeedArray) -> Memory:
        """Return the memory of fresh episodes."""
        return self.model.start(len(seeds))

    @torch.inference_mode()
    def act(self, view: View, memory: Memory) -> tuple[PolicyOutput, Memory]:
        """Return action values [B, N, A], team values [B], and the logits that it acts by."""
        device, last = self.model.agents.device, view.last_actions
        last_actions = None if last is None else torch.from_numpy(last).to(device)
        seen = Seen.of(view, device)
        q, embedding, next_memory, found = self.model.agents.act(seen, memory, last_actions)
        logits = epsilon_greedy(q.cpu().numpy(), view.available_actions, self.epsilon)
        hidden, scale = embedding.cpu().numpy(), unit(self.norm)
        taps = {name: values.cpu().numpy() for name, values in found.items()}
        if not self.with_value:
            raw = (q * scale).cpu().numpy()
            return PolicyOutput(logits, hidden, q_values=raw, taps=taps), next_memory
        alive = torch.from_numpy(view.alive).to(device)
        available = torch.from_numpy(view.available_actions).to(device)
        state = seen.state
        team_value = TeamValue(self.model.mixer, q, state, alive, available, scale)
        return replace(team_value.output(logits, hidden), taps=taps), next_memory

    @property
    def differentiable(self) -> bool:
        """Whether it acts by observations, by which its values have a gradient."""
        return self.model.agents.architecture.view == "local"

    def differentiable_logits(self, obs: Tensor, view: View, memory: Memory) -> Tensor:
        """Return the networks' values [B, N, A] for ``obs`` [B, N, O], with a graph.

        The memory stays as it is.
        """
        return self.model.agents.differentiable_logits(obs, view, memory)

    def keep(self, memory: Memory, episodes: IntArray) -> Memory:
        """Return the memory of some episodes of a batch."""
        return self.model.keep(memory, episodes)


def unit(norm: ValueNorm) -> float:
    """Return one unit of the networks' values in raw reward."""
    return float(norm.statistics(torch.zeros(1, dtype=torch.int64))[1])
