"""Any parallel PettingZoo environment, one instance for each slot.

What an agent sees of the library's conventions:

* Observations of any flattenable space become flat float32 rows. The keys of a Dict observation
  become blocks; any other observation is one block, ``observation``.
* Legal actions come from an ``action_mask`` in the observation or in the infos; without one, every
  action is legal.
* An agent that leaves while others go on is not alive and sees zeros. In the last view of an
  episode the agents that acted keep their observation, unless they had terminated while the
  episode itself was cut off by time.
* An episode is truncated when time ran out for at least one acting agent, terminated when all
  acting agents terminated.
* The state is the concatenation of the observations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kd_offline.environments.pettingzoo_spec import Port, find
from kd_offline.errors import UsageError
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.types import BoolArray, IntArray, Outcome, SeedArray, View


def load(name: str, kwargs: Mapping[str, Any]) -> PettingZooEnvironment:
    """Return the environment ``pettingzoo/<module>:<factory>``; see :func:`find`."""
    return PettingZooEnvironment(*find(name, kwargs))


@dataclass(slots=True)
class _Slot:
    """One running environment; ``env`` follows PettingZoo's ParallelEnv."""

    env: Any
    steps: int = 0
    terminated: bool = False
    truncated: bool = False

    @property
    def ended(self) -> bool:
        return self.terminated or self.truncated


class PettingZooEnvironment:
    """A batch of parallel PettingZoo environments behind the batched protocol.

    Parameters
    ----------
    make
        Returns a new environment; called once for each slot.
    spec, ports
        Description of the environment and of each agent, from
        :func:`kd_offline.environments.pettingzoo_spec.describe`.
    """

    def __init__(
        self, make: Callable[[], Any], spec: EnvironmentSpec, ports: tuple[Port, ...]
    ) -> None:
        self._make, self._spec, self._ports = make, spec, ports
        self._slots: list[_Slot] = []
        self._real = np.arange(spec.obs_width) < np.array(spec.obs_widths)[:, None]
        self._allocate()

    @property
    def spec(self) -> EnvironmentSpec:
        """Static description: names, widths, blocks, sides."""
        return self._spec

    def reset(self, seeds: SeedArray) -> View:
        """Start ``B = len(seeds)`` episodes; see ``BatchedEnvironment.reset``."""
        for slot in self._slots[len(seeds) :]:
            slot.env.close()
        del self._slots[len(seeds) :]
        while len(self._slots) < len(seeds):
            self._slots.append(_Slot(self._make()))
        self._allocate()
        return self.reset_where(np.ones(len(seeds), bool), seeds)

    def reset_where(self, where: BoolArray, seeds: SeedArray) -> View:
        """Restart the slots ``where``; see ``BatchedEnvironment.reset_where``."""
        for row in np.flatnonzero(where).tolist():
            slot = self._slots[row] = _Slot(self._slots[row].env)
            observations, infos = slot.env.reset(seed=int(seeds[row]))
            self._perceive(row, set(slot.env.agents), observations, infos)
        return self._view()

    def step(self, actions: IntArray) -> Outcome:
        """Apply ``actions`` int [B, N]; see ``BatchedEnvironment.step``."""
        expected = (len(self._slots), self._spec.n_agents)
        if np.shape(actions) != expected:
            msg = f"actions have shape {np.shape(actions)}, expected {expected} as [slots, agents]"
            raise UsageError(msg)
        reward = np.zeros(expected, np.float32)
        for row, slot in enumerate(self._slots):
            if not slot.ended:
                reward[row] = self._step_slot(row, slot, actions[row])
        return Outcome(
            view=self._view(),
            reward=reward,
            terminated=np.array([slot.terminated for slot in self._slots], bool),
            truncated=np.array([slot.truncated for slot in self._slots], bool),
            won=np.full(len(self._slots), -1, np.int8),
        )

    def close(self) -> None:
        """Close every instance."""
        for slot in self._slots:
            slot.env.close()
        self._slots.clear()
        self._allocate()

    def _allocate(self) -> None:
        batch, spec = len(self._slots), self._spec
        self._obs = np.zeros((batch, spec.n_agents, spec.obs_width), np.float32)
        self._legal = np.zeros((batch, spec.n_agents, spec.action_count), bool)
        self._alive = np.zeros((batch, spec.n_agents), bool)

    def _step_slot(self, row: int, slot: _Slot, actions: IntArray) -> list[float]:
        acting = list(slot.env.agents)
        chosen = {
            port.agent: self._native(port, int(action))
            for port, action in zip(self._ports, actions, strict=True)
            if port.agent in acting
        }
        observations, rewards, terminations, truncations, infos = slot.env.step(chosen)
        slot.steps += 1
        over = not slot.env.agents
        timed_out = any(truncations.get(a) and not terminations.get(a) for a in acting)
        slot.truncated = (over and timed_out) or (
            not over and slot.steps >= self._spec.episode_limit
        )
        slot.terminated = over and not timed_out
        staying = {*slot.env.agents, *(acting if slot.ended else ())}
        present = {
            agent for agent in staying if slot.terminated or not terminations.get(agent, False)
        }
        self._perceive(row, present, observations, infos)
        return [float(rewards.get(agent, 0.0)) for agent in self._spec.agents]

    def _native(self, port: Port, action: int) -> int:
        if not 0 <= action < port.n_actions:
            msg = (
                f"action {action} of agent {port.agent!r} does not exist: "
                f"choose 0 to {port.n_actions - 1}"
            )
            raise UsageError(msg)
        return action + port.first_action

    def _perceive(
        self,
        row: int,
        present: set[str],
        observations: Mapping[str, Any],
        infos: Mapping[str, Any],
    ) -> None:
        self._obs[row], self._legal[row], self._alive[row] = 0.0, False, False
        for index, port in enumerate(self._ports):
            if port.agent in present and port.agent in observations:
                seen = observations[port.agent]
                self._obs[row, index, : port.width] = port.flatten(seen)
                self._legal[row, index, : port.n_actions] = port.legal(
                    seen, infos.get(port.agent, {})
                )
                self._alive[row, index] = True

    def _view(self) -> View:
        return View(
            obs=self._obs.copy(),
            state=self._obs[:, self._real],
            available_actions=self._legal.copy(),
            alive=self._alive.copy(),
        )
