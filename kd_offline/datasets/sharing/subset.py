"""The manifest of a copy with fewer arrays, made without decoding anything."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kd_offline.datasets.format import layout
from kd_offline.errors import CorruptDatasetError, UnknownNameError
from kd_offline.schemas.dataset import DatasetManifest, FileRecord
from kd_offline.sealed_json import seal, unseal

OPERATION = "arrays"
_ALWAYS_COPIED = ("episodes/", "masks/")


def chosen_arrays(manifest: DatasetManifest, wanted: Iterable[str]) -> tuple[str, ...]:
    """Return the full names of the arrays of a copy, in the manifest's order.

    Arrays that the format requires, the episode table and the masks are always copied.

    Raises
    ------
    UnknownNameError
        The dataset has no such array.
    """
    names = {_full_name(manifest, name) for name in wanted}
    names |= {name for name in manifest.arrays if name.startswith(_ALWAYS_COPIED)}
    names |= set(layout.required_arrays("steps", derived=True))
    return tuple(name for name in manifest.arrays if name in names)


def added_arrays(manifest: DatasetManifest, wanted: Iterable[str]) -> tuple[str, ...]:
    """Return the arrays that are copied although they were not requested."""
    requested = {_full_name(manifest, name) for name in wanted}
    return tuple(name for name in chosen_arrays(manifest, requested) if name not in requested)


def subset_manifest(text: bytes, manifest: DatasetManifest, arrays: Iterable[str]) -> bytes:
    """Return the manifest of a copy with these ``arrays`` (full names) only.

    Files and content digests stay. The id follows from the remaining arrays, and the lineage names
    the whole dataset. The same choice always gives the same bytes.
    """
    kept_names = [name for name in manifest.arrays if name in set(arrays)]
    if kept_names == list(manifest.arrays):
        return text
    document = unseal(text)
    if document is None:
        msg = "the manifest does not match its own digest: get a fresh copy"
        raise CorruptDatasetError(msg)
    document.pop("manifest_digest")
    files = {file.path for file in array_files(manifest, kept_names)}
    step = {"operation": OPERATION, "parents": [manifest.id], "arguments": {"arrays": kept_names}}
    if {*layout.FULL}.isdisjoint(kept_names):
        document["environment"].pop("full", None)
    document |= {
        "lineage": [*document["lineage"], step],
        "statistics": _statistics(document["statistics"], kept_names),
        "arrays": {name: document["arrays"][name] for name in kept_names},
        "files": [file for file in document["files"] if file["path"] in files],
    }
    layout.update_identity(document)
    return seal(document)


def array_files(manifest: DatasetManifest, arrays: Iterable[str]) -> list[FileRecord]:
    """Return the listed files of some arrays, with the metadata of their groups."""
    names = set(arrays)
    nodes = {"", *names, *(name.split("/")[0] for name in names)}
    metadata = {f"{node}/{layout.ZARR_JSON}".lstrip("/") for node in nodes}
    return [
        file
        for file in manifest.files
        if file.path in metadata or file.path.partition("/c/")[0] in names
    ]


def _full_name(manifest: DatasetManifest, name: str) -> str:
    for full in (name, f"steps/{name}"):
        if full in manifest.arrays:
            return full
    short = [full.removeprefix("steps/") for full in manifest.arrays]
    raise UnknownNameError(what="array", got=name, allowed=short)


def _statistics(statistics: dict[str, Any], names: list[str]) -> dict[str, Any]:
    values = {name: v for name, v in statistics["values"].items() if name in names}
    return statistics | {"values": values}
