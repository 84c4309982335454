"""Small real ParallelEnvs with what the particle tasks lack: leaving, legal actions, odd spaces."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv


class Leavers(ParallelEnv[str, Any, int]):  # type: ignore[misc]
    """Runner ``i`` reaches the exit after walking ``i + 2`` paces and leaves.

    Observations are dictionaries of different widths; walking (action 1) is illegal while tired,
    which is every third step. ``early`` makes the clock stop the episode instead.
    """

    metadata = {"name": "leavers_v0"}  # noqa: RUF012

    def __init__(self, max_cycles: int = 30, masks_in_infos: bool = False) -> None:
        self.possible_agents = ["runner_0", "runner_1", "guide_0"]
        self.max_cycles, self.masks_in_infos = max_cycles, masks_in_infos

    def observation_space(self, agent: str) -> spaces.Dict:
        number = self.possible_agents.index(agent)
        parts: dict[str, spaces.Space[Any]] = {
            "distance": spaces.Box(-100, 100, (1 + number,)),
            "phase": spaces.Discrete(3),
        }
        if not self.masks_in_infos:
            parts["action_mask"] = spaces.MultiBinary(2)
        return spaces.Dict(parts)

    def action_space(self, agent: str) -> spaces.Discrete:
        return spaces.Discrete(2, start=7 if agent == "guide_0" else 0)

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents = self.possible_agents[:]
        self.clock = int(np.random.default_rng(seed).integers(3))
        self.steps = 0
        self.left = {agent: 2 + i for i, agent in enumerate(self.agents)}
        return self._observe(self.agents), self._infos(self.agents)

    def step(self, actions: dict[str, int]) -> Any:
        assert set(actions) == set(self.agents)
        acting, self.clock, self.steps = self.agents, self.clock + 1, self.steps + 1
        for agent, action in actions.items():
            self.left[agent] -= action - self.action_space(agent).start
        done = {agent: self.left[agent] <= 0 for agent in acting}
        late = dict.fromkeys(acting, self.steps >= self.max_cycles)
        rewards = {agent: float(-self.left[agent]) for agent in acting}
        self.agents = [agent for agent in acting if not (done[agent] or late[agent])]
        return self._observe(acting), rewards, done, late, self._infos(acting)

    def _mask(self) -> Any:
        return np.array([1, self.clock % 3 != 2], np.int8)

    def _observe(self, agents: list[str]) -> Any:
        seen = {}
        for agent in agents:
            width = 1 + self.possible_agents.index(agent)
            distance = np.full(width, self.left[agent], np.float32)
            seen[agent] = {"phase": self.clock % 3, "distance": distance}
            if not self.masks_in_infos:
                seen[agent]["action_mask"] = self._mask()
        return seen

    def _infos(self, agents: list[str]) -> Any:
        return {a: {"action_mask": self._mask()} if self.masks_in_infos else {} for a in agents}


class Timeless(Leavers):
    """One that does not tell its limit."""

    def __init__(self) -> None:
        super().__init__()
        del self.max_cycles


class Endless(Leavers):
    """One whose observations have no fixed width."""

    def observation_space(self, agent: str) -> Any:
        return spaces.Sequence(spaces.Discrete(2))


def anonymous() -> ParallelEnv[str, Any, int]:
    env = Leavers()
    env.possible_agents = []
    return env


def simulator() -> object:
    """What is no PettingZoo environment at all."""
    return object()
