"""``run.json``: dataset, recipe, students, results and software of a distillation."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, JsonValue

from kd_offline.schemas.bounds import Seeds
from kd_offline.schemas.budget import Allocation
from kd_offline.schemas.document import Document, LinesRecord
from kd_offline.schemas.environment import Scalar, Strict
from kd_offline.schemas.layers import LayerWidths
from kd_offline.schemas.parts import PartRecord

RUN_FORMAT = (1, 3)


class DatasetReference(Strict):
    """The dataset that a run was distilled from."""

    id: str = Field(description="content id; decides whether two runs saw the same data")
    name: str
    path: str = Field(description="as the user named it")


class StudentRecord(Strict):
    """One agent's student network; where seeds differ, in the team that costs most."""

    agent: str
    hidden: int = Field(gt=0, description="of its widest layer")
    parameters: int = Field(ge=0)


class JudgedBy(Strict):
    """The held-out part of a dataset that the students were judged by."""

    part: str
    episodes: int = Field(gt=0)


class SeedResult(Strict):
    """Result of the training of one seed."""

    seed: int
    digest: str = Field(description="sha256 of the students' weights")
    layers: tuple[LayerWidths, ...] | None = Field(
        default=None, description="of each agent, where unit gates chose them"
    )
    updates: int = Field(ge=0)
    best_epoch: int | None = Field(
        default=None, description="chosen on held-out episodes; null: the last one"
    )
    held_out: dict[str, float] = Field(
        default_factory=dict,
        description="figures of the part that the run is judged by; empty where nothing is held "
        "out, or where nobody has a choice there",
    )
    seconds: float = Field(ge=0)


class Machine(Strict):
    """System, processor, cores and memory of a machine, without a name or a path."""

    system: str
    architecture: str
    processor: str
    cores: int = Field(gt=0)
    memory_bytes: int | None = None


class Provenance(Strict):
    """Software and machine. Bits depend on the CPU capability and, slightly, on threads."""

    kd_offline: str
    python: str
    packages: dict[str, str]
    git_revision: str | None = None
    git_modified: bool | None = None
    cpu_capability: str | None = Field(default=None, description="of torch, when it was used")
    threads: int | None = None
    device: str = "cpu"
    machine: Machine


class Timing(Strict):
    """Start and duration."""

    started: str = Field(description="UTC, ISO 8601")
    seconds: float = Field(ge=0)


class RunManifest(Document):
    """The content of ``run.json``."""

    SEALED_SINCE: ClassVar[tuple[int, int]] = (1, 2)

    kind: Literal["kd-offline run"] = "kd-offline run"
    version: tuple[int, int] = RUN_FORMAT
    status: Literal["running", "interrupted", "complete"]
    method: str
    mask: str
    recipe: dict[str, JsonValue]
    dataset: DatasetReference
    environment: str
    environment_kwargs: dict[str, Scalar] = Field(default_factory=dict)
    expert: str = Field(default="", description="digest of the recorded expert")
    expert_reference: str = Field(default="", description="how the recording named it")
    judged_by: JudgedBy | None = Field(
        default=None,
        description="null: nothing was held out, and no figure is of unseen episodes; before "
        "version 1.2, where it is not stated, figures called held out may be of training episodes",
    )
    seeds: Seeds
    students: tuple[StudentRecord, ...]
    allocation: Allocation | None = Field(default=None, description="where a budget was stated")
    results: tuple[SeedResult, ...] = ()
    metrics: LinesRecord | None = Field(
        default=None, description="of metrics.jsonl; the whole of it once the run is complete"
    )
    parts: tuple[PartRecord, ...] = Field(
        default=(), description="that installed plug-ins added; other versions give other results"
    )
    provenance: Provenance
    timing: Timing
    command: str = ""
    training: tuple[dict[str, JsonValue], ...] | None = Field(
        default=None,
        description="recipes of the trainings by reinforcement learning that the students of each "
        "seed went through after the distillation, by proximal policy distillation; absent: none",
        exclude_if=lambda recipes: recipes is None,
    )

    @property
    def states_judges(self) -> bool:
        """Whether the run states what it was judged by, as runs do from version 1.2 on."""
        return self.version >= (1, 2)
