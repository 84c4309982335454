"""The card of students, which is the header of their file."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, SerializeAsAny, model_validator

from kd_offline.schemas.bounds import Seeds, Width
from kd_offline.schemas.environment import MAX_RANDOM_K, EnvironmentSpec, Strict
from kd_offline.schemas.layers import LayerWidths, Widths
from kd_offline.schemas.parts import PartRecord
from kd_offline.schemas.recipes import StudentArchitecture


class StudentCard(Strict):
    """Header of ``students.safetensors``, with everything that is needed to run the students."""

    SEALED_SINCE: ClassVar[tuple[int, int]] = (1, 2)

    format_version: tuple[int, int] = (1, 3)
    environment: EnvironmentSpec
    architecture: SerializeAsAny[StudentArchitecture]
    widths: tuple[Width, ...] = Field(
        description="hidden width of each agent's network; with layers, before units were removed"
    )
    layers: tuple[tuple[LayerWidths, ...], ...] | None = Field(
        default=None, description="[seeds, N], where unit gates chose them or matrices are sparse"
    )
    mask: str
    mask_features: tuple[tuple[bool, ...], ...] | None = Field(
        description="[N, O]; None where the mask is drawn for each episode"
    )
    random_k: int | None = Field(default=None, ge=1, le=MAX_RANDOM_K)
    mask_as_input: bool
    motion: bool
    last_action: bool
    method: str
    dataset: str = Field(description="content id of the dataset that the students learned from")
    seeds: Seeds = Field(min_length=1)
    parts: tuple[PartRecord, ...] = Field(
        default=(), description="the student family, where an installed plug-in added it"
    )

    @model_validator(mode="after")
    def _consistent(self) -> StudentCard:
        spec = self.environment
        teams = [self.widths] if self.layers is None else [self.widths, *self.layers]
        if any(len(team) != spec.n_agents for team in teams):
            msg = f"there must be widths for each of the {spec.n_agents} agents"
            raise ValueError(msg)
        if self.layers is not None and len(self.layers) != len(self.seeds):
            msg = f"there must be layers for each of the {len(self.seeds)} seeds"
            raise ValueError(msg)
        if len(set(self.seeds)) != len(self.seeds):
            msg = "a seed is there twice"
            raise ValueError(msg)
        rows = self.mask_features
        if rows is not None and [len(row) for row in rows] != [spec.obs_width] * spec.n_agents:
            msg = f"mask_features must have the shape {[spec.n_agents, spec.obs_width]}"
            raise ValueError(msg)
        return self

    def widths_of(self, seed: int) -> tuple[Widths, ...]:
        """Return the widths of the networks of one team."""
        return self.widths if self.layers is None else self.layers[self.seeds.index(seed)]
