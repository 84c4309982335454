"""``push``, ``pull`` and ``pack``: copies that are whole or not there.

A copy is made file by file, each checked against the manifest on its way, and the manifest is
written last: what was interrupted is no dataset, and the same command continues it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from kd_offline.datasets.format.manifest import parse_manifest, read_text
from kd_offline.datasets.sharing.narrow import added_arrays, chosen_arrays, narrowed
from kd_offline.datasets.sharing.transfer import Copy, send
from kd_offline.datasets.storage.addresses import is_remote, split_pin
from kd_offline.datasets.storage.cache import default_cache
from kd_offline.datasets.storage.sources import known_scheme, open_files
from kd_offline.datasets.validation.integrity import verify
from kd_offline.errors import CorruptDatasetError, UsageError
from kd_offline.files import check_output
from kd_offline.schemas.dataset import DatasetManifest
from kd_offline.schemas.dataset_outputs import TransferOutput
from kd_offline.tracking.base import Observer, Operation, observed


def push(
    dataset: str | Path,
    destination: str | Path,
    *,
    overwrite: bool = False,
    observers: Sequence[Observer] = (),
) -> TransferOutput:
    """Copy a dataset to a folder, a ``.zip`` file, an object store or the Hub.

    Parameters
    ----------
    dataset
        Address of the dataset; one on this machine is checked before anything is sent.
    destination
        A path, or an ``s3://``, ``gs://``, ``az://`` or ``hf://`` URL. What is there already of
        the same dataset is not sent again.
    overwrite
        Replace another dataset that is there.
    observers
        Told how many bytes are done.

    Raises
    ------
    CorruptDatasetError
        The dataset is damaged; nothing at the destination becomes a dataset.
    StorageError
        The destination refuses, or another dataset is there.
    """
    began = time.perf_counter()
    _check_archive(destination, overwrite)
    asked = Operation("push", {"dataset": str(dataset), "destination": str(destination)})
    with observed(asked, observers) as observer:
        copy = _open(dataset, None, observer)
        if not is_remote(str(dataset)):
            _refuse_damage(dataset, copy.manifest)
        moved, skipped = send(copy, destination, overwrite)
        observer.result = done = _output(copy, destination, moved, skipped, began)
    return done


def pull(
    address: str | Path,
    output: str | Path | None = None,
    *,
    arrays: Iterable[str] | None = None,
    overwrite: bool = False,
    observers: Sequence[Observer] = (),
) -> TransferOutput:
    """Fetch a dataset, or some of its arrays, to this machine.

    Parameters
    ----------
    address
        Address of the dataset; with ``@sha256:...`` nothing but that one is accepted.
    output
        Folder, or a ``.zip`` file; default: the last part of the address.
    arrays
        Fetch these alone, with what the format requires; the copy is a smaller dataset with an id
        of its own, whose lineage names the whole. Names of ``steps/*`` may be short.
    overwrite
        As :func:`push`.
    observers
        Told how many bytes are done, and in a message which arrays come along although they were
        not asked for.

    Raises
    ------
    NotADatasetError, MismatchError, CorruptDatasetError
        There is no dataset, another one than pinned, or what arrived is not what was listed.
    StorageError
        The address cannot be reached, or the folder refuses.
    """
    began = time.perf_counter()
    target = default_output(str(address)) if output is None else output
    _check_archive(target, overwrite)
    asked = Operation("pull", {"address": str(address)}, Path(target))
    with observed(asked, observers) as observer:
        copy = _open(address, arrays, observer)
        moved, skipped = send(copy, target, overwrite)
        observer.result = done = _output(copy, target, moved, skipped, began)
    return done


def pack(
    dataset: str | Path, output: str | Path | None = None, *, overwrite: bool = False
) -> TransferOutput:
    """Put a dataset into one file, by default of its own name and ``.zip``; raises as push."""
    plain = split_pin(str(dataset))[0].rstrip("/")
    target = f"{default_output(plain) if is_remote(plain) else plain}.zip"
    path = str(target if output is None else output)
    if not path.endswith(".zip") or is_remote(path):
        msg = f"the file {path!r} does not end with .zip: write it as dataset.zarr.zip"
        raise UsageError(msg)
    return push(dataset, path, overwrite=overwrite)


def default_output(address: str) -> Path:
    """Return where :func:`pull` puts a dataset: the last part of its address, here."""
    plain = split_pin(address)[0].rstrip("/")
    name = plain.rpartition("/")[2]
    if known_scheme(plain) == "hf":
        name = name.partition("@")[0]
    name = name.removesuffix(".zip") or "dataset"
    return Path(name if name.endswith(".zarr") else f"{name}.zarr")


def _open(address: str | Path, arrays: Iterable[str] | None, observer: Observer) -> Copy:
    files = open_files(address, cached=False)  # what is copied is not kept a second time
    cache = default_cache() if is_remote(str(address)) else None
    text = whole = read_text(files)
    manifest = parse_manifest(files.where, text)
    if arrays is not None:
        asked = list(arrays)
        if more := added_arrays(manifest, asked):
            observer.message(f"these come along, as in every copy: {', '.join(more)}")
        text = narrowed(text, manifest, chosen_arrays(manifest, asked))
        manifest = parse_manifest(split_pin(files.where)[0], text)
    return Copy(files, text, len(whole), manifest, cache, observer)


def _check_archive(destination: str | Path, overwrite: bool) -> None:
    """Refuse a file that is there before anything is read; a folder may be filled up."""
    if not is_remote(str(destination)) and str(destination).endswith(".zip"):
        check_output(Path(destination).expanduser(), overwrite=overwrite)


def _refuse_damage(dataset: str | Path, manifest: DatasetManifest) -> None:
    report = verify(dataset, quick=True, manifest=manifest)
    if not report.ok:
        first = report.problems[0]
        msg = (
            f"the dataset at {str(dataset)!r} is damaged and was not sent: {first.where}: "
            f"{first.what}; run verify and get a fresh copy"
        )
        raise CorruptDatasetError(msg)


def _output(
    copy: Copy, destination: str | Path, moved: int, skipped: int, began: float
) -> TransferOutput:
    return TransferOutput(
        id=copy.manifest.id,
        source=copy.source.where,
        destination=str(destination),
        files=len(copy.manifest.files) + 1,
        bytes_moved=moved,
        bytes_skipped=skipped,
        seconds=time.perf_counter() - began,
    )
