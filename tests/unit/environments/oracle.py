"""The installed mpe2, driven from copied states."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from kd_offline.environments.particle.environment import ParticleEnvironment
from kd_offline.types import FloatArray, IntArray


class Oracle:
    """One mpe2 environment whose world can be read and overwritten."""

    def __init__(self, module: str, **kwargs: Any) -> None:
        self.env = importlib.import_module(f"mpe2.{module}").parallel_env(**kwargs)
        self.env.reset(seed=0)
        self.inner = self.env.unwrapped
        self.world = self.inner.world
        self.agents = self.env.possible_agents

    def reset(self, seed: int) -> None:
        self.env.reset(seed=seed)

    def place(self, position: FloatArray, velocity: FloatArray, goal: int) -> None:
        """Overwrite the state: position [N + L, 2], velocity [N, 2], goal landmark."""
        self.env.reset(seed=0)
        for entity, place in zip(self.world.entities, position, strict=True):
            entity.state.p_pos = place.astype(np.float64).copy()
        for agent, speed in zip(self.world.agents, velocity, strict=True):
            agent.state.p_vel = speed.astype(np.float64).copy()
        self._aim(goal)

    def observe(self) -> list[FloatArray]:
        """Return each agent's observation in float64, before mpe2 rounds it."""
        return [self.inner.scenario.observation(agent, self.world) for agent in self.world.agents]

    def step(self, actions: IntArray) -> tuple[FloatArray, list[bool], list[bool]]:
        chosen = {agent: int(a) for agent, a in zip(self.agents, actions, strict=True)}
        _, reward, terminated, truncated, _ = self.env.step(chosen)
        rewards = np.array([reward[agent] for agent in self.agents])
        return rewards, [*terminated.values()], [*truncated.values()]

    def _aim(self, goal: int) -> None:
        world = self.world
        if hasattr(world.agents[0], "goal_b"):
            world.agents[0].goal_b = world.landmarks[goal]
        elif hasattr(world.agents[0], "goal_a"):
            for agent in world.agents:
                agent.goal_a = world.landmarks[goal]


def place(
    env: ParticleEnvironment, position: FloatArray, velocity: FloatArray, goals: IntArray
) -> None:
    """Overwrite a batch: position [B, N + L, 2], velocity [B, N, 2], goals [B]."""
    env.reset(np.zeros(len(goals), np.uint64))
    world = env._world
    world.position[:] = position.transpose(2, 1, 0)
    world.velocity[:] = velocity.transpose(2, 1, 0)
    world.goal[:] = goals
    world.measure()
