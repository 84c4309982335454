"""Perturbed observations: noise, blocks that are missing for a step, sensors that are stuck."""

from __future__ import annotations

import math

import numpy as np

from kd_offline.robustness.perturbations.base import FARTHEST, Moment, Perturbation, Setting
from kd_offline.seeding import normals, uniforms
from kd_offline.types import Array, FloatArray, SeedArray, View

STARTS_WITHIN = 4
"""What breaks for good breaks in the first quarter of the longest episode."""


class Noise(Perturbation):
    """Adds independent normal noise to every feature in every step."""

    description = "normal noise on every feature in every step"
    unit = "its standard deviation, in standard deviations of the feature in the dataset"
    strengths = (0.1, 0.3, 1.0)
    largest = FARTHEST
    of_observations = True

    def observations(self, view: View, moment: Moment) -> FloatArray:
        """Return observations plus noise."""
        noise = normals(moment.seeds, moment.step, view.obs.shape[1:], "audit", "noise")
        return view.obs + self.setting.strength * self.setting.scale.deviation * noise


class _OfBlocks(Perturbation):
    """Base of perturbations of single blocks, each by a probability."""

    strengths = (0.1, 0.3)
    largest = 1.0
    of_observations = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._blocks = setting.blocks


class DroppedBlocks(_OfBlocks):
    """Replaces blocks of an observation by their mean in the dataset, each for single steps."""

    description = "blocks of an observation that are missing for a step: their mean instead"
    unit = "the probability of each block, agent and step"

    def observations(self, view: View, moment: Moment) -> FloatArray:
        """Return observations without the blocks that are missing in this step."""
        draws = uniforms(moment.seeds, moment.step, (len(self._blocks),), "audit", "drop")
        obs = view.obs.copy()
        for k, (agent, features) in enumerate(self._blocks):
            missing = (draws[:, k] < self.setting.strength)[:, None] & features
            obs[:, agent] = np.where(missing, self.setting.scale.mean[agent], obs[:, agent])
        return obs


class StuckSensors(_OfBlocks):
    """Lets blocks of an observation keep the value of one step for the rest of the episode."""

    description = "blocks of an observation that keep the value of one early step from then on"
    unit = "the probability of each block and agent in an episode"

    def start(self, seeds: SeedArray) -> dict[str, Array]:
        """Return the step from which on each block is stuck, [B, blocks], and nothing shown yet."""
        drawn = uniforms(seeds, 0, (2, len(self._blocks)), "audit", "stuck")
        limit = self.setting.spec.episode_limit
        first = first_steps(drawn[:, 1], limit)
        since = np.where(drawn[:, 0] < self.setting.strength, first, limit + 1)
        shape = (len(seeds), self.setting.spec.n_agents, self.setting.spec.obs_width)
        return {"since": since, "shown": np.zeros(shape, np.float32)}

    def observations(self, view: View, moment: Moment) -> FloatArray:
        """Return observations in which stuck blocks are what they were before."""
        obs = view.obs.copy()
        for k, (agent, features) in enumerate(self._blocks):
            stuck = (moment.step > moment.kept["since"][:, k])[:, None] & features
            obs[:, agent] = np.where(stuck, moment.kept["shown"][:, agent], obs[:, agent])
        moment.kept["shown"] = obs
        return obs


def first_steps(draws: FloatArray, limit: int) -> Array:
    """Return steps, int64, that uniform numbers choose within the first quarter of ``limit``."""
    return np.floor(draws * math.ceil(limit / STARTS_WITHIN)).astype(np.int64)
