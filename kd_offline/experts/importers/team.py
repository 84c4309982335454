"""Rebuilt networks as the policy of a whole team."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from kd_offline.experts.importers.inputs import Parts, assemble
from kd_offline.experts.importers.networks import Network
from kd_offline.experts.mixing import TeamValue
from kd_offline.networks.mixers import QMixer, SumMixer
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.foreign import InputRecipe
from kd_offline.types import PolicyOutput, SeedArray, View


@dataclass(frozen=True, slots=True)
class Member:
    """One network, the agents that it serves, and its inputs."""

    network: Network
    agents: tuple[int, ...]
    parts: Parts


class Statistics(NamedTuple):
    """``value = output * deviation + mean``: float [N] or [1] each."""

    mean: Tensor
    deviation: Tensor


class Memory(NamedTuple):
    """Hidden states and observation frames of a team between steps."""

    actors: list[Tensor]  # [layers, B * n, H] each
    critics: list[Tensor]
    frames: Tensor  # [F - 1, B, N, O], the latest first


@dataclass(frozen=True, slots=True)
class NetworkTeam:
    """Actors, and critics where the checkpoint has them, as a team policy.

    ``statistics`` convert the critics' outputs to raw reward units. The ``mixer`` does not act; it
    reads the state, or with ``mixer_reads`` the padded observations of all agents. Where the team
    ``sums``, its value is the sum of the agents' values instead.
    """

    spec: EnvironmentSpec
    recipe: InputRecipe
    actors: tuple[Member, ...]
    critics: tuple[Member, ...] = ()
    statistics: Statistics | None = None
    mixer: QMixer | None = None
    mixer_reads: Literal["state", "all_obs"] = "state"
    sums: bool = False

    def start(self, seeds: SeedArray) -> Memory:
        """Return the memory at the start of episodes."""
        b, spec = len(seeds), self.spec
        return Memory(
            [m.network.start(b * len(m.agents)) for m in self.actors],
            [m.network.start(b * len(m.agents)) for m in self.critics],
            torch.zeros(self.recipe.frames - 1, b, spec.n_agents, spec.obs_width),
        )

    @torch.inference_mode()
    def act(self, view: View, memory: Memory) -> tuple[PolicyOutput, Memory]:
        """Return logits or Q-values [B, N, A], embeddings [B, N, H] and values [B, N]."""
        alive = torch.from_numpy(view.alive) if self.recipe.hidden_reset == "death" else None
        seen = torch.cat([torch.from_numpy(view.obs).unsqueeze(0), memory.frames])
        out, embedding, actors = self._run(self.actors, view, seen, memory.actors, alive)
        value, critics = None, memory.critics
        if self.critics:
            raw, _, critics = self._run(self.critics, view, seen[:1], memory.critics, alive)
            value = raw[..., 0]
            if self.statistics is not None:
                value = value * self.statistics.deviation + self.statistics.mean
        next_memory = Memory(actors, critics, seen[: self.recipe.frames - 1])
        worth = self._team_value(view, out)
        if worth is not None:
            return worth.output(out.numpy(), embedding.numpy()), next_memory
        return PolicyOutput(
            logits=out.numpy(),
            embedding=embedding.numpy(),
            value=None if value is None else value.numpy(),
            q_values=out.numpy() if self.recipe.output == "q_values" else None,
        ), next_memory

    def _team_value(self, view: View, q: Tensor) -> TeamValue | None:
        """Return the agents' values and the team's value, where their mixing is known.

        These libraries also mix the values of dead agents, whose only legal action is to do
        nothing.
        """
        mixer = SumMixer() if self.sums else self.mixer
        if mixer is None:
            return None
        read = view.state if self.mixer_reads == "state" else view.obs.reshape(len(view.obs), -1)
        available = torch.from_numpy(view.available_actions)
        return TeamValue(mixer, q, torch.from_numpy(read), available.any(-1), available)

    def _run(
        self,
        members: Sequence[Member],
        view: View,
        seen: Tensor,
        memory: Sequence[Tensor],
        alive: Tensor | None,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return outputs and embeddings [B, N, ...] of all agents, zero-padded."""
        b, n = view.obs.shape[:2]
        outs: list[list[Tensor]] = [[], []]
        next_memory = []
        for member, before in zip(members, memory, strict=True):
            x = self._fed(member, view, seen)
            if alive is not None:
                before = before * alive[:, list(member.agents)].reshape(1, -1, 1)
            out, embedding, state = member.network(x.reshape(b * x.shape[1], -1), before)
            for target, values in zip(outs, (out, embedding), strict=True):
                target.append(values.view(b, len(member.agents), -1))
            next_memory.append(state)
        order = [m.agents for m in members]
        return _placed(outs[0], order, (b, n)), _placed(outs[1], order, (b, n)), next_memory

    def _fed(self, member: Member, view: View, seen: Tensor) -> Tensor:
        frames = seen if self.recipe.frame_order == "newest_first" else seen.flip(0)
        own_frames = frames[:, :, list(member.agents), : member.parts.obs_width]
        obs = own_frames.permute(1, 2, 0, 3).flatten(-2)
        return assemble(member.parts.names, view, member.agents, obs, self.spec)


def _placed(
    parts: Sequence[Tensor], agents: Sequence[tuple[int, ...]], shape: tuple[int, int]
) -> Tensor:
    padded = torch.zeros(*shape, max(p.shape[-1] for p in parts))
    for values, agent_indices in zip(parts, agents, strict=True):
        padded[:, list(agent_indices), : values.shape[-1]] = values
    return padded
