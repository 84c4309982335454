"""Files of remote datasets that were fetched before, by their sha256, on this machine."""

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
# A full cache is emptied by a bit more than needed, so that it is not searched for every file.
_TRIMMED_SHARE = 0.9


@dataclass(slots=True)
class Cache:
    """A folder of files named by their sha256; the oldest give way to new ones.

    It never fails: what cannot be kept is fetched again.
    """

    root: Path
    limit: int  # bytes
    _used: int = -1

    def get(self, file: FileRecord) -> bytes | None:
        """Return the bytes of a file, None where they are not here or are not right."""
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
        """Keep the bytes of a file, if they are right."""
        if len(data) > self.limit or hashlib.sha256(data).hexdigest() != file.sha256:
            return
        path = self._path(file)
        with suppress(OSError):
            make_folder(path.parent)
            write_file(path, data, durable=False)
            self._make_room(len(data))

    def get_or_fetch(self, file: FileRecord, fetch: Callable[[], bytes]) -> bytes:
        """Return the bytes of a file from here, or fetch and keep them."""
        data = self.get(file)
        if data is None:
            data = fetch()
            self.put(file, data)
        return data

    def entries(self) -> Iterator[tuple[Path, os.stat_result]]:
        """Yield every kept file."""
        for path in self.root.glob("sha256/*/*"):
            with suppress(OSError):
                yield path, path.stat()

    def usage(self) -> tuple[int, int]:
        """Return the number of files and of bytes."""
        sizes = [stat.st_size for _, stat in self.entries()]
        return len(sizes), sum(sizes)

    def clear(self) -> None:
        """Delete everything."""
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
    """Return the user's cache, None where it is switched off.

    ``KD_OFFLINE_CACHE`` is its folder or ``off``, ``KD_OFFLINE_CACHE_GB`` its size, 20 by default.

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
