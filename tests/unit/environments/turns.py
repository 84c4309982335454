"""A real AEC environment without masks, in which players leave one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv
from pettingzoo.utils import AgentSelector


class Auction(AECEnv[str, Any, Any]):  # type: ignore[misc]
    """Three bid in turn; after each round the lowest leaves, and the last two leave together."""

    metadata = {"name": "auction_v0", "is_parallelizable": False}  # noqa: RUF012
    render_mode = None

    def __init__(self) -> None:
        super().__init__()
        self.possible_agents = ["x", "y", "z"]
        self.agents = self.possible_agents[:]

    def observation_space(self, agent: str) -> spaces.Box:
        return spaces.Box(-9, 9, (4,))

    def action_space(self, agent: str) -> spaces.Discrete:
        return spaces.Discrete(4)

    def observe(self, agent: str) -> Any:
        bids = [self.bids.get(other, -1) for other in self.possible_agents]
        return np.array([*bids, self.prize[agent]], np.float32)

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        rng = np.random.default_rng(seed)
        self.agents = self.possible_agents[:]
        self.bids: dict[str, int] = {}
        self.prize = {agent: float(rng.integers(0, 4)) for agent in self.agents}
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos: dict[str, Any] = {agent: {} for agent in self.agents}
        self.order = AgentSelector(self.agents)
        self.agent_selection = self.order.reset()

    def step(self, action: Any) -> None:
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            self._was_dead_step(action)
            return
        self._clear_rewards()
        self._cumulative_rewards[agent] = 0
        self.bids[agent] = int(action)
        self.rewards[agent] = float(action == self.prize[agent])
        self._accumulate_rewards()
        if not self.order.is_last():
            self.agent_selection = self.order.next()
            return
        left = (
            self.agents[:]
            if len(self.agents) == 2
            else [min(self.agents, key=self.bids.__getitem__)]
        )
        self.terminations |= dict.fromkeys(left, True)
        self.order.reinit([other for other in self.agents if other not in left] or self.agents)
        self.agent_selection = self.order.reset()
        self._deads_step_first()
