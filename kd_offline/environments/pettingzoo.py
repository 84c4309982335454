"""Any PettingZoo environment with discrete actions, one instance for each slot.

What an agent sees of the library's conventions:

* Observations of any flattenable space become flat float32 rows. The keys of a Dict observation
  become blocks; any other observation is one block, ``observation``.
* Legal actions come from an ``action_mask`` in the observation or in the infos; without one, every
  action is legal. See :mod:`kd_offline.environments.pettingzoo_port` for what is read.
* An agent ends when its termination or its truncation is true, or when it is no longer among the
  environment's ``agents``; then it is not alive and sees zeros. It cannot come back.
* An agent without a legal action waits: it is not alive, but keeps its observation. In an AEC
  environment that is turned into a parallel one, all agents wait but the one whose turn it is.
* The episode ends when no agent remains. It is truncated when time ran out for at least one of the
  agents that acted last, terminated otherwise.
* In the last view of an episode the agents that acted keep their observation, unless they had
  terminated while the episode itself was cut off by time.
* The state is the concatenation of the observations.

Whatever the environment returns is checked, and what breaks these rules is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from kd_offline.environments.pettingzoo_port import (
    METHODS,
    Port,
    UnfitError,
    flag,
    mask_key,
    number,
    shown,
    unread,
)
from kd_offline.environments.pettingzoo_spec import find, turn_of
from kd_offline.errors import UsageError, UserCodeError
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.types import BoolArray, IntArray, Outcome, SeedArray, View
from kd_offline.user_code import calling, close_all, failure, plain

_LOG = logging.getLogger(__name__)
_RESET = ("observations", "infos")
_STEP = ("observations", "rewards", "terminations", "truncations", "infos")


def load(factory: str, /, **settings: Any) -> PettingZooEnvironment:
    """Return the environment ``pettingzoo/<module>:<factory>``; see :func:`find`."""
    return PettingZooEnvironment(*find(f"pettingzoo/{factory}", settings))


@dataclass(slots=True)
class _Slot:
    """One running environment; ``env`` follows PettingZoo's ParallelEnv."""

    env: Any
    seed: int = 0
    steps: int = 0
    listed: set[str] = field(default_factory=set)  # the environment's agents
    present: set[str] = field(default_factory=set)  # those that have not ended
    gone: dict[str, int] = field(default_factory=dict)  # those that have, and after which step
    masked: dict[str, bool] = field(default_factory=dict)  # whether agents come with a mask
    terminated: bool = False
    truncated: bool = False

    @property
    def ended(self) -> bool:
        return self.terminated or self.truncated


