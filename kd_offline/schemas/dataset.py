"""Models of the expert buffer: its manifest, its recordings and the reports on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    JsonValue,
    StringConstraints,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from kd_offline.schemas.audit import AuditReport
from kd_offline.schemas.blind_spots import BlindSpots
from kd_offline.schemas.environment import MAX_RANDOM_K, EnvironmentSpec, Scalar, Strict
from kd_offline.schemas.foreign import InputRecipe, ValueCalibration
from kd_offline.schemas.parts import PartRecord
from kd_offline.schemas.replay import RelabelReport, ReplayReport

ENVIRONMENT_PACKAGE = "environment_package"
"""Setting of a recording: the package that its environment is of, where it is a plug-in's."""

SHARDED_GROUPS = ("steps/", "final/")
"""Beginnings of the arrays that a dataset of shards leaves in them."""

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
ArrayName = Annotated[
    str,
    StringConstraints(pattern=r"^(steps|final|episodes|masks)/[A-Za-z0-9][A-Za-z0-9_.-]{0,79}$"),
]
MaskName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,79}$")]
FilePath = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$")
]
SemanticVersion = Annotated[
    str, StringConstraints(pattern=r"^\d+\.\d+\.\d+([-+][0-9A-Za-z.+-]+)?$")
]
DType = Literal[
    "bool", "uint8", "int8", "int16", "int32", "int64", "uint64", "float16", "float32", "float64"
]


class ArraySpec(Strict):
    """One array, described by its decoded values; chunks and codec are in its ``zarr.json``."""

    dtype: DType
    shape: tuple[Annotated[int, Field(ge=0)], ...]
    axes: tuple[str, ...]
    digest: Digest = Field(description="of dtype, shape and decoded values; see docs/format.md")


class FileRecord(Strict):
    """One file of the dataset, relative to its root."""

    path: FilePath
    size: int = Field(ge=0, description="bytes")
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class ShardRecord(Strict):
    """One of the datasets that a dataset lists instead of holding their steps itself."""

    address: Annotated[str, StringConstraints(min_length=1, max_length=1024)] = Field(
        description="below the folder in which this dataset lies, or an absolute path or URL"
    )
    id: Digest
    manifest_digest: Digest = Field(description="of the shard's own manifest")
    episodes: int = Field(gt=0, le=10**10)
    steps: int = Field(gt=0, le=10**12)
    bytes: int = Field(ge=0, le=10**16, description="stored size of the shard's files")


class Capture(Strict):
    """How the expert's outputs were recorded; a loss must use the same convention."""

    output: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,79}$")] = Field(
        default="logits",
        description="what the expert states of all actions: the array steps/<output>",
    )
    masked: Literal[False] = False
    temperature: float = Field(default=1.0, ge=1, le=1)
    embedding: str = Field(default="", description="the layer that steps/embedding holds")


class ExpertRecord(Strict):
    """The policy that acted; ``id`` is the value in ``episodes/expert_id``."""

    id: int = Field(ge=0, le=32767)
    kind: str = Field(description="algorithm or family, such as mappo")
    reference: str = Field(description="as the user named it; never a path of the machine")
    architecture: dict[str, JsonValue] = Field(default_factory=dict)
    parameters: int = Field(ge=0)
    digest: Digest | None = Field(default=None, description="of the checkpoint's weights")
    capture: Capture = Field(default_factory=Capture)
    gamma: float | None = Field(default=None, ge=0, le=1, description="discount of the values")
    bootstraps_truncation: bool | None = Field(
        default=None, description="whether the critic gives a value to the time after a time limit"
    )
    value_of: str = Field(default="", description="what steps/value estimates, in raw units")
    opponents: dict[str, str] = Field(
        default_factory=dict, description="side -> policy that played it, where not this expert"
    )
    recipe: InputRecipe | None = Field(
        default=None, description="how an expert of another library was asked"
    )
    missing: tuple[str, ...] = Field(
        default=(), description="what an import looked for and did not find"
    )
    calibration: ValueCalibration | None = Field(
        default=None, description="how steps/value follows from the critic's output, where fitted"
    )


class NoiseLevel(Strict):
    """One component of the noise mixture."""

    level: float = Field(
        ge=0, le=1, description="probability that a perturbed agent acts at random"
    )
    share: float = Field(gt=0, le=1, description="share of the episodes")


