"""Widths of a network whose layers were narrowed separately."""

from __future__ import annotations

from kd_offline.schemas.bounds import Layers, Width
from kd_offline.schemas.environment import Strict


class LayerWidths(Strict):
    """Widths of the hidden layers of one agent's network."""

    trunk: Layers
    gru: Width | None = None

    @property
    def widest(self) -> int:
        """Width of the widest layer."""
        return max((*self.trunk, self.gru or 0))

    def __str__(self) -> str:
        """Return the widths in the order of the computation, as ``24-17-20``."""
        return "-".join(map(str, (*self.trunk, *([self.gru] if self.gru else []))))


Widths = Width | LayerWidths
"""Of one agent's network: the same for all hidden layers, or one for each."""


def widest(widths: Widths) -> int:
    """Return the width of the widest hidden layer."""
    return widths if isinstance(widths, int) else widths.widest
