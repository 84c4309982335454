"""``push``, ``pull`` and ``pack``: copies that are whole or not there.

A copy is made file by file, each checked against the manifest on its way, and the manifest is
written last: what was interrupted is no dataset, and the same command continues it.
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
from kd_offline.datasets.format.layout import MANIFEST
from kd_offline.datasets.format.manifest import parse_manifest
from kd_offline.datasets.sharing.subset import added_arrays, chosen_arrays, narrowed
from kd_offline.datasets.sharing.targets import ASIDE, Target, of_a_dataset, open_target
from kd_offline.datasets.storage.addresses import is_remote, split_pin
from kd_offline.datasets.storage.cache import Cache, default_cache
from kd_offline.datasets.storage.manifest_file import read_manifest_and_text
from kd_offline.datasets.storage.sources import known_scheme, open_files
from kd_offline.datasets.storage.store import Files, Folder
from kd_offline.datasets.storage.threads import each
from kd_offline.datasets.validation.integrity import verify
from kd_offline.errors import CorruptDatasetError, StorageError, UsageError
from kd_offline.files import aside, check_output
from kd_offline.schemas.dataset import DatasetManifest, FileRecord
from kd_offline.schemas.dataset_outputs import TransferOutput
from kd_offline.tracking.base import Observer, Operation, observed

_SCRATCH = {layout.SCRATCH, layout.LOCK}


@dataclass(frozen=True, slots=True)
class Copy:
    """What is to be copied."""

    source: Files
    text: bytes  # of the copy's manifest
    fetched: int  # bytes of the source's manifest
    manifest: DatasetManifest
    cache: Cache | None
    observer: Observer


# The earliest time that a ZIP file can state: when it was packed does not matter.
_TIME = (1980, 1, 1, 0, 0, 0)

_UNIX = 3


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
    manifest, whole = read_manifest_and_text(files)
    text = whole
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


def send(copy: Copy, destination: str | Path, overwrite: bool) -> tuple[int, int]:
    """Copy to a destination of any kind and return the bytes moved and skipped."""
    plain = str(destination)
    _refuse_itself(copy.source.where, plain)
    if known_scheme(plain) == "hf":
        from kd_offline.datasets.sharing.hub import commit

        files = copy.manifest.files
        return commit(plain, files, copy.text, lambda f: _content(copy, f), overwrite=overwrite)
    if plain.endswith(".zip") and not is_remote(plain):
        members = ((file.path, lambda f=file: _checked(copy, f)[0]) for file in _sorted(copy))
        write_archive(Path(plain).expanduser(), members, copy.text, overwrite=overwrite)
        return copy.manifest.size_bytes + copy.fetched, 0
    with open_target(destination) as target:
        return _sync(copy, target, overwrite)


def _refuse_itself(source: str, destination: str) -> None:
    """Refuse to replace a dataset by a part of itself, or to put a copy into it."""
    here = split_pin(source)[0]
    if is_remote(here) or is_remote(destination):
        inside = here.rstrip("/") == destination.rstrip("/")
    else:
        inside = Path(destination).expanduser().resolve().is_relative_to(Path(here).resolve())
    if inside:
        msg = f"{destination!r} is the dataset itself or lies in it: choose another place"
        raise UsageError(msg)


def _sync(copy: Copy, target: Target, overwrite: bool) -> tuple[int, int]:
    seen = target.listing()
    whole = _make_room(copy, target, seen, overwrite)
    _check_space(copy, target, seen)
    total, done, turn = copy.manifest.size_bytes, [0], Lock()

    def one(file: FileRecord) -> int:
        load = once(lambda: _checked(copy, file))
        there = seen.get(file.path) == file.size and target.holds(file, lambda: load()[0])
        if not there:
            target.write(file.path, load()[0])
        with turn:  # observers are told by one thread at a time
            done[0] += file.size
            copy.observer.progress(min(done[0], total), total, "B")
        return 0 if there or not load()[1] else file.size

    threads = max(copy.source.readers, target.writers)
    moved = sum(each(one, _sorted(copy), threads))
    _check_arrival(copy, target)
    if not whole:
        target.write(layout.MANIFEST, copy.text, last=True)
    text = 0 if whole and not is_remote(copy.source.where) else copy.fetched
    return moved + text, total - moved


def _make_room(copy: Copy, target: Target, seen: dict[str, int], overwrite: bool) -> bool:
    """Remove what is in the way; return whether the same manifest is there already."""
    here = target.read(layout.MANIFEST) if layout.MANIFEST in seen else None
    if here == copy.text:
        return True
    listed = {file.path for file in copy.manifest.files}
    strays = [path for path in seen if path not in listed and not _is_scratch(path)]
    foreign = [path for path in strays if not of_a_dataset(path)]
    if foreign:
        msg = (
            f"{target.where!r} holds files that are of no dataset, such as {foreign[0]!r}: "
            "choose another place"
        )
        raise StorageError(msg)
    if strays and not overwrite:
        what = "another dataset" if here is not None else "a part of another dataset"
        msg = f"there is {what} at {target.where!r}: choose another place or give --overwrite"
        raise StorageError(msg)
    if here is not None:
        target.remove(layout.MANIFEST)  # first: what is half replaced is not a dataset
    for path in seen:
        if path != layout.MANIFEST and path not in listed:
            target.remove(path)
    return False


def _is_scratch(path: str) -> bool:
    return path in _SCRATCH or path.startswith(ASIDE)


def _check_space(copy: Copy, target: Target, seen: Collection[str]) -> None:
    if is_remote(target.where):
        return
    needed = sum(file.size for file in copy.manifest.files if file.path not in seen)
    free = shutil.disk_usage(target.where).free
    if needed > free:
        msg = (
            f"the dataset needs {needed / 1e9:,.1f} GB, but there are {free / 1e9:,.1f} GB free at "
            f"{target.where!r}: make room, choose another place, or pull fewer arrays"
        )
        raise StorageError(msg)


def _check_arrival(copy: Copy, target: Target) -> None:
    """Look again at what is there, before the manifest says that all of it is."""
    seen = target.listing()
    lost = [file.path for file in copy.manifest.files if seen.get(file.path) != file.size]
    if lost:
        msg = (
            f"{lost[0]} did not arrive whole at {target.where!r}, so that the copy is not "
            "finished: run the same command again"
        )
        raise StorageError(msg)


def _checked(copy: Copy, file: FileRecord) -> tuple[bytes, bool]:
    """Return the right bytes of a file, and whether they had to be moved."""
    kept = copy.cache.get(file) if copy.cache is not None else None
    if kept is not None:
        return kept, False
    where = copy.source.where
    try:
        data = copy.source.read(file.path, file)
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


def _content(copy: Copy, file: FileRecord) -> str | bytes:
    """Return the place of a file that was checked on this machine, or its checked bytes."""
    if isinstance(copy.source, Folder):
        return str(copy.source.root / file.path)
    return _checked(copy, file)[0]


def _sorted(copy: Copy) -> list[FileRecord]:
    return sorted(copy.manifest.files, key=lambda file: file.path)


def write_archive(
    path: Path,
    members: Iterable[tuple[str, Callable[[], bytes]]],
    manifest: bytes,
    *,
    overwrite: bool,
) -> None:
    """Write the files of a dataset in the given order, the manifest last.

    The archive is written aside and renamed, so that it is there whole or not at all.

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
            archive.writestr(_entry(name), load())
        archive.writestr(_entry(MANIFEST), manifest)


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _TIME)
    entry.create_system = _UNIX  # also on Windows, for the sake of equal bytes
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    return entry