class RecordingRecord(Strict):
    """Origin of the transitions. Machine, time and software do not enter the dataset's id."""

    seed: int = Field(ge=0)
    episodes: int = Field(ge=0)
    batch: int = Field(default=1, gt=0, description="environments stepped at once")
    behaviour: Literal["sampled", "greedy", "unknown"] = "sampled"
    noise: tuple[NoiseLevel, ...] = ()
    noise_rule: str = Field(default="", description="which agents are perturbed, in words")
    settings: dict[str, Scalar] = Field(default_factory=dict)
    software: dict[str, str] = Field(default_factory=dict)
    code_revision: str = ""
    machine: dict[str, Scalar] = Field(default_factory=dict)
    started_at: str = ""
    seconds: float | None = Field(default=None, ge=0)


class LineageRecord(Strict):
    """One step of the dataset's history after a recording, or instead of one."""

    operation: str
    parents: tuple[Digest, ...]
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    result: Digest | None = Field(
        default=None, description="id of what came out; absent: this dataset itself"
    )


class MaskRecord(Strict):
    """A named student mask, ``masks/<name>``; True = the student sees the feature."""

    description: str = ""
    random_k: int | None = Field(default=None, ge=1, le=MAX_RANDOM_K)


class SplitRecord(Strict):
    """One part of the episodes; ``code`` is its value in ``episodes/split``."""

    code: int = Field(ge=0, le=255)
    episodes: int = Field(ge=0)
    steps: int = Field(ge=0)


class Spread(Strict):
    """Moments of finite numbers; the standard deviation is that of the population."""

    mean: float
    std: float
    min: float
    max: float


class Statistics(Strict):
    """Statistics of the whole dataset. They are derived, so no digest depends on them."""

    episodes: int
    steps: int
    length: Spread
    returns: Spread = Field(description="sum of the rewards of all agents over an episode")
    agent_returns: tuple[Spread, ...]
    won: float | None = Field(
        default=None, description="share of won episodes, if the task has wins"
    )
    action_counts: tuple[tuple[int, ...], ...] = Field(
        description="[N][A], executed by alive agents"
    )
    values: dict[ArrayName, Spread] = Field(
        default_factory=dict, description="over all entries of an array, padding included"
    )


class RecordingHeader(Strict):
    """The part of the manifest that is known before the first step is recorded."""

    name: str = Field(min_length=1)
    version: SemanticVersion = "1.0.0"
    description: str = ""
    environment: EnvironmentSpec
    experts: tuple[ExpertRecord, ...] = ()
    recording: RecordingRecord
    masks: dict[MaskName, MaskRecord] = Field(default_factory=dict)
    licence: str = ""
    citation: str = ""
    lineage: tuple[LineageRecord, ...] = ()
    heldout: float = Field(default=0.05, ge=0, lt=1, description="share of held-out episodes")


class ManifestEnvironment(EnvironmentSpec):
    """An environment as a manifest states it."""

    context: Digest | None = Field(
        default=None,
        description="of what readers compute with beside environment and arrays; from 1.2 on",
    )


class _InManifest:
    """Describes an environment in the JSON Schema as manifests state it."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler(ManifestEnvironment.__pydantic_core_schema__)


class DatasetManifest(Strict):
    """``manifest.json``. It is written last and turns a recording into a dataset."""

    format_version: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=0)]]
    id: Digest
    name: str
    version: SemanticVersion
    description: str = ""
    environment: Annotated[EnvironmentSpec, _InManifest()]
    experts: tuple[ExpertRecord, ...]
    recording: RecordingRecord
    masks: dict[MaskName, MaskRecord]
    splits: dict[str, SplitRecord] = Field(max_length=256)  # as many as a code of a byte tells
    statistics: Statistics
    licence: str = ""
    citation: str = ""
    lineage: tuple[LineageRecord, ...] = ()
    arrays: dict[ArrayName, ArraySpec]
    shards: tuple[ShardRecord, ...] = Field(
        default=(),
        description="datasets that hold steps and final, in this order; empty: they are here",
    )
    files: tuple[FileRecord, ...]
    manifest_digest: Digest

    @model_validator(mode="before")
    @classmethod
    def _without_context(cls, given: Any) -> Any:
        """Drop the digest of the context: it is of the file, and is checked with the id."""
        environment = given.get("environment") if isinstance(given, Mapping) else None
        if not isinstance(environment, Mapping) or "context" not in environment:
            return given
        plain = {key: value for key, value in environment.items() if key != "context"}
        return {**given, "environment": plain}

    @property
    def sole_expert(self) -> ExpertRecord | None:
        """The expert that all outputs are of; None where there is none, or several."""
        return self.experts[0] if len(self.experts) == 1 else None

    @property
    def environment_parts(self) -> tuple[PartRecord, ...]:
        """Of which package the environment was, where a plug-in added it; else empty."""
        package = str(self.recording.settings.get(ENVIRONMENT_PACKAGE, ""))
        if not package:
            return ()
        name, version = self.environment.id, self.recording.software.get(package, "")
        return (PartRecord(kind="environment", name=name, package=package, version=version),)

    @property
    def size_bytes(self) -> int:
        """Stored size of the listed files and shards, without the manifest itself."""
        return sum(file.size for file in self.files) + sum(shard.bytes for shard in self.shards)

    def holds(self, array: str) -> bool:
        """Tell whether an array's files are listed here, not in the shards."""
        return not (self.shards and array.startswith(SHARDED_GROUPS))


