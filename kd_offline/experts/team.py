"""The networks of an expert team: actors, decentralised or of a privileged view, and critics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from kd_offline.errors import UsageError
from kd_offline.experts.parameter_sharing import Group, actor_groups
from kd_offline.experts.views import Seen, state_width
from kd_offline.networks.arithmetic import NetworkShape
from kd_offline.networks.fusion import SourceNetwork, source_network
from kd_offline.networks.fusion_shape import FusionShape
from kd_offline.networks.gru import steps_before
from kd_offline.networks.packed import Packed, PackedNetwork
from kd_offline.networks.recurrent import RecurrentNetwork
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.expert import ExpertArchitecture
from kd_offline.types import BoolArray, IntArray, View

# A feature changes by about a tenth of its size in a step.
MOTION_GAIN = 10.0


class Memory(NamedTuple):
    """Hidden states of a team between steps."""

    actors: list[Tensor]  # [B * n, H] of each group, the agents of an episode side by side
    critics: list[Tensor]  # the same; of central critics [B, H] of each side
    seen: Tensor | None  # [B, N, W], what the actors saw before; None at first, or not needed


class Acted(NamedTuple):
    """Outputs of the actors for one step."""

    logits: Tensor  # [B, N, A], zero where an agent has no such action
    embedding: Tensor  # [B, N, H], zero-padded to the widest
    memory: Memory  # after the step
    taps: Mapping[str, Tensor]  # other layers by name, [B, N, W], zero-padded


class Episodes(NamedTuple):
    """Outputs of the actors over whole episodes, zero in steps that do not count."""

    logits: Tensor  # [T, B, N, A]
    taps: Mapping[str, Tensor]  # [T, B, N, W]


class ActorCritic(nn.Module):
    """Actors and critics of one team, run on whole batches of sequences.

    Parameters
    ----------
    spec, architecture
        What to build for and what to build.
    mask : bool [N, O], optional
        What the actors may see of their observations; critics see everything, as they do not act.
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
        if architecture.view != "local" and mask is not None:
            msg = f"actors of the view {architecture.view} see through no mask: leave it out"
            raise UsageError(msg)
        self.spec = spec
        self.architecture = architecture
        self.scaled = scaled
        if scaled:
            self.register_buffer("mean", torch.zeros(spec.n_agents, spec.obs_width))
            self.register_buffer("std", torch.ones(spec.n_agents, spec.obs_width))
            self.register_buffer("motion_std", torch.ones(spec.n_agents, spec.obs_width))
        self.groups = actor_groups(spec, architecture)
        self.actors = nn.ModuleList(_actor(g.shape, rng) for g in self.groups)
        self.central = architecture.critic == "central"
        shapes: list[NetworkShape] = []
        if self.central:
            shapes = [self._critic_shape(state_width(spec))] * len(spec.sides)
        elif architecture.critic == "local":
            shapes = [self._critic_shape(g.features + g.ids) for g in self.groups]
        self.critics = nn.ModuleList(RecurrentNetwork(s, rng, head_gain=1.0) for s in shapes)
        everything = torch.ones(spec.n_agents, spec.obs_width)
        seen = everything if mask is None else torch.from_numpy(mask.astype(np.float32))
        self.register_buffer("mask", seen, persistent=False)
        self.masked = mask is not None
        place = torch.zeros(spec.n_agents, dtype=torch.int64)
        for group in self.groups:
            place[list(group.agents)] = torch.tensor(range(len(group.agents)))
        self.register_buffer("place", place, persistent=False)  # of an agent within its group
        self.side_of = torch.tensor(spec.side_of)

    def _critic_shape(self, inputs: int) -> NetworkShape:
        return NetworkShape(
            inputs, self.architecture.critic_trunk, self.architecture.critic_gru, outputs=1
        )

    @property
    def device(self) -> torch.device:
        """Device of the networks."""
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

    @property
    def needs_full(self) -> bool:
        """Whether the actors see full observations."""
        return self.architecture.view == "full"

    def act(self, seen: Seen, memory: Memory, last_actions: Tensor | None = None) -> Acted:
        """Take one step: run the actors over ``seen``, whose leading axis is [B].

        ``last_actions``: int64 [B, N], None in the first step.
        """
        features = seen.features(self.architecture.view)
        b = len(features)
        visible = (features - self.mean) / self.std if self.scaled else features
        visible = visible * self.mask if self.masked else visible
        if last_actions is None:
            last_actions = torch.full(features.shape[:2], -1, device=features.device)
        widest = max(g.shape.embedding for g in self.groups)
        logits = features.new_zeros(b, self.spec.n_agents, self.spec.action_count)
        embedding = features.new_zeros(b, self.spec.n_agents, widest)
        taps = self._taps(embedding)
        actor_states = []
        for actor, group, own in zip(
            self._networks(self.actors), self.groups, memory.actors, strict=True
        ):
            agents, width = list(group.agents), group.features
            current = visible[:, agents, :width].flatten(0, 1)
            last = current if memory.seen is None else memory.seen[:, agents, :width].flatten(0, 1)
            n = len(agents)
            ids = torch.eye(n, device=features.device).expand(b, n, n).flatten(0, 1)
            x = self._inputs(group, current, last, last_actions[:, agents].flatten(), ids)
            out, hidden, own, said = _step(actor, x, seen.state, own)
            logits[:, agents, : out.shape[-1]] = out.view(b, n, -1)
            embedding[:, agents, : hidden.shape[-1]] = hidden.view(b, n, -1)
            for name, values in said.items():
                taps[name][:, agents, : values.shape[-1]] = values.view(b, n, -1)
            actor_states.append(own)
        moved = visible if self.architecture.motion else None
        return Acted(logits, embedding, Memory(actor_states, memory.critics, moved), taps)

    def differentiable_logits(self, obs: Tensor, view: View, memory: Memory) -> Tensor:
        """Return the logits or values [B, N, A] of :meth:`act` for ``obs`` [B, N, O], with a graph.

        The memory stays as it is.
        """
        state = torch.from_numpy(view.state).to(self.device)
        last = None
        if view.last_actions is not None:
            last = torch.from_numpy(view.last_actions).to(self.device)
        own = Memory(
            [state.clone() for state in memory.actors],
            memory.critics,
            None if memory.seen is None else memory.seen.clone(),
        )
        return self.act(Seen(obs.to(self.device), state), own, last).logits.cpu()

    def act_episodes(self, seen: Seen, last_actions: Tensor, lengths: Tensor) -> Tensor:
        """Return the logits of whole episodes, [T, B, N, A], that :meth:`act` gives step by step.

        ``seen``: leading axes [T, B]; ``last_actions``: int64 [T, B, N], -1 where there is none;
        ``lengths``: int64 [B, N], at least 1, how many steps of each agent count, on the processor.
        The others are not computed, and their logits are zero.
        """
        return self.episodes(seen, last_actions, lengths).logits

    def episodes(
        self, seen: Seen, last_actions: Tensor, lengths: Tensor, *, taps: bool = False
    ) -> Episodes:
        """Return the logits of :meth:`act_episodes`, and with ``taps`` the actors' taps too."""
        t, b, n = seen.obs.shape[:3]
        previous_actions = last_actions.flatten()
        logits = seen.obs.new_zeros(t * b * n, self.spec.action_count)
        found = self._taps(logits) if taps else {}
        for actor, group in zip(self._networks(self.actors), self.groups, strict=True):
            agents = torch.tensor(group.agents)
            first = (torch.arange(b).unsqueeze(1) * n + agents).flatten()
            steps = torch.arange(t).unsqueeze(1) * (b * n)
            packed_rows, sizes, *_ = pack_padded_sequence(
                first + steps, lengths[:, agents].flatten(), enforce_sorted=False
            )
            packed_rows = packed_rows.to(logits.device)
            agent_indices = packed_rows % n
            place = self.place[agent_indices]
            visible = seen.rows(self.architecture.view, packed_rows, group.features)
            if self.scaled:
                row, width = group.agents[0], visible.shape[1]
                visible = visible.sub_(self.mean[row, :width]).div_(self.std[row, :width])
            if self.masked:
                visible *= self.mask[agent_indices, : visible.shape[1]]
            previous = visible
            if self.architecture.motion:
                previous = visible[steps_before(sizes.tolist(), visible.device)]
            ids = _one_hot(place, len(agents))
            x = self._inputs(group, visible, previous, previous_actions[packed_rows], ids)
            memory = actor.start(len(first))[0]
            if _reads_state(actor):
                fused = _fused(actor, seen.state.flatten(0, 1), x, packed_rows // n, place)
                out = actor.after(fused, x, sizes.tolist(), memory)
            else:
                out = actor.packed(x, sizes.tolist(), memory)
            logits[packed_rows, : out.outputs.shape[1]] = out.outputs
            for name in found:
                values = out.taps[name]
                found[name][packed_rows, : values.shape[1]] = values
        shaped = {name: values.view(t, b, n, -1) for name, values in found.items()}
        return Episodes(logits.view(t, b, n, -1), shaped)

    def _taps(self, like: Tensor) -> dict[str, Tensor]:
        """Return zeros for every tap of the actors, [..., W] with the leading axes of ``like``."""
        widths: dict[str, int] = {}
        for group in self.groups:
            for name, width in group.shape.taps.items():
                widths[name] = max(width, widths.get(name, 0))
        return {name: like.new_zeros(*like.shape[:-1], width) for name, width in widths.items()}

    def value(self, seen: Seen, memory: Memory) -> tuple[Tensor, Memory]:
        """Take one step: run the critics over ``seen``, whose leading axis is [B].

        Returns values [B, N], in the units of the value normalisation, and the memory.
        """
        critic_states = [own.unsqueeze(0) for own in memory.critics]
        step = seen.mapped(lambda values: values.unsqueeze(0))
        values, next_states = self._values(step, critic_states, None)
        return values[0], memory._replace(critics=[own[0] for own in next_states])

    def value_episodes(self, seen: Seen, lengths: Tensor) -> Tensor:
        """Return the values of whole episodes, [T, B, N], that :meth:`value` gives step by step.

        ``seen`` and ``lengths`` as in :meth:`act_episodes`.
        """
        fresh = [own.unsqueeze(0) for own in self.start(seen.obs.shape[1]).critics]
        return self._values(seen, fresh, lengths)[0]

    def _values(
        self, seen: Seen, memory: list[Tensor], lengths: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        critics = zip(self._networks(self.critics), memory, strict=True)
        if self.central:
            last = None if lengths is None else lengths.amax(1)
            sides = [critic(seen.state, own, last) for critic, own in critics]
            values = torch.cat([out for out, _, _ in sides], -1)
            return values[..., self.side_of], [own for _, _, own in sides]
        features = seen.features(self.architecture.view)
        t, b = features.shape[:2]
        values = features.new_zeros(t, b, self.spec.n_agents)
        next_states = []
        for group, (critic, own) in zip(self.groups, critics, strict=False):
            agents = list(group.agents)
            ends = None if lengths is None else lengths[:, agents].flatten()
            visible = features[:, :, agents, : group.features]
            if group.ids:
                ids = torch.eye(group.ids, device=features.device).expand(
                    t, b, group.ids, group.ids
                )
                visible = torch.cat([visible, ids], -1)
            out, _, own = critic(visible.flatten(1, 2), own, ends)
            values[:, :, agents] = out.view(t, b, -1)
            next_states.append(own)
        return values, next_states

    def _inputs(
        self, group: Group, visible: Tensor, previous: Tensor, previous_actions: Tensor, ids: Tensor
    ) -> Tensor:
        """Return the inputs of an actor, without what it reads through a block: [S, I].

        ``visible`` and ``previous``: float [S, W], features of a step and of the step before;
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
    def _networks(modules: nn.ModuleList) -> list[Any]:  # nn.ModuleList forgets what they are
        return list(modules)

    def parameter_counts(self) -> dict[str, int]:
        """Return the number of parameters of the actors and of the critics."""
        return {
            "actor": sum(p.numel() for p in self.actors.parameters()),
            "critic": sum(p.numel() for p in self.critics.parameters()),
        }


def _actor(shape: NetworkShape | FusionShape, rng: np.random.Generator | None) -> PackedNetwork:
    if isinstance(shape, NetworkShape):
        return RecurrentNetwork(shape, rng)
    return source_network(shape, rng)


def _reads_state(actor: PackedNetwork) -> TypeGuard[SourceNetwork]:
    """Return whether an actor reads the state through a block."""
    return isinstance(actor, SourceNetwork) and not actor.shape.own


def _step(actor: PackedNetwork, x: Tensor, state: Tensor, memory: Tensor) -> Packed:
    """Take one step of the agents of a group, side by side in ``x`` [B * n, I]."""
    if isinstance(actor, RecurrentNetwork):
        out, hidden, memory = actor(x.unsqueeze(0), memory.unsqueeze(0))
        return Packed(out[0], hidden[0], memory[0])
    if _reads_state(actor):
        fused = actor.fuse(state, x.view(len(state), -1, x.shape[1])).flatten(0, 1)
        return actor.after(fused, x, [len(x)], memory)
    return actor.packed(x, [len(x)], memory)


def _fused(actor: SourceNetwork, state: Tensor, x: Tensor, rows: Tensor, place: Tensor) -> Tensor:
    """Return what the block gives for packed ``x`` [R, I], [R, d], each state's product once.

    ``rows``: int64 [R], the state of each row in ``state`` [T * B, S]; ``place``: int64 [R], the
    agent within its group.
    """
    used = torch.zeros(len(state), dtype=torch.bool, device=state.device)
    used[rows] = True
    index = (used.cumsum(0) - 1)[rows]
    grid = x.new_zeros(int(used.sum()), actor.shape.readers, x.shape[1])
    grid[index, place] = x
    return actor.fuse(state[used], grid)[index, place]


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
