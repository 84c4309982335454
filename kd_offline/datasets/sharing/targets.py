"""Destinations of copies, to which files can be written in any order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol
from uuid import uuid4

from kd_offline.datasets.format.layout import (
    GROUPS,
    JOURNAL,
    LOCK,
    MANIFEST,
    UPLOAD,
    ZARR_JSON,
)
from kd_offline.datasets.storage.addresses import is_remote, split_pin
from kd_offline.datasets.storage.sources import require_known_scheme
from kd_offline.datasets.storage.store import Folder, lock_folder
from kd_offline.errors import StorageError, UsageError
from kd_offline.files import create_file, make_folder
from kd_offline.schemas.dataset import FileRecord

if TYPE_CHECKING:
    from kd_offline.datasets.storage.remote import Remote

SCRATCH_PREFIX = ".part-"


class Target(Protocol):
    """A destination of a copy. Every file in it is whole or not there."""

    @property
    def address(self) -> str:
        """Address, as its user wrote it."""

    @property
    def writers(self) -> int:
        """Number of files to write in parallel."""

    def listing(self) -> dict[str, int]:
        """Return path -> size of every file."""

    def read(self, path: str) -> bytes:
        """Return the bytes of a file; FileNotFoundError where there is none."""

    def holds(self, file: FileRecord, data: Callable[[], bytes]) -> bool:
        """Tell whether a file of the right size has the right bytes, which ``data`` returns."""

    def write(self, path: str, data: bytes, *, last: bool = False) -> None:
        """Write a file; ``last``: the manifest, after all others are safely stored."""

    def create(self, path: str, data: bytes) -> bool:
        """Write a file safely where there is none; False: one is there, and stays as it is."""

    def remove(self, path: str) -> None:
        """Delete a file if it is there."""


class LocalTarget:
    """A folder on this machine."""

    writers: ClassVar[int] = 2

    def __init__(self, root: Path) -> None:
        self._folder = Folder(root)

    @property
    def address(self) -> str:
        """Path of the folder."""
        return str(self._folder.root)

    def listing(self) -> dict[str, int]:
        """Return path -> size of every file."""
        sizes = {}
        for path in self._folder.files():
            # Another command may rename or remove files meanwhile, on disks without locks.
            with suppress(FileNotFoundError):
                if path != LOCK:
                    sizes[path] = (self._folder.root / path).lstat().st_size
        return sizes

    def read(self, path: str) -> bytes:
        """Return the bytes of a file; FileNotFoundError where there is none."""
        return self._folder.read(path)

    def holds(self, file: FileRecord, data: Callable[[], bytes]) -> bool:
        """Tell whether a file has the right sha256."""
        try:
            return hashlib.sha256(self._folder.read(file.path, file)).hexdigest() == file.sha256
        except FileNotFoundError:  # removed by another command since it was listed
            return False

    def write(self, path: str, data: bytes, *, last: bool = False) -> None:
        """Write a file under another name, which no other process uses, and rename it."""
        self._folder.put(path, data, durable=last, aside=f"{SCRATCH_PREFIX}{uuid4().hex}")

    def create(self, path: str, data: bytes) -> bool:
        """Write a file under another name and link it; False where there is one."""
        return create_file(self._folder.root / path, data)

    def remove(self, path: str) -> None:
        """Delete a file if it is there."""
        self._folder.remove(path)


class ObjectTarget:
    """A prefix in an object store."""

    writers: ClassVar[int] = 16

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._tags: dict[str, str] = {}

    @property
    def address(self) -> str:
        """Address, as its user wrote it."""
        return self._remote.address

    def listing(self) -> dict[str, int]:
        """Return path -> size of every file."""
        objects: list[dict[str, Any]] = list(self._remote.listing())
        self._tags = {str(meta["path"]): str(meta["e_tag"]) for meta in objects}
        return {str(meta["path"]): int(meta["size"]) for meta in objects}

    def read(self, path: str) -> bytes:
        """Return the bytes of a file; FileNotFoundError where there is none."""
        return self._remote.read(path)

    def holds(self, file: FileRecord, data: Callable[[], bytes]) -> bool:
        """Tell whether an object has the entity tag of the right bytes.

        If the store's tags are no digests, this is always false and the file is sent again.
        """
        from kd_offline.datasets.storage.remote import md5_tag

        return self._tags.get(file.path, "").strip('"') == md5_tag(data())

    def write(self, path: str, data: bytes, *, last: bool = False) -> None:
        """Send a file in one request, which a store takes whole or not at all."""
        self._remote.write(path, data)

    def create(self, path: str, data: bytes) -> bool:
        """Send a file under the condition that there is none; False where there is one."""
        return self._remote.create(path, data)

    def remove(self, path: str) -> None:
        """Delete a file if it is there."""
        self._remote.remove(path)


def is_dataset_file(path: str) -> bool:
    """Tell whether a file of this path can belong to a dataset or an unfinished recording."""
    parts = path.split("/")
    if len(parts) == 1:
        return path in (MANIFEST, JOURNAL, UPLOAD, ZARR_JSON)
    return parts[0] in GROUPS and (parts[-1] == ZARR_JSON or "c" in parts)


def refuse_unwritable(address: str) -> str:
    """Return an address to which files can be written; raises as :func:`open_target`."""
    plain, pin = split_pin(address)
    if pin:
        msg = f"the destination {address!r} carries an id: write it without @sha256:..."
        raise UsageError(msg)
    if require_known_scheme(plain) in ("http", "https"):
        msg = (
            f"a web server such as {plain!r} only gives: push to the folder that it serves, "
            "or to s3://, gs://, az:// or hf://"
        )
        raise UsageError(msg)
    if is_remote(plain) and plain.rstrip("/").endswith(".zip"):
        msg = (
            f"{plain!r} would be read as one file, and files of a dataset are sent one by one: "
            "leave out .zip, or pack it and copy that file"
        )
        raise UsageError(msg)
    return plain


@contextmanager
def open_target(address: str | Path) -> Iterator[Target]:
    """Open the destination at ``address``; a folder is locked for one writer.

    Raises
    ------
    UsageError
        Nothing can be written to such an address.
    StorageError
        The folder refuses, or another process is writing to it.
    """
    plain = refuse_unwritable(str(address))
    if not is_remote(plain):
        with _locked_folder(Path(plain).expanduser()) as root:
            yield LocalTarget(root)
    else:
        from kd_offline.datasets.storage.remote import Remote, open_store

        yield ObjectTarget(Remote(plain, open_store(plain.rstrip("/")), listable=True))


@contextmanager
def _locked_folder(root: Path) -> Iterator[Path]:
    if root.exists() and not root.is_dir():
        msg = f"{str(root)!r} is a file: choose another path for the dataset"
        raise StorageError(msg)
    is_new = not root.exists()
    make_folder(root)
    try:
        with lock_folder(root):
            try:
                yield root
            finally:
                (root / LOCK).unlink(missing_ok=True)
    finally:
        if is_new and not any(root.iterdir()):
            root.rmdir()