class RowSpec(Strict):
    """Type and shape of one row of an array that is being recorded."""

    dtype: DType
    tail: tuple[Annotated[int, Field(gt=0)], ...]


class Journal(Strict):
    """``recording.json``: the state from which a recording without a manifest is continued."""

    format_version: tuple[int, int]
    header: RecordingHeader
    episodes: int = Field(default=0, ge=0, description="complete and on disk")
    rows: int = Field(default=0, ge=0, description="of steps/*, on disk")
    step_chunk_rows: int = Field(default=1, ge=1)
    episode_chunk_rows: int = Field(default=1, ge=1)
    arrays: dict[ArrayName, RowSpec] = Field(default_factory=dict)
    manifest_digest: Digest | None = None


class Problem(Strict):
    """One finding of ``verify``: where (file, or array with rows and episode) and what."""

    where: str
    what: str


class SignatureRecord(Strict):
    """The content of a signature: the signer, and the digests of content and manifest."""

    id: Digest
    manifest_digest: Digest
    file: str
    signer: str | None = Field(default=None, description="as the list of trusted keys names them")
    key_type: str
    fingerprint: str = Field(description="SHA256 of the public key, as ssh-keygen shows it")


class VerifyReport(Strict):
    """Output of ``verify``."""

    ok: bool
    problems: tuple[Problem, ...] = ()
    signature: SignatureRecord | None = Field(
        default=None, description="present where a signature was asked for and is right"
    )
    replay: ReplayReport | None = Field(default=None, description="present where asked for")
    relabel: RelabelReport | None = Field(default=None, description="present where asked for")
    audit: AuditReport | None = Field(
        default=None, description="present where asked for; its findings leave `ok` as it is"
    )
    bytes_moved: int | None = Field(
        default=None, ge=0, description="over the network, where the dataset is not on this machine"
    )


class ArraySummary(Strict):
    """Shape and dtype of one array."""

    shape: tuple[int, ...]
    dtype: DType


class ReturnSummary(Strict):
    """Mean and spread of the episode returns."""

    mean: float
    std: float


class ExpertConflict(Strict):
    """How far apart the policies of two recorded experts are in nearly the same situations."""

    experts: tuple[int, int] = Field(description="their ids in the dataset")
    kl: float | None = Field(
        description="mean divergence in nats, both ways; null: nothing could be compared"
    )
    compared: float = Field(
        ge=0, le=1, description="share of the sampled decisions with one of the other close enough"
    )


class InspectReport(Strict):
    """JSON output of ``inspect`` (by alias: the last but one key is ``return``)."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    id: Digest
    format_version: tuple[int, int]
    environment: str
    agents: tuple[str, ...]
    episodes: int
    steps: int
    arrays: dict[ArrayName, ArraySummary]
    returns: ReturnSummary = Field(alias="return")
    side_returns: dict[str, ReturnSummary] | None = Field(
        default=None, description="sums over each side's agents, where there are several sides"
    )
    conflicts: tuple[ExpertConflict, ...] | None = Field(
        default=None, description="of each two experts, where several were recorded"
    )
    blind_spots: BlindSpots | None = Field(default=None, description="present where asked for")
    bytes: int = Field(description="stored size of all files, the manifest included")
    bytes_moved: int | None = Field(
        default=None, ge=0, description="over the network, where the dataset is not on this machine"
    )
