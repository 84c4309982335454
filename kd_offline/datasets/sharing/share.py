"""``push``, ``pull`` and ``pack``: copy datasets so that no partial copy counts as a dataset.

Files are copied one by one and checked against the manifest. The manifest is written last, so an
interrupted copy is no dataset, and the same command continues it.

Whoever copies first creates ``upload.json`` there, which names the manifest of the copy. It and the
manifest are created under the condition that there is none, so of several that copy to one place at
once one alone goes on, and its files are not mixed with others. A copy of the same manifest has the
same files; it may go on at any time.
"""

from __future__ import annotations

import hashlib
import shutil
import stat
import time
import zipfile
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache as once
from pathlib import Path
from threading import Lock

from kd_offline.datasets.format import layout
from kd_offline.datasets.format.manifest import parse_manifest, require_whole
from kd_offline.datasets.sharing.subset import added_arrays, chosen_arrays, subset_manifest
from kd_offline.datasets.sharing.targets import (
    SCRATCH_PREFIX,
    Target,
    is_dataset_file,
    open_target,
    refuse_unwritable,
)
from kd_offline.datasets.storage.addresses import is_remote, split_pin
from kd_offline.datasets.storage.cache import Cache, default_cache
from kd_offline.datasets.storage.manifest_file import read_manifest_and_text
from kd_offline.datasets.storage.sources import open_files, require_known_scheme
from kd_offline.datasets.storage.store import Files, Folder
from kd_offline.datasets.storage.threads import parallel_map
from kd_offline.datasets.validation.integrity import verify
from kd_offline.errors import CorruptDatasetError, Remedy, StorageError, UsageError
from kd_offline.files import aside, check_output
from kd_offline.schemas.dataset import DatasetManifest, FileRecord
from kd_offline.schemas.dataset_outputs import TransferOutput
from kd_offline.sealed_json import seal
from kd_offline.tracking.base import NullObserver, Observer, Operation, observed

_SCRATCH = {layout.SCRATCH, layout.LOCK, layout.UPLOAD}
# The earliest time that a ZIP file can state, so that equal datasets give equal bytes.
_EARLIEST_TIME = (1980, 1, 1, 0, 0, 0)
_UNIX = 3


@dataclass(frozen=True, slots=True)
class CopyJob:
    """The source, the manifest and the options of one copy."""

    source: Files
    manifest_text: bytes  # of the copy
    source_manifest_bytes: int
    manifest: DatasetManifest
    cache: Cache | None
    observer: Observer


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
        They receive the number of finished bytes.

    Raises
    ------
    CorruptDatasetError
        The dataset is damaged; nothing at the destination becomes a dataset.
    StorageError
        The destination refuses, or another dataset is there.
    """
    began = time.perf_counter()
    _check_archive(destination, overwrite)
    operation = Operation("push", {"dataset": str(dataset), "destination": str(destination)})
    with observed(operation, observers) as observer:
        job = _open_job(dataset, None, observer)
        require_whole(job.source.address, job.manifest)
        if not is_remote(str(dataset)):
            _refuse_damage(dataset, job.manifest)
        moved, skipped = copy_dataset(job, destination, overwrite)
        observer.result = done = _output(job, destination, moved, skipped, began)
    return done


def pull(
    address: str | Path,
    output: str | Path | None = None,
    *,
    arrays: Iterable[str] | None = None,
    overwrite: bool = False,
    observers: Sequence[Observer] = (),
) -> TransferOutput:
    """Copy a dataset, or some of its arrays, to this machine.

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
        They receive the number of finished bytes, and a message with the arrays that were
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
    operation = Operation("pull", {"address": str(address)}, Path(target))
    with observed(operation, observers) as observer:
        job = _open_job(address, arrays, observer)
        require_whole(job.source.address, job.manifest)
        moved, skipped = copy_dataset(job, target, overwrite)
        observer.result = done = _output(job, target, moved, skipped, began)
    return done


def pack(
    dataset: str | Path, output: str | Path | None = None, *, overwrite: bool = False
) -> TransferOutput:
    """Write a dataset to one file, by default its name with ``.zip``; raises as :func:`push`."""
    plain = split_pin(str(dataset))[0].rstrip("/")
    target = f"{default_output(plain) if is_remote(plain) else plain}.zip"
    path = str(target if output is None else output)
    if not path.endswith(".zip") or is_remote(path):
        msg = f"the file {path!r} does not end with .zip: write it as dataset.zarr.zip"
        raise UsageError(msg)
    return push(dataset, path, overwrite=overwrite)


def publish(local: Path, destination: str | Path, *, overwrite: bool) -> None:
    """Copy a finished dataset of this machine to any kind of address; raises as :func:`push`."""
    copy_dataset(_open_job(local, None, NullObserver()), destination, overwrite)


def default_output(address: str) -> Path:
    """Return the default output of :func:`pull`: the last part of the address."""
    plain = split_pin(address)[0].rstrip("/")
    name = plain.rpartition("/")[2]
    if require_known_scheme(plain) == "hf":
        name = name.partition("@")[0]
    name = name.removesuffix(".zip") or "dataset"
    return Path(name if name.endswith(".zarr") else f"{name}.zarr")


