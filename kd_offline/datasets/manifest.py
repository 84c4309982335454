"""Reading ``manifest.json``: whether it is ours, whole, of a version we read, and consistent."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from kd_offline.datasets import layout
from kd_offline.datasets.addresses import check_pin
from kd_offline.datasets.seal import unseal
from kd_offline.datasets.store import Files
from kd_offline.errors import (
    CorruptDatasetError,
    FormatVersionError,
    NotADatasetError,
    UnfinishedError,
    UnknownNameError,
)
from kd_offline.schemas.dataset import DatasetManifest


def read_manifest(folder: Files) -> DatasetManifest:
    """Return the manifest of the dataset in ``folder``.

    Raises
    ------
    NotADatasetError
        There is no dataset of ours.
    UnfinishedError
        There is a recording without its manifest.
    FormatVersionError
        The dataset needs a newer version of kd-offline.
    CorruptDatasetError
        The manifest was altered or contradicts itself.
    MismatchError
        The address pins another dataset.
    """
    where = folder.where
    try:
        text = folder.read(layout.MANIFEST)
    except FileNotFoundError:
        raise _absent(folder) from None
    _check_version(where, text)
    document = unseal(text)
    if document is None:
        raise _corrupt(where, "manifest.json does not match its own digest")
    manifest = _parse(where, copy.deepcopy(document))
    if layout.dataset_id(document) != manifest.id:
        raise _corrupt(where, "the id does not match the digests that manifest.json lists")
    _check_arrays(where, manifest)
    check_pin(where, manifest.id)
    return manifest


def _absent(folder: Files) -> Exception:
    where = repr(folder.where)
    if folder.exists(layout.JOURNAL):
        return UnfinishedError(
            f"the recording at {where} was not finished: continue it with record --resume or "
            "delete the folder"
        )
    if folder.present():
        return NotADatasetError(
            f"{where} is not an expert buffer (it has no {layout.MANIFEST}): give the folder that "
            "record made"
        )
    return NotADatasetError(f"there is no dataset at {where}: check the path or record one")


def _check_version(where: str, text: bytes) -> None:
    """Refuse newer major versions first: nothing else about such a file is known."""
    try:
        version = json.loads(text)["format_version"]
        major, minor = version
    except (ValueError, LookupError, TypeError, RecursionError):
        raise _corrupt(where, "manifest.json is not readable JSON with a format_version") from None
    if type(major) is not int or type(minor) is not int:
        raise _corrupt(where, f"the format_version {version} is not two integers")
    if major != layout.FORMAT_VERSION[0]:
        msg = (
            f"the dataset at {where!r} has format {major}.{minor}, but this version reads "
            f"{layout.FORMAT_VERSION[0]}.x: install a version of kd-offline that reads it"
        )
        raise FormatVersionError(msg)


def _parse(where: str, document: dict[str, Any]) -> DatasetManifest:
    """Validate; a newer minor version may have additional keys, which are left out."""
    try:
        return DatasetManifest.model_validate(document)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        unknown = [p["loc"] for p in problems if p["type"] == "extra_forbidden"]
        newer = document["format_version"][1] > layout.FORMAT_VERSION[1]
        if not newer or len(unknown) != len(problems):
            first = problems[0]
            place = ".".join(map(str, first["loc"]))
            raise _corrupt(where, f"manifest.json: {place}: {first['msg']}") from None
    for *parents, key in unknown:
        holder: Any = document
        for step in parents:
            holder = holder[step]
        del holder[key]
    return _parse(where, document)


def _check_arrays(where: str, manifest: DatasetManifest) -> None:
    """Check names, dtypes and shapes against the environment and the counts."""
    spec, table = manifest.environment, manifest.arrays
    missing = [
        name
        for group in ("steps", "episodes")
        for name in layout.required(group, derived=True)
        if name not in table
    ]
    if missing:
        raise _corrupt(where, f"required arrays are missing: {', '.join(missing)}")
    rows, episodes = table["steps/reward"].shape[0], table["episodes/length"].shape[0]
    sizes = layout.axis_sizes(spec, rows, episodes)
    for name, array in table.items():
        problem = _array_problem(name, array.dtype, array.shape, array.axes, sizes)
        newer = manifest.format_version[1] > layout.FORMAT_VERSION[1]
        if problem and not (newer and problem == "unknown array"):
            raise _corrupt(where, f"{name}: {problem}")


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


def _corrupt(where: str, what: str) -> CorruptDatasetError:
    return CorruptDatasetError(
        f"the dataset at {where!r} is damaged or was altered: {what}; run verify and get a "
        "fresh copy"
    )
