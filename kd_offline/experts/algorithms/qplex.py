"""QPLEX (Wang et al., 2021, arXiv 2008.01062): values and advantages mixed apart."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from pydantic import Field

from kd_offline.experts.algorithms.mixed_values import (
    MixedValues,
    QLearning,
    ValueRecipe,
    mixer_shape,
)
from kd_offline.schemas.bounds import Width
from kd_offline.schemas.environment import EnvironmentSpec

if TYPE_CHECKING:
    import numpy as np

    from kd_offline.networks.mixers import Mixer


class DuplexQLearning(QLearning):
    """Settings of Q-learning and of the mixer."""

    heads: Width = Field(
        default=4,
        exclude_if=lambda heads: heads == 4,
        description="terms of the weight of an advantage; the authors have 10 for matrix games",
    )
    transformed: bool = Field(
        default=True,
        exclude_if=bool,
        description="whether each agent's values are weighted and shifted by the state; without, "
        "joint actions are found that no agent can tell alone",
    )


class DuplexRecipe(ValueRecipe):
    """Settings of QPLEX."""

    q_learning: DuplexQLearning = DuplexQLearning()


def _mixer(spec: EnvironmentSpec, settings: QLearning, rng: np.random.Generator | None) -> Mixer:
    from kd_offline.networks.mixers import DuplexMixer, draw_weights

    own = cast(DuplexQLearning, settings)
    shape = mixer_shape(spec, settings)
    mixer = DuplexMixer(replace(shape, heads=own.heads, transformed=own.transformed))
    if rng is not None:
        draw_weights(mixer, rng)
    return mixer


ALGORITHM = MixedValues(
    "Q-learning through duplex duelling of the agents", "qplex", _mixer, DuplexRecipe
)
