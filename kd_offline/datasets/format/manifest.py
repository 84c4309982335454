"""Parse and check the bytes of ``manifest.json``: version, digest, schema, and consistency.

:mod:`kd_offline.datasets.storage.manifest_file` reads them from a dataset's address.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from kd_offline.datasets.format import layout, resource_limits
from kd_offline.datasets.format.chunks import little_endian
from kd_offline.errors import (
    CorruptDatasetError,
    FormatVersionError,
    Remedy,
    UnknownNameError,
    UsageError,
)
from kd_offline.schemas.dataset import SHARDED_GROUPS, DatasetManifest, RecordingHeader
from kd_offline.sealed_json import is_sealed
from kd_offline.strict_json import parse

_OTHER_FILES = 1000  # of groups, and of what later versions may add
_LONGEST_REASON = 500  # keys and names in it come from the file


def recording_header(manifest: DatasetManifest) -> RecordingHeader:
    """Return the header with which the recording of a finished dataset began."""
    names = [name for name in RecordingHeader.model_fields if name in DatasetManifest.model_fields]
    return RecordingHeader(**{name: getattr(manifest, name) for name in names})


def parse_manifest(address: str, text: bytes) -> DatasetManifest:
    """Return the manifest of the bytes of a ``manifest.json``, after all checks.

    Parameters
    ----------
    address
        Address of the dataset, for messages.
    text
        At most ``MAX_MANIFEST_BYTES``.

    Raises
    ------
    FormatVersionError
        The dataset needs a newer version of kd-offline.
    CorruptDatasetError
        The manifest is too large, was altered, or contradicts itself.
    """
    if len(text) > resource_limits.MAX_MANIFEST_BYTES:
        raise manifest_too_large(address, len(text))
    try:
        document = parse(text)
    except ValueError as error:
        raise corrupt_manifest(address, f"manifest.json is not readable JSON: {error}") from None
    _check_version(address, document)
    if not is_sealed(text):
        raise corrupt_manifest(address, "manifest.json does not match its own digest")
    _check_file_count(address, document)
    manifest = _validated(address, document)
    if layout.dataset_id(document) != manifest.id:
        raise corrupt_manifest(
            address, "the id does not match the digests that manifest.json lists"
        )
    _check_context(address, document)
    _check_arrays(address, manifest)
    if problem := _shard_problem(manifest):
        raise corrupt_manifest(address, problem)
    if problem := next(_file_table_problems(manifest), None):
        raise corrupt_manifest(address, f"manifest.json lists {problem}")
    return manifest


def _check_version(address: str, document: Any) -> None:
    """Refuse other major versions before anything else: nothing else about them is known."""
    try:
        major, minor = document["format_version"]
    except (ValueError, LookupError, TypeError):
        raise corrupt_manifest(
            address, "manifest.json has no format_version of two integers"
        ) from None
    if type(major) is not int or type(minor) is not int:
        raise corrupt_manifest(address, "the format_version of manifest.json is not two integers")
    if major != layout.FORMAT_VERSION[0]:
        msg = (
            f"the dataset at {address!r} has format {major}.{minor}, but this version reads "
            f"{layout.FORMAT_VERSION[0]}.x: install a version of kd-offline that reads it"
        )
        raise FormatVersionError(msg)


def _check_file_count(address: str, document: dict[str, Any]) -> None:
    """Refuse more files than the arrays can have, before any file is looked at.

    Only the first axis is divided, so an array has no more chunks than rows.
    """
    arrays, files = document.get("arrays"), document.get("files")
    if not isinstance(arrays, dict) or not isinstance(files, list):
        return  # validation names what is wrong with their types
    shapes = [array.get("shape") for array in arrays.values() if isinstance(array, dict)]
    rows = [shape[0] for shape in shapes if isinstance(shape, list) and shape]
    most = sum(n for n in rows if type(n) is int and n > 0) + len(arrays)
    if len(files) > most + _OTHER_FILES:
        what = f"manifest.json lists {len(files):,} files, and its arrays have {most:,} at most"
        raise corrupt_manifest(address, what)


def _validated(address: str, document: dict[str, Any]) -> DatasetManifest:
    """Return the validated manifest, without keys and arrays of newer minor versions."""
    newer = document["format_version"][1] > layout.NEWEST_VERSION[1]
    if newer:
        document = _without_unknown_arrays(copy.deepcopy(document))
    while True:
        try:
            return DatasetManifest.model_validate(document)
        except ValidationError as error:
            problems = error.errors(include_url=False)
        unknown = [p["loc"] for p in problems if p["type"] == "extra_forbidden"]
        if not newer or len(unknown) != len(problems):
            field_path = ".".join(map(str, problems[0]["loc"]))
            raise corrupt_manifest(address, f"manifest.json: {field_path}: {problems[0]['msg']}")
        for *parents, key in unknown:
            holder: Any = document
            for step in parents:
                holder = holder[step]
            del holder[key]


def _check_context(address: str, document: dict[str, Any]) -> None:
    """Compare the context's digest; see :func:`layout.context_digest`."""
    version = tuple(document["format_version"])
    stated = document["environment"].get(layout.CONTEXT)
    if version < layout.CONTEXT_SINCE and stated is not None:
        raise corrupt_manifest(
            address, f"it says format {version[0]}.{version[1]}, but states a context"
        )
    if stated is None and not layout.CONTEXT_SINCE <= version <= layout.NEWEST_VERSION:
        return
    if stated != layout.context_digest(document):
        raise corrupt_manifest(address, "the context does not match what manifest.json states")


