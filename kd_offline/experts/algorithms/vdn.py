"""VDN (Sunehag et al., 2018, arXiv 1706.05296): the team's value is the sum of its agents'."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kd_offline.experts.algorithms.mixed_values import MixedValues, QLearning
from kd_offline.schemas.environment import EnvironmentSpec

if TYPE_CHECKING:
    import numpy as np

    from kd_offline.networks.mixers import Mixer


def _mixer(spec: EnvironmentSpec, settings: QLearning, rng: np.random.Generator | None) -> Mixer:
    from kd_offline.networks.mixers import SumMixer

    return SumMixer()


ALGORITHM = MixedValues("Q-learning of the sum of the agents' values", "vdn", _mixer)
