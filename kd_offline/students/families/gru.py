"""Students with a memory: trunk, GRU, linear head."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from kd_offline.networks.arithmetic import NetworkShape
from kd_offline.schemas.layers import LayerWidths, Widths
from kd_offline.students.families.layered import Layered, LayeredSettings


class GRUSettings(LayeredSettings):
    """Settings of students with a GRU."""

    rank_share: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="rank of the two matrices of the GRU, by width; None: full",
    )


class GRU(Layered[GRUSettings]):
    """Trunk, GRU (Cho et al., 2014), linear head; with ``rank_share`` its matrices are products."""

    description = "trunk and GRU"
    settings = GRUSettings

    def shape(
        self, settings: GRUSettings, widths: Widths, inputs: int, outputs: int
    ) -> NetworkShape:
        """Return one agent's network in numbers."""
        if isinstance(widths, int):
            widths = LayerWidths(trunk=(widths,) * settings.depth, gru=widths)
        share, gru = settings.rank_share, widths.gru
        rank = None if share is None or gru is None else max(1, round(share * gru))
        return NetworkShape(inputs, widths.trunk, gru, outputs, rank, widths.sparse)

    def declines(self, settings: GRUSettings) -> Mapping[str, str]:
        """Return the operations that low-rank GRUs decline, each with its reason."""
        if settings.rank_share is None:
            return {}
        return {
            "gates": "these are of full GRUs, so leave out student.rank_share, or allocate by "
            "worth",
            "expert": "their GRUs are of low rank, which those of experts are not, so train "
            "students further that were distilled without student.rank_share",
        }


FAMILY = GRU()