def _without_unknown_arrays(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document without arrays of later versions, whose rules are not known here."""
    figures = document.get("statistics")
    tables = [document.get("arrays"), figures.get("values") if isinstance(figures, dict) else None]
    for table in tables:
        if isinstance(table, dict):
            for name in [name for name in table if not layout.is_known_array(name)]:
                del table[name]
    return document


def _check_arrays(address: str, manifest: DatasetManifest) -> None:
    """Check names, dtypes and shapes against the environment and the counts."""
    spec, table = manifest.environment, manifest.arrays
    missing = [
        name
        for group in ("steps", "episodes")
        for name in layout.required_arrays(group, derived=True)
        if name not in table
    ]
    if missing:
        raise corrupt_manifest(address, f"required arrays are missing: {', '.join(missing)}")
    if manifest.format_version < (needed_version := layout.oldest_version_with(table)):
        stated, needed = (".".join(map(str, v)) for v in (manifest.format_version, needed_version))
        raise corrupt_manifest(address, f"it says format {stated}, but has arrays of {needed}")
    rows, episodes = table["steps/reward"].shape[0], table["episodes/length"].shape[0]
    sizes = layout.axis_sizes(spec, rows, episodes)
    if absent := next((mask for mask in manifest.masks if f"masks/{mask}" not in table), None):
        raise corrupt_manifest(
            address, f"it describes the mask {absent!r}, but has no array masks/{absent}"
        )
    for expert in manifest.experts:
        if (output := expert.capture.output) not in layout.OUTPUTS:
            known = " or ".join(layout.OUTPUTS)
            raise corrupt_manifest(
                address, f"expert {expert.id} states {output!r}, where {known} is needed"
            )
    held = [name for name in layout.FULL if name in table]
    if (spec.full is None) == bool(held):
        has = f"has {held[0]}" if held else f"has no {layout.FULL[0]}"
        says = "does not describe" if held else "describes"
        raise corrupt_manifest(address, f"it {has}, but its environment {says} full observations")
    for name, array in table.items():
        if problem := _array_problem(name, array.dtype, array.shape, array.axes, sizes):
            raise corrupt_manifest(address, f"{name}: {problem}")


def _array_problem(
    name: str,
    dtype: str,
    shape: tuple[int, ...],
    axes: tuple[str, ...],
    sizes: Mapping[str, int],
) -> str | None:
    try:
        rule = layout.rule_for(name, len(shape))
    except UnknownNameError:
        return "unknown array"
    if dtype not in rule.dtypes or axes != rule.axes:
        return f"{dtype} {list(axes)} where {' or '.join(rule.dtypes)} {list(rule.axes)} is needed"
    if len(shape) != len(axes):
        return f"shape {list(shape)} for axes {list(axes)}"
    for axis, size in zip(axes, shape, strict=True):
        if size != sizes.get(axis, size) or size < 1:
            return (
                f"axis {axis} has {size} entries where {sizes.get(axis, 'at least 1')} are needed"
            )
    return None


def _shard_problem(manifest: DatasetManifest) -> str | None:
    """Return what is wrong with the table of shards, or None."""
    shards, arrays = manifest.shards, manifest.arrays
    if not shards:
        return None
    if manifest.format_version < layout.SHARDS_SINCE:
        return f"it says format {'.'.join(map(str, manifest.format_version))}, but lists shards"
    for axis, name in (("episodes", "episodes/length"), ("steps", "steps/reward")):
        held, rows = sum(getattr(shard, axis) for shard in shards), arrays[name].shape[0]
        if held != rows:
            return f"its shards hold {held:,} {axis}, but {name} has {rows:,}"
    inside = (file.path for file in manifest.files if file.path.startswith(SHARDED_GROUPS))
    if path := next(inside, None):
        return f"it lists shards, and also {path}, which they hold"
    return None


def _file_table_problems(manifest: DatasetManifest) -> Iterator[str]:
    """Yield paths that no folder can have, and arrays too large for the stored bytes."""
    paths, folders, checked_folders = set(), set(), set()
    for file in manifest.files:
        if file.path in paths:
            yield f"{file.path} twice"
        if file.path in layout.FILES_WITHOUT_CONTENT:
            yield f"{file.path}, which is no part of the content"
        paths.add(file.path)
        folders.add(file.path.rpartition("/")[0])
    for folder in folders:
        while folder and folder not in checked_folders:
            if folder in paths:
                yield f"{folder} as a file and as a folder"
            checked_folders.add(folder)
            folder = folder.rpartition("/")[0]
    stored = sum(file.size for file in manifest.files if "/c/" in file.path)
    stored += sum(shard.bytes for shard in manifest.shards)
    decoded = sum(
        math.prod(array.shape) * little_endian(array.dtype).itemsize
        for array in manifest.arrays.values()
    )
    if problem := resource_limits.expansion_problem(decoded, stored):
        yield f"too little data: {problem}"


def require_whole(address: str, manifest: DatasetManifest) -> None:
    """Raise an error for a dataset of shards, whose files alone are not a complete copy.

    Raises
    ------
    UsageError
        Its steps lie in other datasets.
    """
    if manifest.shards:
        msg = (
            f"the dataset at {address!r} lists {len(manifest.shards):,} shards and does not "
            "hold their steps itself"
        )
        remedy = Remedy("make one dataset of it first with", operation="merge")
        raise UsageError(msg, remedy, "use the shards")


def manifest_too_large(address: str, size: int) -> CorruptDatasetError:
    """Return the error of a manifest of ``size`` bytes, more than readers accept."""
    what = f"manifest.json has {size:,} bytes, over {resource_limits.MAX_MANIFEST_BYTES:,}"
    return corrupt_manifest(address, what)


def corrupt_manifest(address: str, what: str) -> CorruptDatasetError:
    """Return the error of a dataset whose manifest cannot be trusted, because of ``what``."""
    return CorruptDatasetError(
        f"the dataset at {address!r} is damaged or was altered: {what[:_LONGEST_REASON]}; "
        "run verify and get a fresh copy"
    )


def final_value_warning(manifest: DatasetManifest) -> str | None:
    """Return why ``final/value`` may not be used for bootstrapping, or None where it may be.

    A critic that takes a time limit for an end never learns the value of the view behind it.
    """
    if "final/value" not in manifest.arrays or not manifest.experts:
        return None
    learned = {expert.bootstraps_truncation for expert in manifest.experts}
    if learned == {True}:
        return None
    if False in learned:
        return (
            "the critic never learned the views of final/value, those after a time limit: "
            "do not bootstrap from it"
        )
    return (
        "it is not known whether the critic learned the views of final/value: "
        "do not bootstrap from it"
    )
