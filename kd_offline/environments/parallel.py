"""Our environments as PettingZoo ParallelEnvs, for other libraries."""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np

from kd_offline.environments import load
from kd_offline.errors import MissingExtraError, UsageError
from kd_offline.types import Array, View

try:
    from gymnasium.spaces import Box, Discrete
    from pettingzoo import ParallelEnv
except ImportError as error:
    raise MissingExtraError(
        library="pettingzoo", extra="pettingzoo", purpose="a PettingZoo environment"
    ) from error


class BatchOfOne(ParallelEnv[str, Array, int]):  # type: ignore[misc]
    """One environment of ours, stepped agent by name.

    Observations are an agent's own, without padding; the legal actions are
    ``infos[agent]["action_mask"]`` (int8). An agent that is no longer alive leaves, as terminated.
    """

    def __init__(self, name: str, **kwargs: Any) -> None:
        if name.startswith("pettingzoo/"):
            msg = f"{name!r} is an environment of PettingZoo already: make it by its own factory"
            raise UsageError(msg)
        self._environment = load(name, **kwargs)
        spec = self.spec = self._environment.spec
        self.metadata = {"name": spec.id.replace("/", "_"), "render_modes": []}
        self.render_mode = None
        self.possible_agents = list(spec.agents)
        self.agents: list[str] = []
        self._view: View
        widths = dict(zip(spec.agents, spec.obs_widths, strict=True))
        counts = dict(zip(spec.agents, spec.action_counts, strict=True))
        self.observation_spaces = {
            agent: Box(-np.inf, np.inf, (width,), np.float32) for agent, width in widths.items()
        }
        self.action_spaces = {agent: Discrete(count) for agent, count in counts.items()}
        self.state_space = Box(-np.inf, np.inf, (spec.state_width,), np.float32)

    def observation_space(self, agent: str) -> Box:
        """Return the space of an agent's observations."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Discrete:
        """Return the space of an agent's actions."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, dict[str, Any]]]:
        """Start an episode; without ``seed`` a random seed is drawn."""
        episode_seed = secrets.randbits(31) if seed is None else seed
        self._view = self._environment.reset(np.array([episode_seed], np.uint64))
        self.agents = self._alive()
        return self._observations(self.agents), self._infos(self.agents)

    def step(self, actions: dict[str, int]) -> tuple[Any, Any, Any, Any, Any]:
        """Apply the actions of the living agents."""
        acting = self.agents
        joint_actions = np.array(
            [[actions.get(agent, 0) for agent in self.possible_agents]], np.int64
        )
        outcome = self._environment.step(joint_actions)
        self._view = outcome.view
        rewards = dict(zip(self.possible_agents, outcome.reward[0].tolist(), strict=True))
        ended, cut = bool(outcome.terminated[0]), bool(outcome.truncated[0])
        alive = set(self._alive())
        self.agents = [] if ended or cut else [a for a in acting if a in alive]
        return (
            self._observations(acting),
            {agent: rewards[agent] for agent in acting},
            {agent: ended or agent not in alive for agent in acting},
            {agent: cut and agent in alive for agent in acting},
            self._infos(acting),
        )

    def state(self) -> Array:
        """Return the state for a centralised critic, float32 [S]."""
        state: Array = self._view.state[0]
        return state

    def render(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Release what the environment holds."""
        self._environment.close()

    def _alive(self) -> list[str]:
        return [
            a for a, alive in zip(self.possible_agents, self._view.alive[0], strict=True) if alive
        ]

    def _observations(self, agents: list[str]) -> dict[str, Array]:
        rows = zip(self.possible_agents, self._view.obs[0], self.spec.obs_widths, strict=True)
        return {agent: obs[:width].copy() for agent, obs, width in rows if agent in agents}

    def _infos(self, agents: list[str]) -> dict[str, dict[str, Any]]:
        legal = zip(
            self.possible_agents,
            self._view.available_actions[0],
            self.spec.action_counts,
            strict=True,
        )
        return {a: {"action_mask": row[:n].astype(np.int8)} for a, row, n in legal if a in agents}


def parallel_env(name: str, **kwargs: Any) -> BatchOfOne:
    """Return the environment called ``name``, see :func:`kd_offline.environments.load`."""
    return BatchOfOne(name, **kwargs)
