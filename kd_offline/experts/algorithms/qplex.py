"""QPLEX (Wang et al., 2021, arXiv 2008.01062): values and advantages mixed apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kd_offline.experts.algorithms.mixed_values import MixedValues, QLearning, mixer_shape
from kd_offline.schemas.environment import EnvironmentSpec

if TYPE_CHECKING:
    import numpy as np

    from kd_offline.networks.mixers import Mixer


def _mixer(spec: EnvironmentSpec, settings: QLearning, rng: np.random.Generator | None) -> Mixer:
    from kd_offline.networks.mixers import DuplexMixer, draw_weights

    mixer = DuplexMixer(mixer_shape(spec, settings))
    if rng is not None:
        draw_weights(mixer, rng)
    return mixer


ALGORITHM = MixedValues("Q-learning through duplex duelling of the agents", "qplex", _mixer)
