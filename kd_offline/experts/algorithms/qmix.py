"""QMIX (Rashid et al., 2018, arXiv 1803.11485): values mixed by weights that the state makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kd_offline.experts.algorithms.mixed_values import MixedValues, QLearning, mixer_shape
from kd_offline.schemas.environment import EnvironmentSpec

if TYPE_CHECKING:
    import numpy as np

    from kd_offline.networks.mixers import Mixer


def _mixer(spec: EnvironmentSpec, settings: QLearning, rng: np.random.Generator | None) -> Mixer:
    from kd_offline.networks.mixers import QMixer, draw_weights

    mixer = QMixer(mixer_shape(spec, settings))
    if rng is not None:
        draw_weights(mixer, rng)
    return mixer


ALGORITHM = MixedValues("Q-learning through a monotone mixer of the state", "qmix", _mixer)
