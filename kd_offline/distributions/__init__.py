"""What an action is: distributions over the actions of agents, in play and in learning.

Every environment's actions are categorical so far. Another kind of action is a pair of classes,
:class:`~kd_offline.distributions.base.Played` and :class:`~kd_offline.distributions.base.Learned`,
and its choice in the two functions here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kd_offline.distributions.base import Learned, Played
    from kd_offline.schemas.environment import EnvironmentSpec


def played(spec: EnvironmentSpec) -> type[Played]:
    """Return what the actions of an environment are in play, in NumPy."""
    from kd_offline.distributions.categorical import Categorical

    return Categorical


def learned(spec: EnvironmentSpec) -> type[Learned]:
    """Return what the actions of an environment are where something is learned, in PyTorch."""
    from kd_offline.distributions.categorical_tensors import CategoricalTensors

    return CategoricalTensors
