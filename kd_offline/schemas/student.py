"""What a file of students says about itself."""

from __future__ import annotations

from pydantic import Field

from kd_offline.schemas.environment import EnvironmentSpec, Strict
from kd_offline.schemas.layers import LayerWidths, Widths
from kd_offline.schemas.recipes import StudentArchitecture


class StudentCard(Strict):
    """Header of ``students.safetensors``: all that is needed to run the students."""

    format_version: tuple[int, int] = (1, 1)
    environment: EnvironmentSpec
    architecture: StudentArchitecture
    widths: tuple[int, ...] = Field(
        description="hidden width of each agent's network; with layers, before units were removed"
    )
    layers: tuple[tuple[LayerWidths, ...], ...] | None = Field(
        default=None, description="[seeds, N], where unit gates chose them"
    )
    mask: str
    mask_features: tuple[tuple[bool, ...], ...] | None = Field(
        description="[N, O]; None where the mask is drawn for each episode"
    )
    random_k: int | None = None
    mask_as_input: bool
    motion: bool
    last_action: bool
    method: str
    dataset: str = Field(description="content id of the dataset that the students learned from")
    seeds: tuple[int, ...]

    def widths_of(self, seed: int) -> tuple[Widths, ...]:
        """Return what the networks of one team are made of."""
        return self.widths if self.layers is None else self.layers[self.seeds.index(seed)]
