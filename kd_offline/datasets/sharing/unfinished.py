"""``doctor ADDRESS``: find unfinished work on datasets below an address, in one listing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple, cast

from kd_offline.datasets.format.layout import (
    BLOCKS,
    GROUPS,
    JOURNAL,
    LOCK,
    MANIFEST,
    UPLOAD,
    ZARR_JSON,
)
from kd_offline.datasets.storage.addresses import is_remote, split_pin
from kd_offline.datasets.storage.safe_open import list_files
from kd_offline.datasets.storage.sources import require_known_scheme
from kd_offline.errors import StorageError, UsageError
from kd_offline.file_locks import held
from kd_offline.schemas.dataset_outputs import PlacesOutput, UnfinishedPlace

_NAMES = "|".join(map(re.escape, (MANIFEST, UPLOAD, JOURNAL, ZARR_JSON)))
_GROUP = f"(?:{'|'.join(GROUPS)})"
_CHUNK = rf"{_GROUP}/[^/]+/c/[0-9/]+|{re.escape(BLOCKS)}/[^/]+"
_METADATA = rf"{_GROUP}/(?:[^/]+/)?{re.escape(ZARR_JSON)}"
# The shortest folder in which the rest of the path is that of a file of a dataset.
_OWNER = re.compile(rf"(?P<folder>(?:.*?/)??)(?:(?P<file>{_NAMES}|{_CHUNK})|{_METADATA})")

# Folders beside an output, and the only files that commands put there. A folder of the same name
# that a user made has other files.
_BESIDE = {
    "parts": r"[^/]+\.parts/(?:[0-9]+\.zarr/.+|\.lock)",
    "seeds": r"[^/]+\.seeds/(?:seed-[0-9]+/.+|task-[0-9]+\.log|\.lock)",
    "unsent": r"[^/]+\.[0-9a-f]{8}\.unsent/.+",
}
_FOLDER = re.compile(rf"(?P<folder>(?:.*/)?[^/]+\.(?P<kind>{'|'.join(_BESIDE)}))/.+")

_Kind = Literal["upload", "recording", "files", "parts", "seeds", "unsent"]
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class _Listed(NamedTuple):
    path: str
    size: int
    changed: datetime


@dataclass(slots=True)
class _Place:
    """What was listed of one folder."""

    files: int = 0
    bytes: int = 0
    changed: datetime = _LONG_AGO

    def count(self, listed: _Listed) -> None:
        """Count a file."""
        self.files += 1
        self.bytes += listed.size
        self.changed = max(self.changed, listed.changed)


@dataclass(slots=True)
class _Dataset(_Place):
    """A folder that holds files of a dataset."""

    names: set[str] = field(default_factory=set)  # of MANIFEST, UPLOAD and JOURNAL
    is_dataset: bool = False

    def add(self, name: str | None, listed: _Listed) -> None:
        """Count a file; None: the metadata of an array or a group.

        These alone make no dataset: ``final/1.zarr/zarr.json`` is also the first file of a dataset
        in a folder with the name of a group.
        """
        self.is_dataset |= name is not None
        self.count(listed)
        if name in (MANIFEST, UPLOAD, JOURNAL):
            self.names.add(name)

    @property
    def kind(self) -> _Kind:
        """What was begun there."""
        if UPLOAD in self.names:
            return "upload"
        return "recording" if JOURNAL in self.names else "files"


@dataclass(slots=True)
class _Beside(_Place):
    """A folder with the name of one that is made beside an output."""

    kind: _Kind = "parts"
    is_ours: bool = True  # whether all files in it are such as we write there


def unfinished(address: str | Path) -> PlacesOutput:
    """Return the places at and below an address where work on datasets was not finished.

    They have files of a dataset and no manifest, or are folders beside an output. Everything below
    is listed once, and nothing is read. Memory grows with the number of datasets, not of files.

    Raises
    ------
    UsageError
        Such addresses cannot be listed.
    StorageError
        There is nothing, or it cannot be listed.
    """
    plain = split_pin(str(address))[0].rstrip("/") or str(address)
    above, name = (plain[: plain.rfind("/") + 1], plain[plain.rfind("/") + 1 :])
    datasets: dict[str, _Dataset] = {}
    beside: dict[str, _Beside] = {}
    count = 0
    for listed in _listing(plain):
        count += 1
        if match := _OWNER.fullmatch(listed.path):
            datasets.setdefault(match["folder"], _Dataset()).add(match["file"], listed)
        path = f"{name}/{listed.path}"  # the address itself may be such a folder
        if match := _FOLDER.fullmatch(path):
            place = beside.setdefault(match["folder"], _Beside(kind=cast(_Kind, match["kind"])))
            place.count(listed)
            from_its_name = path[match["folder"].rfind("/") + 1 :]
            place.is_ours &= re.fullmatch(_BESIDE[match["kind"]], from_its_name) is not None
    if not count:
        msg = f"there is nothing at {plain!r}: check the address"
        raise StorageError(msg)
    beside = {folder: place for folder, place in beside.items() if place.is_ours}
    within = tuple(f"{folder}/" for folder in beside)
    datasets = {
        folder: place
        for folder, place in datasets.items()
        if place.is_dataset and not f"{name}/{folder}/".startswith(within)
    }
    begun: dict[str, _Dataset | _Beside] = {
        f"{plain}/{folder}".rstrip("/"): place
        for folder, place in datasets.items()
        if MANIFEST not in place.names
    }
    finished = len(datasets) - len(begun)
    begun |= {f"{above}{folder}": place for folder, place in beside.items()}
    now = datetime.now(UTC)
    places = [
        UnfinishedPlace(
            address=where,
            kind=place.kind,
            files=place.files,
            bytes=place.bytes,
            changed=place.changed.isoformat(timespec="seconds"),
            seconds=max(0.0, (now - place.changed).total_seconds()),
            busy=not is_remote(plain) and _is_busy(Path(where).expanduser()),
        )
        for where, place in sorted(begun.items())
    ]
    return PlacesOutput(address=plain, datasets=finished, unfinished=tuple(places))


def _is_busy(folder: Path) -> bool:
    """Return whether a process holds the lock of the writer of a dataset, or of parts."""
    return held(folder / LOCK) or held(folder)


def _listing(address: str) -> Iterator[_Listed]:
    scheme = require_known_scheme(address)
    if scheme in ("http", "https", "hf"):
        msg = (
            f"{address!r} is on a web server, where a dataset is not sent file by file: give a "
            "folder, or an s3://, gs:// or az:// address"
        )
        raise UsageError(msg)
    if is_remote(address):
        from kd_offline.datasets.storage.remote import Remote, open_store

        for meta in Remote(address, open_store(address), listable=True).listing():
            yield _Listed(str(meta["path"]), int(meta["size"]), meta["last_modified"])
        return
    root = Path(address).expanduser()
    if root.is_file():
        msg = f"{address!r} is a file: give the folder in which it lies"
        raise UsageError(msg)
    for path in list_files(root):
        with suppress(FileNotFoundError):  # deleted since it was listed
            status = (root / path).lstat()
            changed = datetime.fromtimestamp(status.st_mtime, UTC)
            yield _Listed(path, status.st_size, changed)
