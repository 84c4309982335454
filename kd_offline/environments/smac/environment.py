"""``smac/<map>``: the original StarCraft II tasks, one game in each process.

The game decides what can be promised. SMAC takes a seed for a whole game, never for an episode, so
by default an episode continues the random numbers of those that this process played before it,
and cannot be played again. ``new_game_each_episode`` starts the game anew with each episode's seed:
slow, and repeatable as far as the game itself is.

An episode that the limit ends is truncated, as is one that a breakdown of the game cuts off; SMAC
then restarts the game by itself. Neither is won.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kd_offline.environments.smac.installation import SOURCE, look
from kd_offline.environments.smac.maps import MAPS, Map, blocks, widths
from kd_offline.environments.smac.process import Game
from kd_offline.environments.smac.settings import SmacSettings
from kd_offline.environments.smac.worker import Snapshot
from kd_offline.errors import MismatchError, UnknownNameError, UsageError
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.outputs import StarCraft
from kd_offline.types import BoolArray, IntArray, Outcome, SeedArray, View

_NOTHING = 0  # the action of the dead


def load(map_name: str, settings: SmacSettings) -> SmacEnvironment:
    """Return the task; starts one process, and no game before the first reset.

    Raises
    ------
    UnknownNameError
        There is no such map.
    UsageError
        Package, game or map are not installed here.
    MismatchError
        The installed package lays observations out differently.
    GameError
        The package cannot be started.
    """
    if map_name not in MAPS:
        raise UnknownNameError(what="SMAC map", got=map_name, allowed=MAPS)
    found = look()
    if found.state != "ready":
        msg = f"smac/{map_name} cannot be played: {found.detail}"
        raise UsageError(msg)
    if map_name not in found.maps:
        msg = f"smac/{map_name} cannot be played: {found.game} has no map {map_name} in SMAC_Maps"
        raise UsageError(msg)
    return SmacEnvironment(map_name, settings, found)


class SmacEnvironment:
    """Some games; see :class:`~kd_offline.environments.protocol.BatchedEnvironment`.

    ``largest_batch`` is how many of them there may be.
    """

    def __init__(self, map_name: str, settings: SmacSettings, found: StarCraft) -> None:
        self._name, self._settings = f"smac/{map_name}", settings
        self._arguments = {"map_name": map_name, **settings.arguments()}
        self.largest_batch = settings.games
        self._games: list[Game] = []
        self._grow(1)
        (info,) = self._exchange({0: ("describe",)}).values()
        _require_layout(self._name, MAPS[map_name], settings, info)
        self._spec = _spec(self._name, MAPS[map_name], settings, found, int(info["state_shape"]))
        self._start(0)

    @property
    def spec(self) -> EnvironmentSpec:
        """Static description: names, widths, blocks, sides."""
        return self._spec

    def reset(self, seeds: SeedArray) -> View:
        """Start ``B = len(seeds)`` episodes; see ``BatchedEnvironment.reset``."""
        if len(seeds) > self.largest_batch:
            msg = (
                f"{len(seeds)} games of {self._name} at once were asked for, where at most "
                f"{self.largest_batch} run side by side: play smaller batches, or allow more "
                f"with --env games={len(seeds)}"
            )
            raise UsageError(msg)
        self._start(len(seeds))
        self._grow(len(seeds))
        return self.reset_where(np.ones(len(seeds), bool), seeds)

    def reset_where(self, where: BoolArray, seeds: SeedArray) -> View:
        """Restart the slots ``where``; see ``BatchedEnvironment.reset_where``."""
        anew = self._settings.new_game_each_episode
        slots = np.flatnonzero(where).tolist()
        told = self._exchange({k: ("reset", int(seeds[k]), anew) for k in slots})
        for slot, seen in told.items():
            self._see(slot, seen)
        self._steps[where] = 0
        self._terminated[where] = self._truncated[where] = self._won[where] = False
        return self._view()

    def step(self, actions: IntArray) -> Outcome:
        """Apply ``actions`` int [B, N]; see ``BatchedEnvironment.step``."""
        running = ~(self._terminated | self._truncated)
        chosen = self._checked(np.asarray(actions), running)
        reward = np.zeros(self._alive.shape, np.float32)
        slots = np.flatnonzero(running).tolist()
        told = self._exchange({k: ("step", chosen[k]) for k in slots})
        self._steps += running
        for slot, (seen, paid, ended, cut, won) in told.items():
            self._see(slot, seen)
            reward[slot] = paid
            late = self._steps[slot] >= self._spec.episode_limit and not ended
            self._terminated[slot], self._truncated[slot] = ended, cut or late
            self._won[slot] = won
        return Outcome(
            view=self._view(),
            reward=reward,
            terminated=self._terminated.copy(),
            truncated=self._truncated.copy(),
            won=self._won.astype(np.int8),
        )

    def close(self) -> None:
        """End every game."""
        for game in self._games:
            game.hang_up()
        for game in self._games:
            game.stop()
        self._games.clear()

    def _grow(self, batch: int) -> None:
        while len(self._games) < batch:
            self._games.append(Game(self._name, self._arguments))

    def _exchange(self, requests: dict[int, tuple[Any, ...]]) -> dict[int, Any]:
        """Ask some games at once and return their answers; after a failure no game is left."""
        try:
            for slot, (request, *given) in requests.items():
                self._games[slot].ask(str(request), *given)
            return {slot: self._games[slot].answer() for slot in requests}
        except BaseException:
            self.close()
            raise

    def _start(self, batch: int) -> None:
        n, o = self._spec.n_agents, self._spec.obs_width
        self._obs = np.zeros((batch, n, o), np.float32)
        self._state = np.zeros((batch, self._spec.state_width), np.float32)
        self._legal = np.zeros((batch, n, self._spec.action_count), bool)
        self._steps = np.zeros(batch, np.int64)
        self._terminated, self._truncated, self._won = np.zeros((3, batch), bool)

    def _see(self, slot: int, seen: Snapshot) -> None:
        self._obs[slot], self._state[slot], self._legal[slot] = seen

    @property
    def _alive(self) -> BoolArray:
        """Return who may do something: SMAC gives the dead, and nobody else, the no-op."""
        return ~self._legal[..., _NOTHING]

    def _checked(self, actions: IntArray, running: BoolArray) -> list[list[int]]:
        """Return what is sent to the games, with the no-op for the dead."""
        if actions.shape != self._alive.shape:
            msg = (
                f"actions have shape {actions.shape}, expected {self._alive.shape} as "
                "[slots, agents]"
            )
            raise UsageError(msg)
        acting = self._alive & running[:, None]
        chosen = np.where(acting, actions, _NOTHING)
        exists = (chosen >= 0) & (chosen < self._spec.action_count)
        legal = np.take_along_axis(self._legal, (chosen * exists)[..., None], -1)[..., 0]
        if (wrong := acting & ~(exists & legal)).any():
            slot, agent = np.argwhere(wrong)[0]
            allowed = ", ".join(map(str, np.flatnonzero(self._legal[slot, agent])))
            msg = (
                f"action {chosen[slot, agent]} of {self._spec.agents[agent]!r} is not legal now: "
                f"choose among {allowed}"
            )
            raise UsageError(msg)
        return [[int(action) for action in row] for row in chosen]

    def _view(self) -> View:
        return View(self._obs.copy(), self._state.copy(), self._legal.copy(), self._alive)


def _require_layout(
    name: str, field: Map, settings: SmacSettings, info: dict[str, int | str]
) -> None:
    """Refuse a package that is not the original, such as a fork with features of its own."""
    parts = widths(field, settings)
    wanted = {
        "n_agents": field.allies,
        "n_actions": len(field.actions),
        "episode_limit": field.limit,
        "obs_shape": sum(parts.values()),
    }
    for key, value in wanted.items():
        if info.get(key) != value:
            summed = ", ".join(f"{part} {width}" for part, width in parts.items())
            why = f" ({summed})" if key == "obs_shape" else ""
            msg = (
                f"{name}: the installed package smac says {key} {info.get(key)} where the original "
                f"has {value}{why}: it is a fork whose masks and experts would not fit, so install "
                f"the original, pip install {SOURCE}"
            )
            raise MismatchError(msg)


def _spec(
    name: str, field: Map, settings: SmacSettings, found: StarCraft, state_width: int
) -> EnvironmentSpec:
    n, latest = field.allies, settings.game_version == "latest"
    agents = tuple(f"ally_{k}" for k in range(n))
    game = f"build {found.builds[-1]}" if latest else settings.game_version
    ranges = blocks(field, settings)
    return EnvironmentSpec(
        id=name,
        version=f"smac {found.version or 'unknown'}, StarCraft II {game}",
        kwargs=settings.recorded(),
        agents=agents,
        obs_widths=(sum(widths(field, settings).values()),) * n,
        action_counts=(len(field.actions),) * n,
        action_names=(field.actions,) * n,
        episode_limit=field.limit,
        reward="team",
        sides={"allies": agents},
        state_width=state_width,
        state_is_obs=settings.obs_instead_of_state,
        blocks=dict.fromkeys(agents, ranges),
    )
