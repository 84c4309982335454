"""``smac/<map>``: the original StarCraft II tasks, one game in each process.

The game decides what can be promised. SMAC takes a seed for a whole game, never for an episode, so
by default an episode continues the random numbers of those that this process played before it,
and cannot be played again. ``new_game_each_episode`` starts the game anew with each episode's seed:
slow, and repeatable as far as the game itself is.

An episode that the limit ends is truncated, as is one that a breakdown of the game cuts off; SMAC
then restarts the game by itself. Neither is won. How a map lays out an observation is told in
blocks by :func:`blocks`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from kd_offline.environments.settings import parsed
from kd_offline.environments.smac.installation import SOURCE, look
from kd_offline.environments.smac.process import Game
from kd_offline.environments.smac.worker import FAR, Snapshot
from kd_offline.errors import MismatchError, Remedy, UnknownNameError, UsageError
from kd_offline.schemas.environment import EnvironmentSpec, FullObservation, Scalar, Strict
from kd_offline.schemas.outputs import StarCraft
from kd_offline.types import BoolArray, Float32Array, IntArray, Outcome, SeedArray, View

_NOTHING = 0  # the action of the dead


class SmacSettings(Strict):
    """Settings of ``smac/<map>``; the defaults are SMAC's own."""

    difficulty: str = Field(
        default="7", pattern="^[1-9A]$", coerce_numbers_to_str=True, description="of the enemy"
    )
    game_version: str = Field(
        default="latest",
        pattern=r"^(latest|\d+\.\d+\.\d+)$",
        coerce_numbers_to_str=True,
        description="such as 4.6.2; scores of different versions cannot be compared",
    )
    new_game_each_episode: bool = Field(
        default=False, description="start the game anew with each episode's seed: slow, repeatable"
    )
    games: int = Field(
        default=8, ge=1, le=64, description="most games at once; no property of the task"
    )
    step_mul: int = Field(default=8, ge=1, le=1000, description="game steps in one step")
    move_amount: float = Field(default=2.0, gt=0)
    obs_all_health: bool = True
    obs_own_health: bool = True
    obs_last_action: bool = False
    obs_pathing_grid: bool = False
    obs_terrain_height: bool = False
    obs_instead_of_state: bool = False
    state_last_action: bool = True
    reward_sparse: bool = False
    reward_only_positive: bool = True
    reward_death_value: float = 10.0
    reward_win: float = 200.0
    reward_defeat: float = 0.0
    reward_negative_scale: float = 0.5
    reward_scale: bool = True
    reward_scale_rate: float = 20.0

    def recorded(self) -> dict[str, Scalar]:
        """Return the settings that define the task, as a dataset stores them."""
        return self.model_dump(exclude={"games"})

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the game's constructor.

        ``continuing_episode`` makes SMAC say when the limit ended an episode; it changes nothing
        else.
        """
        given = self.model_dump(exclude={"games", "new_game_each_episode"})
        version = None if self.game_version == "latest" else self.game_version
        return given | {"game_version": version, "continuing_episode": True}


def load(map_name: str, /, **settings: Any) -> SmacEnvironment:
    """Return ``smac/<map>``; starts one process, and no game before the first reset.

    Raises
    ------
    UnknownNameError
        There is no such map or setting.
    UsageError
        Package, game or map are not installed here, or a setting is impossible.
    MismatchError
        The installed package lays observations out differently.
    GameError
        The package cannot be started.
    """
    given = parsed(f"smac/{map_name}", SmacSettings, settings)
    if map_name not in MAPS:
        raise UnknownNameError(what="SMAC map", got=map_name, allowed=MAPS)
    found = look()
    if found.state != "ready":
        msg = f"smac/{map_name} cannot be played: {found.detail}"
        raise UsageError(msg)
    if map_name not in found.maps:
        msg = f"smac/{map_name} cannot be played: {found.game} has no map {map_name} in SMAC_Maps"
        raise UsageError(msg)
    return SmacEnvironment(map_name, given, found)


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
        self._distances = _distances(MAPS[map_name], settings)
        self._start(0)

    @property
    def spec(self) -> EnvironmentSpec:
        """Static description: names, widths, blocks, sides."""
        return self._spec

    @property
    def full(self) -> FullObservation:
        """The layout of observations, which show units far away as well."""
        return FullObservation(widths=self._spec.obs_widths, blocks=self._spec.blocks)

    def full_observations(self) -> Float32Array:
        """Return observations without a limit of sight: float32 [B, N, O]."""
        answers = self._exchange(dict.fromkeys(range(len(self._steps)), ("full",)))
        full = np.zeros_like(self._obs)
        for slot, values in answers.items():
            full[slot] = values
        full[..., self._distances] *= np.float32(FAR)
        return full

    def reset(self, seeds: SeedArray) -> View:
        """Start ``B = len(seeds)`` episodes; see ``BatchedEnvironment.reset``."""
        if len(seeds) > self.largest_batch:
            msg = (
                f"{len(seeds)} games of {self._name} at once were asked for, where at most "
                f"{self.largest_batch} run side by side"
            )
            more = Remedy("allow more with", environment_kwargs={"games": len(seeds)})
            raise UsageError(msg, Remedy("play smaller batches"), more)
        self._start(len(seeds))
        self._grow(len(seeds))
        return self.reset_where(np.ones(len(seeds), bool), seeds)

    def reset_where(self, where: BoolArray, seeds: SeedArray) -> View:
        """Restart the slots ``where``; see ``BatchedEnvironment.reset_where``."""
        anew = self._settings.new_game_each_episode
        slots = np.flatnonzero(where).tolist()
        answers = self._exchange({k: ("reset", int(seeds[k]), anew) for k in slots})
        for slot, seen in answers.items():
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
        answers = self._exchange({k: ("step", chosen[k]) for k in slots})
        self._steps += running
        for slot, (seen, paid, ended, cut, won) in answers.items():
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
        """Send requests to some games and return the answers; a failure ends all games."""
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
        """Return the agents that can act: SMAC gives only dead agents the no-op."""
        return ~self._legal[..., _NOTHING]

    def _checked(self, actions: IntArray, running: BoolArray) -> list[list[int]]:
        """Return the actions for the games, with the no-op for dead agents."""
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
    """Raise for a package that is not the original, such as a fork with other features."""
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


_MOVES = ("north", "south", "east", "west")
_PATHING, _HEIGHT = 8, 9  # points around an agent; the height also at the agent's own place


@dataclass(frozen=True, slots=True)
class Map:
    """One map; ``unit_types`` is 0 where all allies are alike, races are P, T or Z."""

    allies: int
    enemies: int
    limit: int
    races: str
    unit_types: int = 0

    @property
    def shields(self) -> tuple[int, int]:
        """Return 1 where allies, and where enemies, are Protoss and have shields."""
        return int(self.races[0] == "P"), int(self.races[1] == "P")

    @property
    def healers(self) -> bool:
        """Whether some allies are Medivacs: they heal allies where others attack enemies."""
        return self.races == "TT" and self.unit_types > 0

    @property
    def actions(self) -> tuple[str, ...]:
        """Return the names of the actions; ``no-op`` is legal only for dead agents."""
        target = "target" if self.healers else "attack"
        return ("no-op", "stop", *_MOVES, *(f"{target}_{k}" for k in range(self.enemies)))


MAPS = {
    "3m": Map(3, 3, 60, "TT"),
    "8m": Map(8, 8, 120, "TT"),
    "25m": Map(25, 25, 150, "TT"),
    "5m_vs_6m": Map(5, 6, 70, "TT"),
    "8m_vs_9m": Map(8, 9, 120, "TT"),
    "10m_vs_11m": Map(10, 11, 150, "TT"),
    "27m_vs_30m": Map(27, 30, 180, "TT"),
    "MMM": Map(10, 10, 150, "TT", unit_types=3),
    "MMM2": Map(10, 12, 180, "TT", unit_types=3),
    "2s3z": Map(5, 5, 120, "PP", unit_types=2),
    "3s5z": Map(8, 8, 150, "PP", unit_types=2),
    "3s5z_vs_3s6z": Map(8, 9, 170, "PP", unit_types=2),
    "3s_vs_3z": Map(3, 3, 150, "PP"),
    "3s_vs_4z": Map(3, 4, 200, "PP"),
    "3s_vs_5z": Map(3, 5, 250, "PP"),
    "1c3s5z": Map(9, 9, 180, "PP", unit_types=3),
    "2m_vs_1z": Map(2, 1, 150, "TP"),
    "corridor": Map(6, 24, 400, "PZ"),
    "6h_vs_8z": Map(6, 8, 150, "ZP"),
    "2s_vs_1sc": Map(2, 1, 300, "PZ"),
    "so_many_baneling": Map(7, 32, 100, "PZ"),
    "bane_vs_bane": Map(24, 24, 200, "ZZ", unit_types=2),
    "2c_vs_64zg": Map(2, 64, 400, "PZ"),
}


def widths(field: Map, settings: SmacSettings) -> dict[str, int]:
    """Return how many features each block of an observation has, in SMAC's order.

    An enemy is whether it can be attacked, distance, x and y; an ally the same with whether it is
    seen. Both add health and shield (``obs_all_health``) and one bit for each unit type, an ally
    also its last action (``obs_last_action``). Blocks without features are left out.
    """
    ally_shield, enemy_shield = field.shields
    health = settings.obs_all_health
    enemy = 4 + health * (1 + enemy_shield) + field.unit_types
    ally = 4 + health * (1 + ally_shield) + field.unit_types
    ally += settings.obs_last_action * len(field.actions)
    own = (health or settings.obs_own_health) * (1 + ally_shield) + field.unit_types
    move = (
        len(_MOVES) + _PATHING * settings.obs_pathing_grid + _HEIGHT * settings.obs_terrain_height
    )
    found = {
        "move": move,
        "enemies": field.enemies * enemy,
        "allies": (field.allies - 1) * ally,
        "own": own,
    }
    return {name: width for name, width in found.items() if width}


def blocks(field: Map, settings: SmacSettings) -> dict[str, tuple[tuple[int, int], ...]]:
    """Return the index ranges of the blocks, as an environment's spec has them."""
    ranges: dict[str, tuple[tuple[int, int], ...]] = {}
    start = 0
    for name, width in widths(field, settings).items():
        ranges[name] = ((start, start + width),)
        start += width
    return ranges


def _distances(field: Map, settings: SmacSettings) -> list[int]:
    """Return the columns of an observation that SMAC divides by the sight range."""
    columns = []
    for name, units in (("enemies", field.enemies), ("allies", field.allies - 1)):
        ((start, stop),) = blocks(field, settings)[name]
        step = (stop - start) // units
        columns += [start + unit * step + k for unit in range(units) for k in (1, 2, 3)]
    return columns
