"""What a file of students says about itself."""

from __future__ import annotations

from pydantic import Field

from kd_offline.schemas.environment import EnvironmentSpec, Strict
from kd_offline.schemas.recipes import StudentArchitecture


class StudentCard(Strict):
    """Header of ``students.safetensors``: all that is needed to run the students."""

    format_version: tuple[int, int] = (1, 0)
    environment: EnvironmentSpec
    architecture: StudentArchitecture
    widths: tuple[int, ...] = Field(description="hidden width of each agent's network")
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
