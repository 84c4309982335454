"""One copy of a dataset from a place to another: what is missing, checked, the manifest last."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache as once
from pathlib import Path
from threading import Lock

from kd_offline.datasets.format import layout
from kd_offline.datasets.sharing.targets import ASIDE, Target, of_a_dataset, open_target
from kd_offline.datasets.storage.addresses import is_remote, split_pin
from kd_offline.datasets.storage.cache import Cache
from kd_offline.datasets.storage.sources import known_scheme
from kd_offline.datasets.storage.store import Files, Folder
from kd_offline.datasets.storage.threads import each
from kd_offline.errors import CorruptDatasetError, StorageError, UsageError
from kd_offline.schemas.dataset import DatasetManifest, FileRecord
from kd_offline.tracking.base import Observer

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


def send(copy: Copy, destination: str | Path, overwrite: bool) -> tuple[int, int]:
    """Copy to a destination of any kind and return the bytes moved and skipped."""
    plain = str(destination)
    _refuse_itself(copy.source.where, plain)
    if known_scheme(plain) == "hf":
        from kd_offline.datasets.sharing.hub import commit

        files = copy.manifest.files
        return commit(plain, files, copy.text, lambda f: _content(copy, f), overwrite=overwrite)
    if plain.endswith(".zip") and not is_remote(plain):
        from kd_offline.datasets.sharing.pack import write_archive

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
