"""Read ``manifest.json`` of a dataset at any address, and check it."""

from __future__ import annotations

from kd_offline.datasets.format import layout, resource_limits
from kd_offline.datasets.format.manifest import (
    corrupt_manifest,
    manifest_too_large,
    parse_manifest,
)
from kd_offline.datasets.storage.addresses import check_pin
from kd_offline.datasets.storage.store import Files
from kd_offline.errors import NotADatasetError, Remedy, UnfinishedError
from kd_offline.schemas.dataset import DatasetManifest
from kd_offline.sealed_json import is_sealed


def read_manifest(files: Files) -> DatasetManifest:
    """Return the manifest of the dataset in ``files``.

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
    return read_manifest_and_text(files)[0]


def read_manifest_and_text(files: Files) -> tuple[DatasetManifest, bytes]:
    """Return the manifest and the bytes of its file; raises as :func:`read_manifest`."""
    text = _read_text(files)
    manifest = parse_manifest(files.address, text)
    check_pin(files.address, manifest.id)
    return manifest, text


def reread_manifest_text(files: Files, manifest: DatasetManifest) -> bytes:
    """Return the bytes of the ``manifest.json`` from which ``manifest`` was read.

    They are read again and compared, so that what is used is what was checked.

    Raises
    ------
    CorruptDatasetError
        Another manifest is there now.
    NotADatasetError
        There is none any more.
    """
    text = _read_text(files)
    if not is_sealed(text) or not text.endswith(f'"{manifest.manifest_digest}"\n}}\n'.encode()):
        raise corrupt_manifest(files.address, "another manifest.json is there than a moment ago")
    return text


def _read_text(files: Files) -> bytes:
    try:
        size = files.size(layout.MANIFEST)
        if size is not None and size > resource_limits.MAX_MANIFEST_BYTES:
            raise manifest_too_large(files.address, size)
        return files.read(layout.MANIFEST)
    except FileNotFoundError:
        raise _absent(files) from None


def _absent(files: Files) -> Exception:
    """Return the error of an address without a manifest, by what is there instead."""
    address = repr(files.address)
    if files.exists(layout.JOURNAL):
        return UnfinishedError(
            f"the recording at {address} was not finished",
            Remedy("continue it with", operation="record", resume=True),
            Remedy("delete the folder"),
        )
    if any(files.exists(name) for name in layout.ZARR_V2):
        return NotADatasetError(
            f"{address} is a Zarr store of version 2, not an expert buffer: convert it, or give "
            "the folder that record made"
        )
    if files.present():
        return NotADatasetError(
            f"{address} is not an expert buffer (it has no {layout.MANIFEST}): give the folder "
            "that record made, or repeat the push or pull that did not finish"
        )
    return NotADatasetError(f"there is no dataset at {address}: check the path or record one")
