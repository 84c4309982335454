"""Students that predict a teacher's embedding of the state from their history: PTDE's stage 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from kd_offline.networks.predicting_shape import PredictingShape
from kd_offline.schemas.bounds import Width
from kd_offline.schemas.layers import Widths
from kd_offline.students.families.base import StudentFamily
from kd_offline.students.families.layered import HEAD_GAIN, LayeredSettings

if TYPE_CHECKING:
    import numpy as np

    from kd_offline.networks.packed import PackedNetwork


class PTDESettings(LayeredSettings):
    """Settings of students that predict z."""

    z_width: Width = Field(default=32, description="numbers that are predicted of the state")


class PTDE(StudentFamily[PTDESettings, PredictingShape]):
    """Trunk, GRU, prediction of the teacher's ``z``, and a linear head on both."""

    description = "trunk, GRU, and a prediction of what the teacher made of the state"
    settings = PTDESettings
    drops_columns = True

    def shape(
        self, settings: PTDESettings, widths: Widths, inputs: int, outputs: int
    ) -> PredictingShape:
        """Return one agent's network in numbers."""
        assert isinstance(widths, int)  # noqa: S101 - unit gates are declined
        trunk = (widths,) * settings.depth
        return PredictingShape(inputs, trunk, widths, widths, settings.z_width, outputs)

    def network(self, shape: PredictingShape, rng: np.random.Generator | None) -> PackedNetwork:
        """Return a network of a shape."""
        from kd_offline.networks.predicting import PredictingNetwork

        return PredictingNetwork(shape, rng, head_gain=HEAD_GAIN)

    def declines(self, settings: PTDESettings) -> Mapping[str, str]:
        """Return the operations that these students decline, each with its reason."""
        return {
            "gates": "the layers that predict are not narrowed, so allocate by worth",
            "sparse": "zeros of its matrices are not left out, so choose the student gru or mlp",
            "expert": "experts have no such network, so train further students of gru or mlp",
        }


FAMILY = PTDE()
