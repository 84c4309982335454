"""The networks of an expert team: decentralised actors, and critics that see more."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from kd_offline.experts.parameter_sharing import Group, actor_groups
from kd_offline.networks.arithmetic import NetworkShape
from kd_offline.networks.gru import steps_before
from kd_offline.networks.recurrent import RecurrentNetwork
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.expert import ExpertArchitecture
from kd_offline.types import BoolArray, IntArray

# A feature changes by about a tenth of its size in a step.
MOTION_GAIN = 10.0


class Memory(NamedTuple):
    """Hidden states of a team between steps."""

    actors: list[Tensor]  # [B * n, H] of each group, the agents of an episode side by side
    critics: list[Tensor]  # the same; of central critics [B, H] of each side
    seen: Tensor | None  # [B, N, O], what the actors saw before; None at first, or not needed


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
    scaled
        Whether every agent has a network of its own that takes its inputs as students do: less
        ``mean``, divided by ``std``, and changes of these divided by ``motion_std``, float [N, O]
        each.
    """

    mask: Tensor
    place: Tensor
    mean: Tensor
    std: Tensor
    motion_std: Tensor

    def __init__(
        self,
        spec: EnvironmentSpec,
        architecture: ExpertArchitecture,
        mask: BoolArray | None,
        rng: np.random.Generator | None,
        *,
        scaled: bool = False,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.architecture = architecture
        self.scaled = scaled
        if scaled:
            self.register_buffer("mean", torch.zeros(spec.n_agents, spec.obs_width))
            self.register_buffer("std", torch.ones(spec.n_agents, spec.obs_width))
            self.register_buffer("motion_std", torch.ones(spec.n_agents, spec.obs_width))
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
        place = torch.zeros(spec.n_agents, dtype=torch.int64)
        for group in self.groups:
            place[list(group.agents)] = torch.arange(len(group.agents))
        self.register_buffer("place", place, persistent=False)  # of an agent within its group
        self.side_of = torch.tensor(spec.side_of)

    def _critic_shape(self, inputs: int) -> NetworkShape:
        return NetworkShape(
            inputs, self.architecture.critic_trunk, self.architecture.critic_gru, outputs=1
        )

    @property
    def device(self) -> torch.device:
        """What the networks are computed on."""
        return self.place.device

    def start(self, batch: int) -> Memory:
        """Return the memory of ``batch`` fresh episodes."""
        actors = [
            actor.start(batch * len(group.agents))[0]
            for actor, group in zip(self._networks(self.actors), self.groups, strict=True)
        ]
        critics = [
            critic.start(batch * n)[0]
            for critic, n in zip(self._networks(self.critics), self._critic_sizes(), strict=True)
        ]
        return Memory(actors, critics, None)

    def keep(self, memory: Memory, episodes: IntArray) -> Memory:
        """Return the memory of some episodes of a batch, indices ``episodes``."""
        rows = torch.from_numpy(episodes)

        def selected(state: Tensor, n: int) -> Tensor:
            return state.view(len(state) // n, n, state.shape[1])[rows].flatten(0, 1)

        sizes = [len(group.agents) for group in self.groups]
        return Memory(
            [selected(state, n) for state, n in zip(memory.actors, sizes, strict=True)],
            [
                selected(state, n)
                for state, n in zip(memory.critics, self._critic_sizes(), strict=True)
            ],
            None if memory.seen is None else memory.seen[rows],
        )

    def act(
        self, obs: Tensor, memory: Memory, last_actions: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Memory]:
        """Take one step: run the actors over ``obs``, float [B, N, O].

        ``last_actions``: int64 [B, N], None in the first step. Returns logits [B, N, A] (zero where
        an agent has no such action), embeddings [B, N, H] (zero-padded to the widest) and the
        memory after the step.
        """
        b = len(obs)
        visible = ((obs - self.mean) / self.std if self.scaled else obs) * self.mask
        if last_actions is None:
            last_actions = torch.full(obs.shape[:2], -1, device=obs.device)
        widest = max(g.shape.embedding for g in self.groups)
        logits = obs.new_zeros(b, self.spec.n_agents, self.spec.action_count)
        embedding = obs.new_zeros(b, self.spec.n_agents, widest)
        actor_states = []
        for actor, group, own in zip(
            self._networks(self.actors), self.groups, memory.actors, strict=True
        ):
            agents = list(group.agents)
            width = self.spec.obs_widths[agents[0]]
            current = visible[:, agents, :width].flatten(0, 1)
            last = current if memory.seen is None else memory.seen[:, agents, :width].flatten(0, 1)
            n = len(agents)
            ids = torch.eye(n, device=obs.device).expand(b, n, n).flatten(0, 1)
            x = self._inputs(group, current, last, last_actions[:, agents].flatten(), ids)
            out, hidden, own = actor(x.unsqueeze(0), own.unsqueeze(0))
            logits[:, agents, : out.shape[-1]] = out.view(b, n, -1)
            embedding[:, agents, : hidden.shape[-1]] = hidden.view(b, n, -1)
            actor_states.append(own[0])
        moved = visible if self.architecture.motion else None
        return logits, embedding, Memory(actor_states, memory.critics, moved)

    def act_episodes(self, obs: Tensor, last_actions: Tensor, lengths: Tensor) -> Tensor:
        """Return the logits of whole episodes, [T, B, N, A], that :meth:`act` gives step by step.

        ``obs``: float [T, B, N, O]; ``last_actions``: int64 [T, B, N], -1 where there is none;
        ``lengths``: int64 [B, N], at least 1, how many steps of each agent count, on the processor.
        The others are not computed, and their logits are zero.
        """
        t, b, n = obs.shape[:3]
        rows, previous_actions = obs.flatten(0, 2), last_actions.flatten()
        logits = obs.new_zeros(t * b * n, self.spec.action_count)
        for actor, group in zip(self._networks(self.actors), self.groups, strict=True):
            agents = torch.tensor(group.agents)
            first = (torch.arange(b).unsqueeze(1) * n + agents).flatten()
            steps = torch.arange(t).unsqueeze(1) * (b * n)
            packed_rows, sizes, *_ = pack_padded_sequence(
                first + steps, lengths[:, agents].flatten(), enforce_sorted=False
            )
            packed_rows = packed_rows.to(obs.device)
            agent_indices = packed_rows % n
            ids = _one_hot(self.place[agent_indices], len(agents))
            visible = rows[packed_rows, : self.spec.obs_widths[group.agents[0]]]
            if self.scaled:
                row, width = group.agents[0], visible.shape[1]
                visible = visible.sub_(self.mean[row, :width]).div_(self.std[row, :width])
            if self.masked:
                visible *= self.mask[agent_indices, : visible.shape[1]]
            previous = visible
            if self.architecture.motion:
                previous = visible[steps_before(sizes.tolist(), obs.device)]
            x = self._inputs(group, visible, previous, previous_actions[packed_rows], ids)
            out = actor.packed(x, sizes.tolist(), actor.start(len(first))[0]).outputs
            logits[packed_rows, : out.shape[1]] = out
        return logits.view(t, b, n, -1)

    def value(self, state: Tensor, obs: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Take one step: run the critics over ``state`` [B, S] and ``obs`` [B, N, O].

        Returns values [B, N], in the units of the value normalisation, and the memory.
        """
        critic_states = [own.unsqueeze(0) for own in memory.critics]
        values, next_states = self._values(
            state.unsqueeze(0), obs.unsqueeze(0), critic_states, None
        )
        return values[0], memory._replace(critics=[own[0] for own in next_states])

    def value_episodes(self, state: Tensor, obs: Tensor, lengths: Tensor) -> Tensor:
        """Return the values of whole episodes, [T, B, N], that :meth:`value` gives step by step.

        ``state``: float [T, B, S]; ``obs`` and ``lengths`` as in :meth:`act_episodes`.
        """
        fresh = [own.unsqueeze(0) for own in self.start(obs.shape[1]).critics]
        return self._values(state, obs, fresh, lengths)[0]

    def _values(
        self, state: Tensor, obs: Tensor, memory: list[Tensor], lengths: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        critics = zip(self._networks(self.critics), memory, strict=True)
        if self.central:
            last = None if lengths is None else lengths.amax(1)
            sides = [critic(state, own, last) for critic, own in critics]
            values = torch.cat([out for out, _, _ in sides], -1)
            return values[..., self.side_of], [own for _, _, own in sides]
        t, b = obs.shape[:2]
        values = obs.new_zeros(t, b, self.spec.n_agents)
        next_states = []
        for group, (critic, own) in zip(self.groups, critics, strict=False):
            agents = list(group.agents)
            ends = None if lengths is None else lengths[:, agents].flatten()
            visible = obs[:, :, agents, : self.spec.obs_widths[agents[0]]]
            if group.ids:
                ids = torch.eye(group.ids, device=obs.device).expand(t, b, group.ids, group.ids)
                visible = torch.cat([visible, ids], -1)
            out, _, own = critic(visible.flatten(1, 2), own, ends)
            values[:, :, agents] = out.view(t, b, -1)
            next_states.append(own)
        return values, next_states

    def _inputs(
        self, group: Group, visible: Tensor, previous: Tensor, previous_actions: Tensor, ids: Tensor
    ) -> Tensor:
        """Return the inputs of an actor, [S, I].

        ``visible`` and ``previous``: float [S, O], observations of a step and of the step before;
        ``previous_actions``: int64 [S]; ``ids``: float [S, n], one-hot index within the group.
        """
        parts = [visible]
        if self.architecture.motion:
            changed = visible - previous
            if self.scaled:
                changed /= self.motion_std[group.agents[0], : visible.shape[1]]
            else:
                changed *= MOTION_GAIN
            parts.append(changed)
        if self.architecture.last_action:
            parts.append(_one_hot(previous_actions, self.spec.action_counts[group.agents[0]]))
        if group.ids:
            parts.append(ids)
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def _critic_sizes(self) -> list[int]:
        """Return the number of rows of each critic for one episode."""
        if self.central:
            return [1] * len(self.critics)
        return [len(group.agents) for group in self.groups][: len(self.critics)]

    @staticmethod
    def _networks(modules: nn.ModuleList) -> list[RecurrentNetwork]:
        return [m for m in modules if isinstance(m, RecurrentNetwork)]

    def parameter_counts(self) -> dict[str, int]:
        """Return the number of parameters of the actors and of the critics."""
        return {
            "actor": sum(p.numel() for p in self.actors.parameters()),
            "critic": sum(p.numel() for p in self.critics.parameters()),
        }


def _one_hot(index: Tensor, width: int) -> Tensor:
    """Return float [S, width] of int64 [S]; -1 gives zeros."""
    return torch.eye(width + 1, device=index.device)[index, :width]


def steps_that_count(acting: Tensor) -> Tensor:
    """Return for each agent the steps up to its last one that counts: int64 [B, N], at least 1.

    ``acting``: bool [T, B, N], where outputs of an agent's network are used. The result is on the
    processor, as sequences are packed there.
    """
    numbers = torch.arange(1, len(acting) + 1, device=acting.device).view(-1, 1, 1)
    return (acting * numbers).amax(0).clamp(min=1).cpu()
