"""A small ParallelEnv whose spaces, agents and returned values a test can bend one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

Bend = Callable[["Scripted", Any], Any]


class Scripted(ParallelEnv[Any, Any, Any]):  # type: ignore[misc]
    """Two agents, three features, two actions; after ``max_cycles`` steps both are truncated.

    ``ends``: agent -> step at which it is terminated. ``stays``: agents that have ended are still
    listed. ``masks``: step -> agent -> what its infos have. ``bend`` is called with the environment
    and what reset or step is about to return.
    """

    metadata = {"name": "scripted_v0"}  # noqa: RUF012
    sent: list[dict[Any, Any]]

    def __init__(
        self,
        bend: Bend | None = None,
        *,
        agents: Any = ("a", "b"),
        max_cycles: int = 6,
        ends: dict[Any, int] | None = None,
        stays: bool = False,
        space: Any = None,
        masks: Callable[[int, Any], Any] | None = None,
    ) -> None:
        self.possible_agents = list(agents)
        self.agents = list(agents)
        self.max_cycles, self.ends, self.stays = max_cycles, ends or {}, stays
        self.bend, self.masks = bend, masks
        self.space = space or spaces.Box(-1, 1, (3,))

    def observation_space(self, agent: Any) -> Any:
        return self.space

    def action_space(self, agent: Any) -> Any:
        return spaces.Discrete(2)

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents, self.steps, self.sent = self.possible_agents[:], 0, []
        return self._bent((self._seen(self.agents), self._infos(self.agents)))

    def step(self, actions: dict[Any, Any]) -> Any:
        acting, self.steps = self.agents, self.steps + 1
        self.sent.append(actions)
        done = {a: self.steps >= self.ends.get(a, 10**9) for a in acting}
        late = {a: self.steps >= self.max_cycles and not done[a] for a in acting}
        if not self.stays:
            self.agents = [a for a in acting if not (done[a] or late[a])]
        rewards = dict.fromkeys(acting, 1.0)
        return self._bent((self._seen(acting), rewards, done, late, self._infos(acting)))

    def _seen(self, agents: list[Any]) -> Any:
        return {a: np.full(3, (1 + self.steps) / 10, np.float32) for a in agents}

    def _infos(self, agents: list[Any]) -> Any:
        return {a: self.masks(self.steps, a) if self.masks else {} for a in agents}

    def _bent(self, returned: Any) -> Any:
        return returned if self.bend is None else self.bend(self, returned)
