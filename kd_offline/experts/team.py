"""The networks of an expert team: actors that act on their own, critics that see more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from kd_offline.errors import MismatchError
from kd_offline.networks.gru import steps_before
from kd_offline.networks.recurrent import NetworkShape, RecurrentNetwork
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.expert import ExpertArchitecture
from kd_offline.types import BoolArray, IntArray

# A feature changes by about a tenth of its size in a step.
MOTION_GAIN = 10.0


@dataclass(frozen=True, slots=True)
class Group:
    """Agents that are served by one network; ids are appended when there are several."""

    agents: tuple[int, ...]
    shape: NetworkShape

    @property
    def ids(self) -> int:
        """Width of the one-hot agent id."""
        return len(self.agents) if len(self.agents) > 1 else 0


def actor_groups(spec: EnvironmentSpec, architecture: ExpertArchitecture) -> tuple[Group, ...]:
    """Return which agents share an actor: those of one side, with equal widths, under ``share``."""
    if architecture.widths is not None and len(architecture.widths) != spec.n_agents:
        msg = (
            f"{len(architecture.widths)} widths {architecture.widths} for {spec.n_agents} agents "
            f"of {spec.id}: give one width for each of {', '.join(spec.agents)}"
        )
        raise MismatchError(msg)
    together: dict[tuple[object, ...], list[int]] = {}
    for i, side in enumerate(spec.side_of):
        key: tuple[object, ...] = (side, spec.obs_widths[i], spec.action_counts[i])
        alone = not architecture.share or architecture.widths is not None
        together.setdefault((i,) if alone else key, []).append(i)
    return tuple(_group(tuple(agents), spec, architecture) for agents in together.values())


def _group(
    agents: tuple[int, ...], spec: EnvironmentSpec, architecture: ExpertArchitecture
) -> Group:
    first = agents[0]
    trunk, gru = architecture.trunk, architecture.gru
    if architecture.widths is not None:
        width = architecture.widths[first]
        trunk, gru = (width,) * len(trunk), gru and width
    ids = len(agents) if len(agents) > 1 else 0
    inputs = spec.obs_widths[first] * (1 + architecture.motion) + ids
    inputs += spec.action_counts[first] if architecture.last_action else 0
    shape = NetworkShape(inputs, trunk, gru, spec.action_counts[first])
    return Group(agents, shape)


class Rows(NamedTuple):
    """What every agent saw and did at every step of a batch of episodes, flat."""

    obs: Tensor  # [T * B * N, O]
    last_actions: Tensor  # int64 [T * B * N], -1 where there is none


class ActorCritic(nn.Module):
    """Actors and critics of one team, run on whole batches of sequences.

    Parameters
    ----------
    spec, architecture
        What to build for and what to build.
    mask : bool [N, O], optional
        What the actors may see; the critics see everything, as they do not act.
    rng
        Draws the first weights; None leaves them arbitrary, for weights that are loaded next.
    """

    mask: Tensor

    def __init__(
        self,
        spec: EnvironmentSpec,
        architecture: ExpertArchitecture,
        mask: BoolArray | None,
        rng: np.random.Generator | None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.architecture = architecture
        self.groups = actor_groups(spec, architecture)
        self.actors = nn.ModuleList(RecurrentNetwork(g.shape, rng) for g in self.groups)
        self.central = architecture.critic == "central"
        shapes: list[NetworkShape] = []
        if self.central:
            inputs = sum(spec.obs_widths) if spec.state_is_obs else spec.state_width
            shapes = [self._critic_shape(inputs)] * len(spec.sides)
        elif architecture.critic == "local":
            shapes = [self._critic_shape(spec.obs_widths[g.agents[0]] + g.ids) for g in self.groups]
        self.critics = nn.ModuleList(RecurrentNetwork(s, rng, head_gain=1.0) for s in shapes)
        everything = torch.ones(spec.n_agents, spec.obs_width)
        seen = everything if mask is None else torch.from_numpy(mask.astype(np.float32))
        self.register_buffer("mask", seen, persistent=False)
        self.masked = mask is not None
        self.side_of = torch.tensor(spec.side_of)

    def _critic_shape(self, inputs: int) -> NetworkShape:
        return NetworkShape(
            inputs, self.architecture.critic_trunk, self.architecture.critic_gru, outputs=1
        )

    def start(self, batch: int) -> list[Tensor]:
        """Return the memories of all actors, then of all critics, for ``batch`` fresh episodes.

        With motion, what the actors saw in the step before follows: nothing yet, [0, B, N, O].
        """
        actors = [
            actor.start(batch * len(group.agents))
            for actor, group in zip(self._networks(self.actors), self.groups, strict=True)
        ]
        sizes = [1] * len(self.critics) if self.central else [len(g.agents) for g in self.groups]
        critics = [
            critic.start(batch * n)
            for critic, n in zip(self._networks(self.critics), sizes, strict=False)
        ]
        seen = [self.mask.new_zeros(0, batch, *self.mask.shape)] if self.architecture.motion else []
        return actors + critics + seen

    def keep(self, memory: list[Tensor], episodes: IntArray) -> list[Tensor]:
        """Return the memories of some episodes of a batch, indices ``episodes``."""
        rows = torch.from_numpy(episodes)
        # Memories of agents that share a network lie side by side: [1, B * n, H].
        sizes = [len(g.agents) for g in self.groups]
        sizes += [1] * len(self.critics) if self.central else sizes[: len(self.critics)]
        kept = [
            m.reshape(1, m.shape[1] // n, n, m.shape[2])[:, rows].flatten(1, 2)
            for m, n in zip(memory, sizes, strict=False)
        ]
        return kept + [seen[:, rows] for seen in memory[len(sizes) :]]

    def act(
        self, obs: Tensor, memory: list[Tensor], last_actions: Tensor | None = None
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Run the actors over ``obs``: float [T, B, N, O].

        ``last_actions``: int64 [T, B, N], -1 where there is none; None: nowhere. Returns logits
        [T, B, N, A] (zero where an agent has no such action), embeddings [T, B, N, H] (zero-padded
        to the widest) and the actors' memories.
        """
        obs = obs * self.mask
        extras = self._extras(obs, memory, last_actions)
        t, b = obs.shape[:2]
        widest = max(g.shape.embedding for g in self.groups)
        logits = obs.new_zeros(t, b, self.spec.n_agents, self.spec.action_count)
        embedding = obs.new_zeros(t, b, self.spec.n_agents, widest)
        after = []
        for actor, group, state in zip(
            self._networks(self.actors), self.groups, memory[: len(self.actors)], strict=True
        ):
            agents = list(group.agents)
            out, hidden, state = actor(self._inputs(obs, group, *extras), state)
            logits[:, :, agents, : out.shape[-1]] = out.view(t, b, len(agents), -1)
            embedding[:, :, agents, : hidden.shape[-1]] = hidden.view(t, b, len(agents), -1)
            after.append(state)
        return logits, embedding, after

    def act_episodes(self, obs: Tensor, last_actions: Tensor, lengths: Tensor) -> Tensor:
        """Return the logits of whole episodes, [T, B, N, A], as :meth:`act` gives them.

        ``lengths``: int64 [B, N], at least 1, how many steps of each agent count. The others are
        not computed, and their logits are zero.
        """
        t, b, n = obs.shape[:3]
        rows = Rows(obs.flatten(0, 2), last_actions.flatten())
        logits = obs.new_zeros(t * b * n, self.spec.action_count)
        for actor, group in zip(self._networks(self.actors), self.groups, strict=True):
            agents = torch.tensor(group.agents)
            first = (torch.arange(b).unsqueeze(1) * n + agents).flatten()
            steps = torch.arange(t).unsqueeze(1) * (b * n)
            chosen = pack_padded_sequence(
                first + steps, lengths[:, agents].flatten(), enforce_sorted=False
            )
            sizes = chosen.batch_sizes.tolist()
            x = self._packed_inputs(rows, chosen.data, sizes, group)
            out = actor.packed(x, sizes, actor.start(len(first))[0]).outputs
            logits[chosen.data, : out.shape[1]] = out
        return logits.view(t, b, n, -1)

    def value(
        self, state: Tensor, obs: Tensor, memory: list[Tensor], lengths: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Run the critics over ``state`` [T, B, S] and ``obs`` [T, B, N, O].

        ``lengths`` as in :meth:`act_episodes`. Returns values [T, B, N], in the units of the value
        normalisation, and the memories.
        """
        memory = memory[len(self.actors) : len(self.actors) + len(self.critics)]
        networks = list(self._networks(self.critics))
        if self.central:
            last = None if lengths is None else lengths.amax(1)
            sides = [c(state, m, last) for c, m in zip(networks, memory, strict=True)]
            values = torch.cat([out for out, _, _ in sides], -1)
            return values[..., self.side_of], [m for _, _, m in sides]
        t, b = obs.shape[:2]
        value = obs.new_zeros(t, b, self.spec.n_agents)
        after = []
        for critic, group, before in zip(networks, self.groups, memory, strict=True):
            agents = list(group.agents)
            ends = None if lengths is None else lengths[:, agents].flatten()
            out, _, m = critic(self._inputs(obs, group), before, ends)
            value[:, :, agents] = out.view(t, b, -1)
            after.append(m)
        return value, after

    def _extras(
        self, obs: Tensor, memory: list[Tensor], last_actions: Tensor | None
    ) -> list[Tensor]:
        """Return what is appended to every agent's observation, [T, B, N, O] and [T, B, N, A]."""
        extras = []
        if self.architecture.motion:
            last = memory[-1] if len(memory[-1]) else obs[:1]
            extras.append((obs - torch.cat([last, obs[:-1]])) * MOTION_GAIN)
        if self.architecture.last_action:
            taken = obs.new_zeros(*obs.shape[:3], self.spec.action_count)
            if last_actions is not None:
                known = (last_actions >= 0).unsqueeze(-1).to(obs.dtype)
                taken.scatter_(-1, last_actions.clamp(min=0).unsqueeze(-1), known)
            extras.append(taken)
        return extras

    def _inputs(self, obs: Tensor, group: Group, *extras: Tensor) -> Tensor:
        t, b = obs.shape[:2]
        first, agents = group.agents[0], list(group.agents)
        obs_width, actions = self.spec.obs_widths[first], self.spec.action_counts[first]
        widths = [obs_width] * (1 + self.architecture.motion) + [actions]
        parts = [x[:, :, agents, :w] for x, w in zip((obs, *extras), widths, strict=False)]
        if group.ids:
            parts.append(torch.eye(group.ids).expand(t, b, group.ids, group.ids))
        mine = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        return mine.reshape(t, b * len(agents), -1)

    def _packed_inputs(self, rows: Rows, chosen: Tensor, sizes: list[int], group: Group) -> Tensor:
        """Return what an actor takes at the ``chosen`` rows of packed episodes, [S, I]."""
        first, n = group.agents[0], self.spec.n_agents
        seen = rows.obs[chosen, : self.spec.obs_widths[first]]
        agents = chosen % n
        if self.masked:
            seen *= self.mask[agents, : seen.shape[1]]
        parts = [seen]
        if self.architecture.motion:
            parts.append((seen - seen[steps_before(sizes)]) * MOTION_GAIN)
        if self.architecture.last_action:
            taken = rows.last_actions[chosen]
            known = (taken >= 0).unsqueeze(-1).to(seen.dtype)
            choices = torch.eye(self.spec.action_counts[first])
            parts.append(choices[taken.clamp(min=0)] * known)
        if group.ids:
            place = torch.zeros(n, dtype=torch.int64)
            place[list(group.agents)] = torch.arange(group.ids)
            parts.append(torch.eye(group.ids)[place[agents]])
        return torch.cat(parts, -1)

    @staticmethod
    def _networks(modules: nn.ModuleList) -> list[RecurrentNetwork]:
        return [m for m in modules if isinstance(m, RecurrentNetwork)]

    def parameter_counts(self) -> dict[str, int]:
        """Return the number of parameters of the actors and of the critics."""
        return {
            "actor": sum(p.numel() for p in self.actors.parameters()),
            "critic": sum(p.numel() for p in self.critics.parameters()),
        }


def steps_that_count(acting: Tensor) -> Tensor:
    """Return for each agent the steps up to its last: int64 [B, N], at least 1.

    ``acting``: bool [T, B, N], where what an agent's network says matters.
    """
    numbers = torch.arange(1, len(acting) + 1).view(-1, 1, 1)
    return (acting * numbers).amax(0).clamp(min=1)