class PettingZooEnvironment:
    """A batch of PettingZoo environments behind the batched protocol.

    Parameters
    ----------
    make
        Returns a new environment; called once for each slot.
    spec, ports
        Description of the environment and of each agent, from
        :func:`kd_offline.environments.pettingzoo_spec.describe`.

    Notes
    -----
    Every method that plays raises :class:`~kd_offline.errors.UserCodeError` where the environment
    fails or returns what it may not.
    """

    def __init__(
        self, make: Callable[[], Any], spec: EnvironmentSpec, ports: tuple[Port, ...]
    ) -> None:
        self._make, self._spec, self._ports = make, spec, ports
        self._names = {port.key: port.agent for port in ports}
        self._who = f"environment {spec.id!r}"
        self._slots: list[_Slot] = []
        self._warned = False
        self._real = np.arange(spec.obs_width) < np.array(spec.obs_widths)[:, None]
        self._allocate()

    @property
    def spec(self) -> EnvironmentSpec:
        """Static description: names, widths, blocks, sides."""
        return self._spec

    def reset(self, seeds: SeedArray) -> View:
        """Start ``B = len(seeds)`` episodes; see ``BatchedEnvironment.reset``."""
        close_all(slot.env for slot in self._slots[len(seeds) :])
        del self._slots[len(seeds) :]
        while len(self._slots) < len(seeds):
            env = self._make()
            if any(env is slot.env for slot in self._slots):
                msg = (
                    f"{self._who} is made once for all: its factory must return a new one each time"
                )
                raise UserCodeError(msg)
            self._slots.append(_Slot(env))
        self._allocate()
        return self.reset_where(np.ones(len(seeds), bool), seeds)

    def reset_where(self, where: BoolArray, seeds: SeedArray) -> View:
        """Restart the slots ``where``; see ``BatchedEnvironment.reset_where``."""
        for row in np.flatnonzero(where).tolist():
            slot = self._slots[row] = _Slot(self._slots[row].env, seed=int(seeds[row]))
            with calling(self._who, "reset", seed=slot.seed):
                returned = slot.env.reset(seed=slot.seed)
            observations, infos = self._parts(slot, "reset", returned, _RESET)
            slot.present = slot.listed = self._listed(slot, "reset")
            self._require_same_spaces(slot)
            if not slot.present:
                self._refuse(slot, "reset", "its agents are empty: an episode needs at least one")
            self._perceive(row, slot, slot.present, observations, infos)
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
        close_all(slot.env for slot in self._slots)
        self._slots.clear()
        self._allocate()

    def _allocate(self) -> None:
        batch, spec = len(self._slots), self._spec
        self._obs = np.zeros((batch, spec.n_agents, spec.obs_width), np.float32)
        self._legal = np.zeros((batch, spec.n_agents, spec.action_count), bool)
        self._alive = np.zeros((batch, spec.n_agents), bool)

    def _step_slot(self, row: int, slot: _Slot, actions: IntArray) -> list[float]:
        acting = slot.present
        # Agents that wait or have ended, but are listed, are sent their first action.
        chosen = {
            port.key: self._native(port, int(action) if self._alive[row, index] else 0)
            for index, (port, action) in enumerate(zip(self._ports, actions, strict=True))
            if port.agent in slot.listed
        }
        slot.steps += 1
        with calling(self._who, "step", step=slot.steps, seed=slot.seed):
            returned = slot.env.step(chosen)
        parts = self._parts(slot, "step", returned, _STEP)
        observations, rewards, terminations, truncations, infos = parts
        terminated = self._flags(slot, terminations, "termination", acting)
        truncated = self._flags(slot, truncations, "truncation", acting)
        slot.listed, flagged = self._listed(slot, "step"), terminated | truncated
        self._require_gone(slot, slot.listed - flagged)
        going_on = slot.listed - flagged - slot.gone.keys()
        slot.gone |= dict.fromkeys(acting - going_on, slot.steps)
        slot.present = going_on
        over, timed_out = not slot.present, bool((truncated - terminated) & acting)
        slot.truncated = (over and timed_out) or (
            not over and slot.steps >= self._spec.episode_limit
        )
        slot.terminated = over and not timed_out
        shown_to = slot.present
        if slot.ended:
            shown_to = shown_to | (acting if slot.terminated else acting - terminated)
        self._perceive(row, slot, shown_to, observations, infos)
        return self._rewards(slot, rewards, acting)

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
        slot: _Slot,
        present: set[str],
        observations: Mapping[Any, Any],
        infos: Mapping[Any, Any],
    ) -> None:
        """Read what the agents ``present`` see; the others are gone or not there yet."""
        self._obs[row], self._legal[row], self._alive[row] = 0.0, False, False
        call = "step" if slot.steps else "reset"
        with calling(self._who, call, step=slot.steps or None, seed=slot.seed):
            turn = turn_of(slot.env)
        for index, port in enumerate(self._ports):
            if port.agent not in present:
                continue
            seen, info = observations.get(port.key), infos.get(port.key, {})
            if seen is None and slot.terminated:
                continue
            if seen is None:
                self._refuse(slot, call, "there is no observation of it", port.agent)
            if not isinstance(info, Mapping):
                self._refuse(slot, call, f"its infos are {shown(info)}, not a dict", port.agent)
            try:
                self._obs[row, index, : port.width] = port.flatten(seen)
                legal = port.legal(seen, info)
            except UnfitError as error:
                self._refuse(slot, call, str(error), port.agent)
            legal = self._known(slot, call, port, legal)
            if turn is None or port.key in turn:
                self._legal[row, index, : port.n_actions] = legal
                self._alive[row, index] = legal.any()
        if not (slot.ended or self._alive[row].any()):
            what = "no agent has a legal action, yet the episode goes on"
            self._refuse(slot, call, f"{what}: give those that wait an action that does nothing")

    def _known(self, slot: _Slot, call: str, port: Port, legal: BoolArray | None) -> BoolArray:
        """Return the legal actions of an agent that has a mask in all of an episode or in none."""
        if legal is None:
            self._warn_of_methods(slot)
        if slot.masked.setdefault(port.agent, legal is not None) == (legal is not None):
            return np.ones(port.n_actions, bool) if legal is None else legal
        if slot.terminated:
            return np.zeros(port.n_actions, bool)
        what = "no action_mask, and had one" if legal is None else "an action_mask, and had none"
        return self._refuse(
            slot, call, f"it has {what} before: give one at every step or never", port.agent
        )

    def _warn_of_methods(self, slot: _Slot) -> None:
        """Say once that what a method of the environment may allow is not asked."""
        if self._warned:
            return
        self._warned = True
        with calling(self._who, "reset", seed=slot.seed):
            name = next((m for m in METHODS if callable(getattr(slot.env, m, None))), None)
        if name is not None:
            _LOG.warning(
                "%s has a method %r, which is not called: all actions are taken as legal, unless "
                "'action_mask' is in its observations or infos",
                self._who,
                name,
            )

    def _parts(
        self, slot: _Slot, call: str, returned: Any, names: tuple[str, ...]
    ) -> tuple[Mapping[Any, Any], ...]:
        """Return the dicts of agents that a call returned; those of flags know no other keys."""
        many = len(returned) if isinstance(returned, tuple | list) else None
        if many != len(names):
            got = shown(returned) if many is None else f"{many} values"
            what = f"it returned {got}, expected are the {len(names)} values {', '.join(names)}"
            self._refuse(slot, call, what)
        for name, part in zip(names, returned, strict=True):
            if not isinstance(part, Mapping):
                self._refuse(slot, call, f"its {name} are {shown(part)}, not a dict of agents")
            if name == "infos" and (key := mask_key(part.keys() - self._names.keys())):
                self._refuse(slot, call, unread(key, "infos"))
            if name in _RESET:
                continue
            if strangers := [key for key in part if key not in self._names]:
                known = ", ".join(self._spec.agents)
                what = f"its {name} name {shown(strangers[0])}, which is no agent: it has {known}"
                self._refuse(slot, call, what)
        return tuple(returned)

    def _listed(self, slot: _Slot, call: str) -> set[str]:
        """Return the environment's ``agents`` by our names."""
        with calling(self._who, "agents", step=slot.steps or None, seed=slot.seed):
            keys = list(slot.env.agents)
            strangers = [key for key in keys if key not in self._names]
        if strangers or len(set(keys)) < len(keys):
            what = f"its agents are {shown(keys)}: each may be there once, and only of "
            self._refuse(slot, call, what + ", ".join(self._spec.agents))
        return {self._names[key] for key in keys}

    def _flags(
        self, slot: _Slot, values: Mapping[Any, Any], name: str, acting: set[str]
    ) -> set[str]:
        """Return the agents whose flag is true, those of earlier steps included."""
        true = set()
        for port in self._ports:
            if port.key in values:
                try:
                    if flag(values[port.key], f"its {name}"):
                        true.add(port.agent)
                except UnfitError as error:
                    self._refuse(slot, "step", str(error), port.agent)
            elif port.agent in acting:
                self._refuse(slot, "step", f"there is no {name} of it", port.agent)
        return true

    def _rewards(self, slot: _Slot, values: Mapping[Any, Any], acting: set[str]) -> list[float]:
        rewards = []
        for port in self._ports:
            if port.key not in values and port.agent in acting:
                self._refuse(slot, "step", "there is no reward of it", port.agent)
            try:
                rewards.append(number(values[port.key], "its reward") if port.key in values else 0)
            except UnfitError as error:
                self._refuse(slot, "step", str(error), port.agent)
        return rewards

    def _require_gone(self, slot: _Slot, acting: set[str]) -> None:
        """Refuse agents that had ended and are back."""
        for agent in self._spec.agents:
            if agent in slot.gone and agent in acting:
                what = (
                    f"it had ended after step {slot.gone[agent]} and is among the agents without "
                    "a termination or truncation: an agent ends once in an episode"
                )
                self._refuse(slot, "step", what, agent)

    def _require_same_spaces(self, slot: _Slot) -> None:
        """Refuse an instance or an episode whose agents are not those that were described."""
        with calling(self._who, "spaces", seed=slot.seed):
            same = list(slot.env.possible_agents) == list(self._names) and all(
                slot.env.observation_space(port.key) == port.observation_space
                and slot.env.action_space(port.key) == port.action_space
                for port in self._ports
            )
        if not same:
            what = "its possible_agents or their spaces are not those it began with"
            self._refuse(slot, "reset", f"{what}: they may not change")

    def _refuse(self, slot: _Slot, call: str, what: str, agent: str | None = None) -> NoReturn:
        step = slot.steps or None
        begun = failure(self._who, call, agent=agent, step=step, seed=slot.seed)
        msg = f"{begun}: {plain(what)}; correct it"
        raise UserCodeError(msg)

    def _view(self) -> View:
        return View(
            obs=self._obs.copy(),
            state=self._obs[:, self._real],
            available_actions=self._legal.copy(),
            alive=self._alive.copy(),
        )
