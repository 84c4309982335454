"""Widths of a network whose layers were narrowed separately, and which weights are stored."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from kd_offline.schemas.bounds import Layers, Width
from kd_offline.schemas.environment import Strict

Block = Literal[1, 4, 8]
"""Rows of one column whose weights are stored together, or are zero together."""


class SparseMatrices(Strict):
    """How many weights of each matrix of a deployed network are stored; the others are zero.

    Weights are stored in blocks: ``block`` rows of one column. A matrix has ``rows / block`` times
    ``columns`` of them.
    """

    block: Block = 1
    kept: tuple[Annotated[int, Field(ge=0)] | None, ...] = Field(
        description="blocks of each matrix in the order of the computation; null: it is full"
    )


class LayerWidths(Strict):
    """Widths of the hidden layers of one agent's network."""

    trunk: Layers
    gru: Width | None = None
    sparse: SparseMatrices | None = Field(
        default=None,
        description="weights that are stored; absent: all",
        exclude_if=lambda sparse: sparse is None,
    )

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
