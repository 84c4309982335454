"""Students with DDN's local policy network: a fusion block over the own observation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from kd_offline.networks.fusion_shape import FusionShape
from kd_offline.schemas.bounds import Depth, Width
from kd_offline.schemas.layers import Widths
from kd_offline.students.families.base import StudentFamily
from kd_offline.students.families.layered import HEAD_GAIN, LayeredSettings

if TYPE_CHECKING:
    import numpy as np

    from kd_offline.networks.packed import PackedNetwork


class FusionSettings(LayeredSettings):
    """Settings of students with a fusion block."""

    depth: Depth = Field(default=1, description="trunk layers between the block and the GRU")
    block_width: Width | None = Field(
        default=None, description="numbers that the block gives; None: the hidden width"
    )
    block_hidden: Width | None = Field(
        default=None,
        description="layer that generates the weights of the block; None: the hidden width",
    )


class Fusion(StudentFamily[FusionSettings, FusionShape]):
    """Fusion block on all inputs, trunk, GRU, linear head.

    What generates the block's weights and what they map are the same inputs (Zhou et al., 2025).
    """

    description = "fusion block on the own observation, trunk and GRU (DDN)"
    settings = FusionSettings
    drops_columns = True

    def shape(
        self, settings: FusionSettings, widths: Widths, inputs: int, outputs: int
    ) -> FusionShape:
        """Return one agent's network in numbers."""
        assert isinstance(widths, int)  # noqa: S101 - unit gates are declined
        return FusionShape(
            source=inputs,
            local=inputs,
            hyper=settings.block_hidden or widths,
            width=settings.block_width or widths,
            dense=(widths,) * settings.depth,
            recurrent=widths,
            outputs=outputs,
            own=True,
        )

    def network(self, shape: FusionShape, rng: np.random.Generator | None) -> PackedNetwork:
        """Return a network of a shape."""
        from kd_offline.networks.fusion import FusionNetwork

        return FusionNetwork(shape, rng, head_gain=HEAD_GAIN)

    def declines(self, settings: FusionSettings) -> Mapping[str, str]:
        """Return the operations that these students decline, each with its reason."""
        return {
            "gates": "the block's units are not narrowed, so allocate by worth",
            "sparse": "zeros of its matrices are not left out, so choose the student gru or mlp",
            "expert": "experts have blocks of their own, so train further students of gru or mlp",
        }


FAMILY = Fusion()
