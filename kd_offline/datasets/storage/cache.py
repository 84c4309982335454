"""The user's cache of files that were fetched from remote datasets, by sha256."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kd_offline.errors import UsageError
from kd_offline.files import cache_folder, make_folder, remove_tree, write_file
from kd_offline.schemas.dataset import FileRecord

_LIMIT = "KD_OFFLINE_CACHE_GB"
_DEFAULT_GB = 20.0
# A full cache is trimmed below its limit, so that it is not searched for every new file.
_TRIMMED_SHARE = 0.9


@dataclass(slots=True)
class Cache:
    """A folder of files named by their sha256; what was unused for longest is deleted first.

    It raises no error: a file that cannot be stored is fetched again next time.
    """

    root: Path
    limit: int  # bytes
    _used: int = -1

    def get(self, file: FileRecord) -> bytes | None:
        """Return the bytes of a file, or None if it is not cached or its sha256 is wrong."""
        path = self._path(file)
        try:
            if path.stat().st_size != file.size:
                return None
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() != file.sha256:
                path.unlink(missing_ok=True)
                return None
            os.utime(path)
        except OSError:
            return None
        return data

    def put(self, file: FileRecord, data: bytes) -> None:
        """Store the bytes of a file if their sha256 is right."""
        if len(data) > self.limit or hashlib.sha256(data).hexdigest() != file.sha256:
            return
        path = self._path(file)
        with suppress(OSError):
            make_folder(path.parent)
            write_file(path, data, durable=False)
            self._make_room(len(data))

    def get_or_fetch(self, file: FileRecord, fetch: Callable[[], bytes]) -> bytes:
        """Return the bytes of a file from the cache, or fetch and store them."""
        data = self.get(file)
        if data is None:
            data = fetch()
            self.put(file, data)
        return data

    def entries(self) -> Iterator[tuple[Path, os.stat_result]]:
        """Yield the path and the status of every stored file."""
        for path in self.root.glob("sha256/*/*"):
            with suppress(OSError):
                yield path, path.stat()

    def usage(self) -> tuple[int, int]:
        """Return the number of files and their bytes."""
        sizes = [stat.st_size for _, stat in self.entries()]
        return len(sizes), sum(sizes)

    def clear(self) -> None:
        """Delete all files."""
        with suppress(OSError):
            remove_tree(self.root / "sha256")
        self._used = -1

    def _path(self, file: FileRecord) -> Path:
        return self.root / "sha256" / file.sha256[:2] / file.sha256

    def _make_room(self, added: int) -> None:
        self._used = self.usage()[1] if self._used < 0 else self._used + added
        if self._used <= self.limit:
            return
        oldest_first = sorted(self.entries(), key=lambda entry: entry[1].st_mtime)
        self._used = sum(stat.st_size for _, stat in oldest_first)
        for path, stat in oldest_first:
            if self._used <= self.limit * _TRIMMED_SHARE:
                return
            path.unlink(missing_ok=True)
            self._used -= stat.st_size


def default_cache() -> Cache | None:
    """Return the user's cache, or None if it is switched off.

    ``KD_OFFLINE_CACHE`` is its folder or ``off``; ``KD_OFFLINE_CACHE_GB`` is its size, 20 by
    default.

    Raises
    ------
    UsageError
        The size is not a number.
    """
    root = cache_folder()
    if root is None:
        return None
    size = os.environ.get(_LIMIT, str(_DEFAULT_GB))
    try:
        limit = int(float(size) * 1e9)
    except (ValueError, OverflowError):
        msg = f"{_LIMIT} is {size!r}, which is not a number of gigabytes: set it to one such as 20"
        raise UsageError(msg) from None
    return Cache(root, limit)
