"""simple_spread: N agents cover N landmarks and avoid each other."""

from __future__ import annotations

from kd_offline.environments.particle.environment import ORACLE_VERSION
from kd_offline.environments.particle.settings import SpreadSettings
from kd_offline.environments.particle.world import (
    MOVES,
    Layout,
    World,
    batch_first,
    length,
    ordered_sum,
    others_velocity,
)
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.types import FloatArray, IntArray

_CONTACT_DISTANCE = 0.15 + 0.15


class Spread:
    """Scenario ``simple_spread_v3``.

    The shared part of the reward is minus the sum, over landmarks, of the distance to the nearest
    agent; the local part is minus the number of agents touched. ``local_ratio`` weighs them.
    """

    def __init__(self, settings: SpreadSettings) -> None:
        n = self._n = settings.n_agents
        self._local_ratio = settings.local_ratio
        self.layout = Layout(n, n, contact_distance=_CONTACT_DISTANCE)
        self.spec = _spec(settings)

    def act(self, world: World, actions: IntArray) -> FloatArray:
        """Return the forces [2, N, B] of the chosen moves."""
        return world.thrust(actions)

    def reward(self, world: World) -> FloatArray:
        """Return the mixture of shared and local reward, [N, B]."""
        nearest = length(world.to_landmarks).min(axis=0)
        shared = -ordered_sum(nearest, axis=0) * (1 - self._local_ratio)
        return shared - world.collisions() * self._local_ratio

    def observe(self, world: World, out: FloatArray) -> None:
        """Write own velocity, own position, landmarks and others; messages stay zero."""
        n, batch = self._n, len(out)
        out[:, :, 0:2] = batch_first(world.velocity)
        out[:, :, 2:4] = batch_first(world.position[:, :n])
        places = out[:, :, 4 : 4 + 4 * n - 2].reshape(batch, n, 2 * n - 1, 2)
        places[:, :, :n] = batch_first(world.to_landmarks)
        places[:, :, n:] = batch_first(world.to_others)

    def hidden(self, world: World) -> list[dict[str, FloatArray]]:
        """Return the velocities of the other agents."""
        if self._n == 1:
            return [{}]
        return [{"others_velocity": others_velocity(world, i)} for i in range(self._n)]


def _spec(settings: SpreadSettings) -> EnvironmentSpec:
    n_agents = settings.n_agents
    agents = tuple(f"agent_{i}" for i in range(n_agents))
    ends = [0, 2, 4, 4 + 2 * n_agents, 2 + 4 * n_agents, 6 * n_agents]
    names = ("own_velocity", "own_position", "landmarks", "others", "messages")
    blocks = {
        name: ((start, stop),)
        for name, start, stop in zip(names, ends, ends[1:], strict=False)
        if stop > start
    }
    return EnvironmentSpec(
        id="mpe/simple_spread_v3",
        version=ORACLE_VERSION,
        kwargs=settings.recorded(),
        agents=agents,
        obs_widths=(ends[-1],) * n_agents,
        action_counts=(len(MOVES),) * n_agents,
        action_names=(MOVES,) * n_agents,
        episode_limit=settings.episode_limit,
        reward="per_agent",
        sides={"team": agents},
        state_width=ends[-1] * n_agents,
        state_is_obs=True,
        blocks=dict.fromkeys(agents, blocks),
    )
