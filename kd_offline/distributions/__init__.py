"""Distributions over the actions of agents, in play and in learning.

The actions of all environments are categorical so far. Another kind of action needs a pair of
classes, :class:`~kd_offline.distributions.base.Played` and
:class:`~kd_offline.distributions.base.Learned`, and its selection in the two functions here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kd_offline.distributions.base import Learned, Played
    from kd_offline.schemas.environment import EnvironmentSpec


def played(spec: EnvironmentSpec) -> type[Played]:
    """Return the class of an environment's action distributions in NumPy."""
    from kd_offline.distributions.categorical import Categorical

    return Categorical


def learned(spec: EnvironmentSpec) -> type[Learned]:
    """Return the class of an environment's action distributions in PyTorch."""
    from kd_offline.distributions.categorical_tensors import CategoricalTensors

    return CategoricalTensors
