"""An exported team as a policy, whichever engine runs its steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kd_offline.exports.network import Step
from kd_offline.schemas.export import AgentContract
from kd_offline.students.masks import Mask
from kd_offline.types import Float32Array, IntArray, PolicyOutput, SeedArray, View


class Memory(NamedTuple):
    """Memory vector of each agent [B, M_i], and bits of a mask that is drawn by episode."""

    agents: tuple[Float32Array, ...]
    bits: Float32Array  # [N, O] or [B, N, O]


@dataclass(frozen=True, slots=True)
class ExportedTeam:
    """The steps of all agents as one team policy; it takes whole observations and cuts them."""

    agents: tuple[AgentContract, ...]
    steps: tuple[Step, ...]
    mask: Mask

    def start(self, seeds: SeedArray) -> Memory:
        """Return the memory of fresh episodes; random masks are drawn from their seeds."""
        zeros = [np.zeros((len(seeds), agent.memory_width), np.float32) for agent in self.agents]
        return Memory(tuple(zeros), self.mask.for_episodes(seeds).astype(np.float32))

    def act(self, view: View, memory: Memory) -> tuple[PolicyOutput, Memory]:
        """Return logits [B, N, A], zero where an agent has no such action."""
        _, output, after = self.decide(view, memory)
        return output, after

    def decide(self, view: View, memory: Memory) -> tuple[IntArray, PolicyOutput, Memory]:
        """Return also the actions that the steps choose themselves: int64 [B, N]."""
        actions = np.zeros(view.alive.shape, np.int64)
        logits = np.zeros(view.available_actions.shape, np.float32)
        after = []
        for i, (agent, step) in enumerate(zip(self.agents, self.steps, strict=True)):
            kept = memory.agents[i]
            if view.last_actions is not None:
                kept = executed(agent, kept, view.last_actions[:, i])
            legal = np.ascontiguousarray(view.available_actions[:, i, : len(agent.actions)])
            actions[:, i], said, now = step(self.seen(view, memory, i), legal, kept)
            logits[:, i, : len(agent.actions)] = said
            after.append(now)
        return actions, PolicyOutput(logits), memory._replace(agents=tuple(after))

    def seen(self, view: View, memory: Memory, i: int) -> Float32Array:
        """Return the inputs of agent ``i`` from a view: float32 [B, I]."""
        agent = self.agents[i]
        features = view.obs[:, i, list(agent.seen)]
        if not agent.drawn:
            return np.ascontiguousarray(features, np.float32)
        bits = memory.bits[..., i, : agent.obs_width]
        return np.concatenate([features, np.broadcast_to(bits, features.shape)], axis=1)


def executed(agent: AgentContract, memory: Float32Array, actions: IntArray) -> Float32Array:
    """Return the memory [B, M] after ``actions`` (int [B]) were executed in place of its own."""
    if "last_action" not in agent.memory:
        return memory
    start, stop = agent.memory["last_action"]
    out = memory.copy()
    out[:, start:stop] = np.eye(stop - start, dtype=np.float32)[actions]
    return out
