"""Embed our manifest in exported files, so that re-import loses nothing."""

from __future__ import annotations

from kd_offline.datasets.format.manifest import parse_manifest
from kd_offline.datasets.format.splits import Splits
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.storage.manifest_file import reread_manifest_text
from kd_offline.errors import CorruptDatasetError
from kd_offline.schemas.dataset import DatasetManifest
from kd_offline.types import Array

# Sums of rewards are recomputed; another writer may have added in another order.
_RECOMPUTED_SUMS = {"episodes/return", "episodes/agent_return"}


def manifest_text(buffer: ExpertBuffer) -> str:
    """Return the text of a dataset's manifest, with its digest."""
    return reread_manifest_text(buffer.files, buffer.manifest).decode("ascii")


def parse_embedded_manifest(text: bytes | str, where: str) -> DatasetManifest:
    """Return the manifest in an exported file, checked as that of a dataset.

    Raises
    ------
    CorruptDatasetError, FormatVersionError
        It was altered, or is of a format that this version does not read.
    """
    data = text.encode("utf-8", "replace") if isinstance(text, str) else text
    return parse_manifest(where, data)


def splits_from_manifest(manifest: DatasetManifest, codes: Array) -> Splits:
    """Return the splits of episodes with these ``codes``, uint8 [E]."""
    return Splits(codes, {name: split.code for name, split in manifest.splits.items()})


def check_round_trip(before: DatasetManifest, after: DatasetManifest, where: str) -> list[str]:
    """Check that a re-imported dataset equals the exported one; return notes for the user.

    Raises
    ------
    CorruptDatasetError
        Values differ; the message names the arrays.
    """
    if before.id == after.id:
        return []
    names = before.arrays.keys() | after.arrays.keys()
    changed_arrays = {name for name in names if before.arrays.get(name) != after.arrays.get(name)}
    listed = ", ".join(sorted(changed_arrays))
    if not changed_arrays:
        return ["what is said of the recording is put anew: the id is a new one"]
    if changed_arrays <= _RECOMPUTED_SUMS:
        return [f"{listed} were summed anew in the last bits: the id is a new one"]
    msg = (
        f"{where!r} was altered or damaged since it was written: {listed} do not "
        "have the digests that its own manifest lists; get a fresh copy"
    )
    raise CorruptDatasetError(msg)
