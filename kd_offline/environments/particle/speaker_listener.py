"""simple_speaker_listener: one agent knows the goal and speaks, the other listens and moves."""

from __future__ import annotations

import numpy as np

from kd_offline.environments.particle.environment import ORACLE_VERSION
from kd_offline.environments.particle.settings import Settings
from kd_offline.environments.particle.world import MOVES, Layout, World, batch_first, ordered_sum
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.types import FloatArray, IntArray

_AGENTS = ("speaker_0", "listener_0")
_SYMBOLS = ("say_0", "say_1", "say_2")
_LANDMARKS = 3

# The speaker sees the colour of the goal landmark: row g for goal g.
_COLOURS = np.full((3, 3), 0.15) + 0.5 * np.eye(3)

_SPEAKER, _LISTENER = 0, 1


class SpeakerListener:
    """Scenario ``simple_speaker_listener_v4``.

    Both agents get minus the squared distance from the listener to the goal landmark. What the
    speaker says is heard in the observation right after that step.
    """

    def __init__(self, settings: Settings) -> None:
        self.layout = Layout(2, _LANDMARKS, n_goals=_LANDMARKS, message_width=len(_SYMBOLS))
        self.spec = _spec(settings)

    def act(self, world: World, actions: IntArray) -> FloatArray:
        """Write the speaker's message; return the listener's force as [2, 2, B]."""
        said = np.arange(len(_SYMBOLS))[:, None] == actions[:, _SPEAKER]
        world.message = said.astype(world.dtype)
        moves = actions.copy()
        moves[:, _SPEAKER] = 0
        return world.thrust(moves)

    def reward(self, world: World) -> FloatArray:
        """Return the shared reward for both agents, [2, B]."""
        batch = np.arange(len(world.goal))
        away = world.to_landmarks[:, _LISTENER, world.goal, batch]
        shared = -ordered_sum(np.square(away), axis=0)
        return np.stack([shared, shared])

    def observe(self, world: World, out: FloatArray) -> None:
        """Write the goal's colour for the speaker; velocity, landmarks, message otherwise."""
        out[:, _SPEAKER, 0:3] = _COLOURS[world.goal]
        listener = out[:, _LISTENER]
        listener[:, 0:2] = world.velocity[:, _LISTENER].T
        landmarks = batch_first(world.to_landmarks[:, _LISTENER])
        listener[:, 2:8] = landmarks.reshape(len(out), 2 * _LANDMARKS)
        listener[:, 8:11] = world.message.T

    def hidden(self, world: World) -> list[dict[str, FloatArray]]:
        """Return what is hidden: the listener from the speaker, and the goal from the listener."""
        landmarks = batch_first(world.to_landmarks[:, _LISTENER])
        speaker = {
            "listener_velocity": world.velocity[:, _LISTENER].T,
            "listener_landmarks": landmarks.reshape(len(world.goal), 2 * _LANDMARKS),
            "message": world.message.T,
        }
        return [speaker, {"goal": _COLOURS[world.goal]}]


def _spec(settings: Settings) -> EnvironmentSpec:
    return EnvironmentSpec(
        id="mpe/simple_speaker_listener_v4",
        version=ORACLE_VERSION,
        kwargs=settings.recorded(),
        agents=_AGENTS,
        obs_widths=(3, 11),
        action_counts=(len(_SYMBOLS), len(MOVES)),
        action_names=(_SYMBOLS, MOVES),
        episode_limit=settings.episode_limit,
        reward="team",
        sides={"team": _AGENTS},
        state_width=14,
        state_is_obs=True,
        blocks={
            "speaker_0": {"goal": ((0, 3),)},
            "listener_0": {
                "own_velocity": ((0, 2),),
                "landmarks": ((2, 8),),
                "message": ((8, 11),),
            },
        },
    )