def _open_job(address: str | Path, arrays: Iterable[str] | None, observer: Observer) -> CopyJob:
    files = open_files(address, cached=False)  # copies are not cached as well
    cache = default_cache() if is_remote(str(address)) else None
    manifest, source_text = read_manifest_and_text(files)
    text = source_text
    if arrays is not None:
        requested = list(arrays)
        if added := added_arrays(manifest, requested):
            observer.message(f"these come along, as in every copy: {', '.join(added)}")
        text = subset_manifest(text, manifest, chosen_arrays(manifest, requested))
        manifest = parse_manifest(split_pin(files.address)[0], text)
    return CopyJob(files, text, len(source_text), manifest, cache, observer)


def _check_archive(destination: str | Path, overwrite: bool) -> None:
    """Refuse an existing archive before anything is read; folders may be completed."""
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
    job: CopyJob, destination: str | Path, moved: int, skipped: int, began: float
) -> TransferOutput:
    return TransferOutput(
        id=job.manifest.id,
        source=job.source.address,
        destination=str(destination),
        files=len(job.manifest.files) + 1,
        bytes_moved=moved,
        bytes_skipped=skipped,
        seconds=time.perf_counter() - began,
    )


def copy_dataset(job: CopyJob, destination: str | Path, overwrite: bool) -> tuple[int, int]:
    """Copy to any kind of destination; return the bytes moved and skipped."""
    plain = refuse_unwritable(str(destination))
    _refuse_copy_into_itself(job.source.address, plain)
    if require_known_scheme(plain) == "hf":
        from kd_offline.datasets.sharing.hub import commit_dataset

        files = job.manifest.files
        return commit_dataset(
            plain, files, job.manifest_text, lambda f: _content_or_path(job, f), overwrite=overwrite
        )
    if plain.endswith(".zip") and not is_remote(plain):
        members = (
            (file.path, lambda f=file: _checked_bytes(job, f)[0]) for file in _sorted_files(job)
        )
        write_archive(Path(plain).expanduser(), members, job.manifest_text, overwrite=overwrite)
        return job.manifest.size_bytes + job.source_manifest_bytes, 0
    with open_target(destination) as target:
        return _copy_files(job, target, overwrite)


def _refuse_copy_into_itself(source: str, destination: str) -> None:
    """Raise if the destination is the source, or lies in it."""
    source_path = split_pin(source)[0]
    if is_remote(source_path) or is_remote(destination):
        inside = source_path.rstrip("/") == destination.rstrip("/")
    else:
        inside = (
            Path(destination).expanduser().resolve().is_relative_to(Path(source_path).resolve())
        )
    if inside:
        msg = f"{destination!r} is the dataset itself or lies in it: choose another place"
        raise UsageError(msg)


def _copy_files(job: CopyJob, target: Target, overwrite: bool) -> tuple[int, int]:
    existing = target.listing()
    is_complete = _clear_destination(job, target, existing, overwrite)
    _check_disk_space(job, target, existing)
    if not is_complete:
        _claim(job, target, overwrite)
    total, done, turn = job.manifest.size_bytes, [0], Lock()

    def copy_file(file: FileRecord) -> int:
        load = once(lambda: _checked_bytes(job, file))
        already_there = existing.get(file.path) == file.size and target.holds(
            file, lambda: load()[0]
        )
        if not already_there:
            target.write(file.path, load()[0])
        with turn:  # observers are called by one thread at a time
            done[0] += file.size
            job.observer.progress(min(done[0], total), total, "B")
        return 0 if already_there or not load()[1] else file.size

    threads = max(job.source.readers, target.writers)
    moved = sum(parallel_map(copy_file, _sorted_files(job), threads))
    _check_destination(job, target)
    if not is_complete:
        _commit(job, target, overwrite)
    target.remove(layout.UPLOAD)
    text = 0 if is_complete and not is_remote(job.source.address) else job.source_manifest_bytes
    return moved + text, total - moved


def _clear_destination(
    job: CopyJob, target: Target, existing: dict[str, int], overwrite: bool
) -> bool:
    """Remove files of another dataset; return whether the same manifest is already there."""
    existing_manifest = _read(target, layout.MANIFEST) if layout.MANIFEST in existing else None
    if existing_manifest == job.manifest_text:
        return True
    listed = {file.path for file in job.manifest.files}
    other_files = [path for path in existing if path not in listed and not _is_scratch(path)]
    foreign = [path for path in other_files if not is_dataset_file(path)]
    if foreign:
        msg = (
            f"{target.address!r} holds files that are of no dataset, such as {foreign[0]!r}: "
            "choose another place"
        )
        raise StorageError(msg)
    if other_files and not overwrite:
        what = "another dataset" if existing_manifest is not None else "a part of another dataset"
        msg = f"there is {what} at {target.address!r}"
        other = Remedy("choose another place")
        raise StorageError(msg, other, Remedy("give", overwrite=True))
    if existing_manifest is not None:
        target.remove(layout.MANIFEST)  # first, so that a half replaced dataset is none
    for path in existing:
        if path not in listed and path not in (layout.MANIFEST, layout.UPLOAD):
            target.remove(path)
    return False


