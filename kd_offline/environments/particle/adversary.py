"""simple_adversary: good agents know the goal; an adversary must guess it from their moves."""

from __future__ import annotations

import numpy as np

from kd_offline.environments.particle.environment import ORACLE_VERSION
from kd_offline.environments.particle.settings import AdversarySettings
from kd_offline.environments.particle.world import (
    MOVES,
    Layout,
    World,
    batch_first,
    length,
    others_velocity,
)
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.types import FloatArray, IntArray


class Adversary:
    """Scenario ``simple_adversary_v3``.

    The adversary gets minus its distance to the goal landmark. Each good agent gets the
    adversary's distance minus the distance of the nearest good agent.
    """

    def __init__(self, settings: AdversarySettings) -> None:
        n = self._landmarks = settings.n_good_agents
        self.layout = Layout(n + 1, n, n_goals=n)
        self.spec = _spec(settings)

    def act(self, world: World, actions: IntArray) -> FloatArray:
        """Return the forces [2, N, B] of the chosen moves."""
        return world.thrust(actions)

    def reward(self, world: World) -> FloatArray:
        """Return the rewards of the adversary and of the good agents, [N, B]."""
        batch = np.arange(len(world.goal))
        # Advanced indices around a slice put the batch first: [B, 2, N].
        away = length(world.to_landmarks[:, :, world.goal, batch])
        reward = np.empty_like(away)
        reward[0] = -away[0]
        reward[1:] = -away[1:].min(axis=0) + away[0]
        return reward

    def observe(self, world: World, out: FloatArray) -> None:
        """Write landmarks and others; good agents see the way to the goal before them."""
        n, batch = self._landmarks, len(out)
        landmarks, others = batch_first(world.to_landmarks), batch_first(world.to_others)
        out[:, 0, : 2 * n] = landmarks[:, 0].reshape(batch, 2 * n)
        out[:, 0, 2 * n : 4 * n] = others[:, 0].reshape(batch, 2 * n)
        out[:, 1:, 0:2] = landmarks[np.arange(batch), 1:, world.goal]
        out[:, 1:, 2 : 2 + 2 * n] = landmarks[:, 1:].reshape(batch, n, 2 * n)
        out[:, 1:, 2 + 2 * n :] = others[:, 1:].reshape(batch, n, 2 * n)

    def hidden(self, world: World) -> list[dict[str, FloatArray]]:
        """Return the way to the goal, which only good agents see, and all velocities."""
        to_goal = world.to_landmarks[:, 0, world.goal, np.arange(len(world.goal))]
        velocities = [
            {"own_velocity": world.velocity[:, i].T, "others_velocity": others_velocity(world, i)}
            for i in range(world.layout.n_agents)
        ]
        return [{"goal": to_goal.T} | velocities[0], *velocities[1:]]


def _spec(settings: AdversarySettings) -> EnvironmentSpec:
    n = settings.n_good_agents
    good = tuple(f"agent_{i}" for i in range(n))
    agents = ("adversary_0", *good)
    seen = {"landmarks": ((0, 2 * n),), "others": ((2 * n, 4 * n),)}
    shifted = {name: tuple((a + 2, b + 2) for a, b in ends) for name, ends in seen.items()}
    return EnvironmentSpec(
        id="mpe/simple_adversary_v3",
        version=ORACLE_VERSION,
        kwargs=settings.recorded(),
        agents=agents,
        obs_widths=(4 * n,) + (4 * n + 2,) * n,
        action_counts=(len(MOVES),) * len(agents),
        action_names=(MOVES,) * len(agents),
        episode_limit=settings.episode_limit,
        reward="per_agent",
        sides={"adversary": agents[:1], "good": good},
        state_width=4 * n + n * (4 * n + 2),
        state_is_obs=True,
        blocks={"adversary_0": seen} | dict.fromkeys(good, {"goal": ((0, 2),)} | shifted),
    )
