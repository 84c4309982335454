"""Two agents on a ring walk to a lamp: a small environment, batched, repeatable by its seeds."""

import numpy as np

from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.seeding import uniforms
from kd_offline.types import Outcome, View

AGENTS = ("left", "right")


class Ring:
    """Each sees how far both are from the lamp; won when both stand there."""

    def __init__(self, size: int = 7, episode_limit: int = 12):
        self.size, self.limit = size, episode_limit
        self.spec = EnvironmentSpec(
            id="ring",  # the name by which it is loaded
            version="1",
            kwargs={"size": size, "episode_limit": episode_limit},
            agents=AGENTS,
            obs_widths=(2, 2),
            action_counts=(3, 3),
            action_names=(("back", "stay", "on"),) * 2,
            episode_limit=episode_limit,
            reward="team",
            sides={"team": AGENTS},
            state_width=4,
            state_is_obs=True,
            blocks={agent: {"own": ((0, 1),), "mate": ((1, 2),)} for agent in AGENTS},
        )

    def reset(self, seeds):
        """Start an episode for every seed, uint64 [B]."""
        self.place = np.zeros((len(seeds), 2), np.int64)  # cells to the lamp
        self.steps = np.zeros(len(seeds), np.int64)
        return self.reset_where(np.ones(len(seeds), bool), seeds)

    def reset_where(self, where, seeds):
        """Restart some slots, bool [B]; where both begin follows from the seed alone."""
        drawn = uniforms(np.asarray(seeds, np.uint64)[where], 0, (2,), "ring")
        self.place[where] = (drawn * self.size).astype(np.int64) - self.size // 2
        self.steps[where] = 0
        return self._view()

    def step(self, actions):
        """Move by ``actions``, int [B, 2]; episodes that are over stand still."""
        running = ~(self._won() | self._late())
        half = self.size // 2
        moved = (self.place + actions - 1 + half) % self.size - half
        self.place = np.where(running[:, None], moved, self.place)
        self.steps = self.steps + running
        won = self._won()
        reward = np.where(running, np.where(won, 1.0, -0.1), 0.0)
        return Outcome(
            view=self._view(),
            reward=np.repeat(reward[:, None], 2, 1).astype(np.float32),
            terminated=won,
            truncated=self._late() & ~won,
            won=won.astype(np.int8),
        )

    def close(self):
        """Nothing is held."""

    def _won(self):
        return (self.steps > 0) & (self.place == 0).all(1)

    def _late(self):
        return self.steps >= self.limit

    def _view(self):
        scaled = (self.place / max(1, self.size // 2)).astype(np.float32)
        obs = np.stack([scaled, scaled[:, ::-1]], 1)  # [B, 2, 2]: own, then the mate's
        everyone = np.ones((len(obs), 2), bool)
        legal = np.ones((len(obs), 2, 3), bool)
        return View(obs, obs.reshape(len(obs), 4), legal, everyone)
