"""JSON output of commands on datasets, for other programs."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field, JsonValue

from kd_offline.schemas.dataset import Digest
from kd_offline.schemas.environment import Strict


class NotHeld(Strict):
    """Data that the target format of a conversion cannot hold."""

    array: str = Field(description="name in the source; manifest stands for its descriptions")
    why: str


class ConvertOutput(Strict):
    """JSON output of ``convert``."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    id: Digest | None = Field(default=None, description="of the expert buffer, source or target")
    path: str
    source_kind: str = Field(alias="from")
    target_kind: str = Field(alias="to")
    episodes: int
    steps: int
    kept: tuple[str, ...] = Field(description="arrays of the expert buffer that the target holds")
    not_held: tuple[NotHeld, ...] = ()
    notes: tuple[str, ...] = ()


class EditOutput(Strict):
    """JSON output of the commands that make datasets from datasets."""

    id: Digest
    path: str
    operation: str
    parents: tuple[Digest, ...]
    episodes: int
    steps: int
    bytes: int = Field(description="stored size of all files, the manifest included")
    left_out: tuple[str, ...] = Field(default=(), description="arrays of parents, by full name")


class CardOutput(Strict):
    """JSON output of ``card``."""

    id: Digest
    path: str | None = Field(default=None, description="where it was written")
    text: str


class FieldDifference(Strict):
    """A field of the manifests that differs; null where it is absent."""

    name: str = Field(description="dotted")
    a: JsonValue
    b: JsonValue


class ArrayDifference(Strict):
    """An array that differs, and its first difference; ``rows``: in episodes or steps."""

    name: str
    what: Literal["absent", "dtype", "shape", "rows", "values"]
    a: str
    b: str


class EpisodeMatch(Strict):
    """Number of episodes that two datasets share."""

    matched_by: str
    common: int
    only_a: int
    only_b: int
    same_order: bool = Field(description="the common ones follow each other alike")


class ValueDifference(Strict):
    """Values of one array that differ between common episodes."""

    entries: int
    episodes: int
    largest: float = Field(ge=0, description="largest absolute difference")


class DiffReport(Strict):
    """JSON output of ``diff``: the differences between two datasets."""

    equal: bool = Field(description="the ids, and so the contents, are equal")
    a: Digest
    b: Digest
    fields: tuple[FieldDifference, ...] = ()
    arrays: tuple[ArrayDifference, ...] = ()
    episodes: EpisodeMatch
    values: dict[str, ValueDifference] = Field(
        default_factory=dict, description="of episodes in both; equal arrays are absent"
    )


class UnfinishedPlace(Strict):
    """A place with files of a dataset and no manifest, or with parts of an output beside it."""

    address: str
    kind: Literal["upload", "recording", "files", "parts", "seeds", "unsent"] = Field(
        description="upload: being sent, or not sent completely; recording: to be resumed; files: "
        "what is left of either; parts: of a recording of several experts; seeds: of a "
        "distillation in workers; unsent: a recording for an address"
    )
    files: int
    bytes: int
    changed: str = Field(description="when the newest file was written, UTC")
    seconds: float = Field(ge=0, description="since then")
    busy: bool = Field(
        description="a process works there now, by its lock; never known of object stores"
    )


class PlacesOutput(Strict):
    """JSON output of ``doctor ADDRESS``: the datasets below an address."""

    address: str
    datasets: int = Field(description="that are complete, by their manifests; not verified")
    unfinished: tuple[UnfinishedPlace, ...]


class TransferOutput(Strict):
    """JSON output of ``push``, ``pull`` and ``pack``."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    id: Digest = Field(description="of the copy; another than the source's if arrays were left out")
    source: str = Field(alias="from")
    destination: str = Field(alias="to")
    files: int = Field(ge=0, description="the manifest included")
    bytes_moved: int = Field(ge=0, description="contents of the files that had to be moved")
    bytes_skipped: int = Field(ge=0, description="contents that were there already")
    seconds: float = Field(ge=0)


class CacheOutput(Strict):
    """JSON output of ``cache``."""

    path: str
    files: int = Field(ge=0)
    bytes: int = Field(ge=0)
    limit_bytes: int = Field(ge=0)
