"""``doctor ADDRESS``: find unfinished datasets below an address, in one listing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from kd_offline.datasets.format.layout import GROUPS, JOURNAL, MANIFEST, UPLOAD, ZARR_JSON
from kd_offline.datasets.storage.addresses import is_remote, split_pin
from kd_offline.datasets.storage.safe_open import list_files
from kd_offline.datasets.storage.sources import require_known_scheme
from kd_offline.errors import StorageError, UsageError
from kd_offline.schemas.dataset_outputs import PlacesOutput, UnfinishedPlace

_NAMES = "|".join(map(re.escape, (MANIFEST, UPLOAD, JOURNAL, ZARR_JSON)))
_GROUP = f"(?:{'|'.join(GROUPS)})"
_CHUNK = rf"{_GROUP}/[^/]+/c/[0-9/]+"
_METADATA = rf"{_GROUP}/(?:[^/]+/)?{re.escape(ZARR_JSON)}"
# The shortest folder in which the rest of the path is that of a file of a dataset.
_OWNER = re.compile(rf"(?P<folder>(?:.*?/)??)(?:(?P<file>{_NAMES}|{_CHUNK})|{_METADATA})")

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class _Listed(NamedTuple):
    path: str
    size: int
    changed: datetime


@dataclass(slots=True)
class _Place:
    """What was listed of one folder that holds files of a dataset."""

    files: int = 0
    bytes: int = 0
    changed: datetime = _LONG_AGO
    names: set[str] = field(default_factory=set)  # of MANIFEST, UPLOAD and JOURNAL
    is_dataset: bool = False

    def add(self, name: str | None, listed: _Listed) -> None:
        """Count a file; None: the metadata of an array or a group.

        These alone make no dataset: ``final/1.zarr/zarr.json`` is also the first file of a dataset
        in a folder with the name of a group.
        """
        self.is_dataset |= name is not None
        self.files += 1
        self.bytes += listed.size
        self.changed = max(self.changed, listed.changed)
        if name in (MANIFEST, UPLOAD, JOURNAL):
            self.names.add(name)

    @property
    def kind(self) -> Literal["upload", "recording", "files"]:
        """What was begun there."""
        if UPLOAD in self.names:
            return "upload"
        return "recording" if JOURNAL in self.names else "files"


def unfinished(address: str | Path) -> PlacesOutput:
    """Return every place at and below an address that has files of a dataset and no manifest.

    Everything below is listed once, and nothing is read. Memory grows with the number of datasets,
    not of files.

    Raises
    ------
    UsageError
        Such addresses cannot be listed.
    StorageError
        There is nothing, or it cannot be listed.
    """
    plain = split_pin(str(address))[0].rstrip("/") or str(address)
    places: dict[str, _Place] = {}
    count = 0
    for listed in _listing(plain):
        count += 1
        if match := _OWNER.fullmatch(listed.path):
            places.setdefault(match["folder"], _Place()).add(match["file"], listed)
    if not count:
        msg = f"there is nothing at {plain!r}: check the address"
        raise StorageError(msg)
    places = {folder: place for folder, place in places.items() if place.is_dataset}
    now = datetime.now(UTC)
    found = [
        UnfinishedPlace(
            address=f"{plain}/{folder}".rstrip("/"),
            kind=place.kind,
            files=place.files,
            bytes=place.bytes,
            changed=place.changed.isoformat(timespec="seconds"),
            seconds=max(0.0, (now - place.changed).total_seconds()),
        )
        for folder, place in sorted(places.items())
        if MANIFEST not in place.names
    ]
    return PlacesOutput(address=plain, datasets=len(places) - len(found), unfinished=tuple(found))


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