def _claim(job: CopyJob, target: Target, overwrite: bool) -> None:
    """Become the only one that copies there; raises a ``StorageError`` if another one does."""
    claim = seal({"id": job.manifest.id, "manifest": job.manifest.manifest_digest})
    if overwrite:
        target.write(layout.UPLOAD, claim)
        return
    if not target.create(layout.UPLOAD, claim) and _read(target, layout.UPLOAD) != claim:
        msg = (
            f"another dataset is being sent to {target.address!r}, or was not sent completely, so "
            "that nothing was written there"
        )
        look = "see how old it is with kd-offline doctor"
        raise StorageError(msg, look, Remedy("replace it with", overwrite=True))
    if _read(target, layout.MANIFEST) not in (None, job.manifest_text):  # since it was listed
        target.remove(layout.UPLOAD)
        raise _lost(job, target)


def _commit(job: CopyJob, target: Target, overwrite: bool) -> None:
    """Create the manifest; raises a ``StorageError`` if another one was created meanwhile."""
    if overwrite:
        target.write(layout.MANIFEST, job.manifest_text, last=True)
    elif not target.create(layout.MANIFEST, job.manifest_text) and (
        _read(target, layout.MANIFEST) != job.manifest_text
    ):
        raise _lost(job, target)


def _read(target: Target, path: str) -> bytes | None:
    try:
        return target.read(path)
    except FileNotFoundError:
        return None


def _lost(job: CopyJob, target: Target) -> StorageError:
    msg = (
        f"another dataset was finished at {target.address!r} meanwhile and stays there; "
        f"{job.source.address!r} is as it was"
    )
    return StorageError(msg, "choose another place", Remedy("replace it with", overwrite=True))


def _is_scratch(path: str) -> bool:
    return path in _SCRATCH or path.startswith(SCRATCH_PREFIX)


def _check_disk_space(job: CopyJob, target: Target, existing: Collection[str]) -> None:
    if is_remote(target.address):
        return
    needed = sum(file.size for file in job.manifest.files if file.path not in existing)
    free = shutil.disk_usage(target.address).free
    if needed > free:
        msg = (
            f"the dataset needs {needed / 1e9:,.1f} GB, but there are {free / 1e9:,.1f} GB free at "
            f"{target.address!r}: make room, choose another place, or pull fewer arrays"
        )
        raise StorageError(msg)


def _check_destination(job: CopyJob, target: Target) -> None:
    """Check that all files have arrived, before the manifest is written."""
    existing = target.listing()
    incomplete = [file.path for file in job.manifest.files if existing.get(file.path) != file.size]
    if incomplete:
        msg = (
            f"{incomplete[0]} did not arrive whole at {target.address!r}, so that the copy is not "
            "finished: run the same command again"
        )
        raise StorageError(msg)


def _checked_bytes(job: CopyJob, file: FileRecord) -> tuple[bytes, bool]:
    """Return the checked bytes of a file, and whether they were read from the source."""
    cached = job.cache.get(file) if job.cache is not None else None
    if cached is not None:
        return cached, False
    where = job.source.address
    try:
        data = job.source.read(file.path, file)
    except FileNotFoundError:
        msg = f"{file.path} of the dataset at {where!r} is missing: get it from another place"
        raise CorruptDatasetError(msg) from None
    if len(data) != file.size or hashlib.sha256(data).hexdigest() != file.sha256:
        msg = (
            f"{file.path} of the dataset at {where!r} is not what its manifest lists: it was "
            "altered or replaced, so get it from another place"
        )
        raise CorruptDatasetError(msg)
    return data, True


def _content_or_path(job: CopyJob, file: FileRecord) -> str | bytes:
    """Return the path of a file on this machine, which was checked, or its checked bytes."""
    if isinstance(job.source, Folder):
        return str(job.source.root / file.path)
    return _checked_bytes(job, file)[0]


def _sorted_files(job: CopyJob) -> list[FileRecord]:
    return sorted(job.manifest.files, key=lambda file: file.path)


def write_archive(
    path: Path,
    members: Iterable[tuple[str, Callable[[], bytes]]],
    manifest: bytes,
    *,
    overwrite: bool,
) -> None:
    """Write the files of a dataset in the given order, the manifest last.

    The archive is written under another name and renamed, so it is there whole or not at all.

    Raises
    ------
    StorageError
        A file is there already, or the disk refuses.
    """
    check_output(path, overwrite=overwrite)
    with (
        aside(path, overwrite=overwrite) as draft,
        zipfile.ZipFile(draft, "x", zipfile.ZIP_STORED) as archive,
    ):
        for name, load in members:
            archive.writestr(_archive_entry(name), load())
        archive.writestr(_archive_entry(layout.MANIFEST), manifest)


def _archive_entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EARLIEST_TIME)
    entry.create_system = _UNIX  # also on Windows, for equal bytes
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    return entry
