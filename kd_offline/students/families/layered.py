"""Base of GRU and MLP students: a dense trunk and a linear head."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from pydantic import Field

from kd_offline.networks.arithmetic import NetworkShape
from kd_offline.schemas.bounds import Depth
from kd_offline.schemas.recipes import StudentArchitecture
from kd_offline.students.families.base import StudentFamily

if TYPE_CHECKING:
    import numpy as np

    from kd_offline.networks.packed import PackedNetwork

HEAD_GAIN = 0.1
"""Of the first weights of a head."""


class LayeredSettings(StudentArchitecture):
    """Settings of students with a trunk."""

    depth: Depth = Field(default=2, description="trunk layers before the GRU or the head")


Settings = TypeVar("Settings", bound=LayeredSettings)


class Layered(StudentFamily[Settings, NetworkShape]):
    """Base of families whose networks are of :mod:`kd_offline.networks.recurrent`."""

    drops_columns = True

    def network(self, shape: NetworkShape, rng: np.random.Generator | None) -> PackedNetwork:
        """Return a network of a shape."""
        from kd_offline.networks.recurrent import RecurrentNetwork

        return RecurrentNetwork(shape, rng, head_gain=HEAD_GAIN)
