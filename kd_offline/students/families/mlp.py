"""Students without a memory: trunk and linear head."""

from __future__ import annotations

from collections.abc import Mapping

from kd_offline.networks.arithmetic import NetworkShape
from kd_offline.schemas.layers import LayerWidths, Widths
from kd_offline.students.families.layered import Layered, LayeredSettings


class MLP(Layered[LayeredSettings]):
    """Trunk and linear head; without a trunk the students are linear."""

    description = "trunk alone, without memory"
    settings = LayeredSettings

    def shape(
        self, settings: LayeredSettings, widths: Widths, inputs: int, outputs: int
    ) -> NetworkShape:
        """Return one agent's network in numbers."""
        if isinstance(widths, int):
            widths = LayerWidths(trunk=(widths,) * settings.depth)
        return NetworkShape(inputs, widths.trunk, None, outputs, sparse=widths.sparse)

    def declines(self, settings: LayeredSettings) -> Mapping[str, str]:
        """Return the operations that linear students decline, each with its reason."""
        if settings.depth:
            return {}
        return {"gates": "there is no hidden unit, so give student.depth 1 or more"}


FAMILY = MLP()
