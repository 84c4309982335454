"""Qatten (Yang et al., 2020, arXiv 2002.03939): agents weighted by attention to the state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kd_offline.experts.algorithms.mixed_values import MixedValues, QLearning, mixer_shape
from kd_offline.schemas.environment import EnvironmentSpec

if TYPE_CHECKING:
    import numpy as np

    from kd_offline.networks.mixers import Mixer


def _mixer(spec: EnvironmentSpec, settings: QLearning, rng: np.random.Generator | None) -> Mixer:
    from kd_offline.networks.mixers import AttentionMixer, draw_weights

    mixer = AttentionMixer(mixer_shape(spec, settings))
    if rng is not None:
        draw_weights(mixer, rng)
    return mixer


ALGORITHM = MixedValues("Q-learning through attention over the agents", "qatten", _mixer)
