"""A dataset in one ZIP file, read in place: members are stored uncompressed, one read each.

The standard library's :mod:`zipfile` parses the directory. It also accepts archives that other
programs read differently: bytes before or behind the archive, a wrong number of members, members
that overlap or have one name. So its result is compared with the end record, and such archives
are refused.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol

from kd_offline.datasets.format.layout import MANIFEST
from kd_offline.datasets.format.resource_limits import MAX_MANIFEST_BYTES
from kd_offline.datasets.storage.cache import Cache
from kd_offline.errors import CorruptDatasetError, KdOfflineError, StorageError
from kd_offline.schemas.dataset import FileRecord

_END = struct.Struct("<4s4H2LH")  # end of the directory: 4.3.16 of the ZIP specification
_END64 = struct.Struct("<4sQ2H2L4Q")  # the same with 64-bit numbers: 4.3.14
_END64_LOCATOR = 20  # bytes between the two
_TAIL = _END64.size + _END64_LOCATOR + _END.size
_ENTRY = 46  # bytes of an entry of the directory before its name
_ENTRY_SIGNATURE = b"PK\1\2"
_SIZE_AND_NAME = struct.Struct("<LH")  # 24 bytes into an entry
_MEMBER = struct.Struct("<4s5H3L2H")  # a member's own header: 4.3.7
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_UNIX = 3
# The manifest lists every file, in more bytes than its entry in the directory has.
_MAX_DIRECTORY_BYTES = 2 * MAX_MANIFEST_BYTES
_LEAST_LISTED = len('{"path":"","sha256":"","size":0}') + 64
# Bytes of additional fields in a member's own header that the first read allows for.
_EXTRA = 64
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_UNREADABLE = (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OSError)


class RangeReader(Protocol):
    """One file that is read in ranges of bytes."""

    @property
    def readers(self) -> int:
        """Number of ranges to read in parallel."""

    def size(self) -> int | None:
        """Return the size in bytes, None where there is no such file."""

    def read_range(self, offset: int, length: int) -> bytes:
        """Return the bytes of a range, fewer where the file ends before."""


@dataclass(frozen=True, slots=True)
class LocalRangeReader:
    """A file on this machine, read in ranges."""

    path: Path
    readers: ClassVar[int] = 1

    def size(self) -> int | None:
        """Return the size in bytes, None where there is no such file."""
        return self.path.stat().st_size if self.path.is_file() else None

    def read_range(self, offset: int, length: int) -> bytes:
        """Return the bytes of a range, fewer where the file ends before."""
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                return file.read(length)
        except OSError as error:
            msg = f"cannot read {str(self.path)!r} ({error.strerror}): check the path"
            raise StorageError(msg) from error


class _RangeFile:
    """A seekable file for :mod:`zipfile` over the end and the directory of an archive.

    The last bytes are fetched once. Any other read is the directory: one that is too long, or has
    too many entries, is refused before it is fetched or parsed.
    """

    def __init__(self, address: str, source: RangeReader, total: int) -> None:
        self._address, self._source, self._total = address, source, total
        self.tail = source.read_range(max(0, total - _TAIL), min(_TAIL, total)) if total else b""
        self._at = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position and return it, counted from the beginning; OSError if it lies before."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._total}[whence]
        if base + offset < 0:
            raise OSError
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Return the next ``size`` bytes, or all that are left."""
        left = max(0, self._total - self._at)
        size = left if size < 0 else min(size, left)
        tail_start = self._total - len(self.tail)
        if self._at >= tail_start:
            data = self.tail[self._at - tail_start :][:size]
        else:
            data = self._directory(size)
        self._at += len(data)
        return data

    def _directory(self, size: int) -> bytes:
        if size > _MAX_DIRECTORY_BYTES:
            what = "its directory is not where it should be, or too large"
            raise _corrupt(self._address, what)
        data = self._source.read_range(self._at, size)
        count = data.count(_ENTRY_SIGNATURE)
        most = 2 * (_manifest_size(data) // _LEAST_LISTED) + 2  # a folder may have an entry as well
        if count > most:
            what = f"it holds {count:,} members, and its manifest lists {most:,} at most"
            raise _corrupt(self._address, what)
        return data


class Member(NamedTuple):
    """Position of a file in the archive."""

    start: int  # of its own header
    size: int


class Archive:
    """The files of a dataset in one archive."""

    def __init__(self, address: str, source: RangeReader, cache: Cache | None = None) -> None:
        self.address = address
        self._source = source
        self._cache = cache

    @property
    def readers(self) -> int:
        """Number of files to read in parallel."""
        return self._source.readers

    def present(self) -> bool:
        """Tell whether there is a file at the address."""
        return self._source.size() is not None

    def exists(self, path: str) -> bool:
        """Tell whether ``path`` is a member."""
        return path in self._members

    def size(self, path: str) -> int | None:
        """Return the size of a member in bytes, None where there is none."""
        return self._members[path].size if path in self._members else None

    def files(self) -> Iterator[str]:
        """Yield the path of every member."""
        return iter(self._members)

    def read(self, path: str, record: FileRecord | None = None) -> bytes:
        """Return the bytes of a member; with a ``record`` at most its size and one byte.

        Raises
        ------
        FileNotFoundError
            There is no such member.
        CorruptDatasetError
            The archive contradicts itself.
        """
        if path not in self._members:
            raise FileNotFoundError(path)
        if record is None or self._cache is None:
            return self._member_bytes(path, record)
        return self._cache.get_or_fetch(record, lambda: self._member_bytes(path, record))

    def _member_bytes(self, path: str, record: FileRecord | None) -> bytes:
        """Return the bytes of a member, read with its own header in one range.

        :class:`zipfile.ZipFile` would read header, name and content one after the other, and one
        member at a time.
        """
        start, size = self._members[path]
        if record is None and size > MAX_MANIFEST_BYTES:
            raise _corrupt(self.address, f"its member {path} has {size} bytes")
        wanted = size if record is None else min(size, record.size + 1)
        name = path.encode("ascii")
        head = _MEMBER.size + len(name)
        length = min(head + _EXTRA + wanted, self._directory_start - start)
        data = self._source.read_range(start, length)
        header = data[: _MEMBER.size].ljust(_MEMBER.size, b"\0")
        signature, _, flags, method, *_, name_size, extra = _MEMBER.unpack(header)
        header_matches = (b"PK\3\4", 0, len(name)) == (signature, method, name_size)
        if not header_matches or flags & _ENCRYPTED or data[_MEMBER.size : head] != name:
            raise _corrupt(self.address, f"its member {path} is not what its directory says")
        if extra > _EXTRA:
            return self._source.read_range(start + head + extra, wanted)
        return data[head + extra : head + extra + wanted]

    @property
    def _members(self) -> dict[str, Member]:
        return self._directory[0]

    @property
    def _directory_start(self) -> int:
        return self._directory[1]

    @cached_property
    def _directory(self) -> tuple[dict[str, Member], int]:
        """Return the members by path, and the offset of the directory."""
        total = self._source.size()
        if total is None:
            return {}, 0
        file = _RangeFile(self.address, self._source, total)
        count, start = self._end(file.tail)
        try:
            with zipfile.ZipFile(file) as archive:
                entries, found_start = archive.infolist(), archive.start_dir
        except KdOfflineError:
            raise
        except _UNREADABLE as error:
            raise _corrupt(self.address, "its directory is damaged") from error
        if found_start != start:
            raise _corrupt(self.address, "its directory is not where it should be")
        if len(entries) != count:
            raise _corrupt(self.address, "its directory is damaged")
        members: dict[str, Member] = {}
        for entry in entries:
            member = self._member(entry)
            if member is not None:
                if entry.filename in members:
                    raise _corrupt(self.address, f"it holds {entry.filename} twice")
                members[entry.filename] = member
        self._check_overlaps(members, start)
        return members, start

    def _end(self, tail: bytes) -> tuple[int, int]:
        """Return the number of members and the offset of the directory, from the end record.

        The record must end the file; :mod:`zipfile` would search for an earlier one.
        """
        signature, disk, first, count_here, count, size, start, comment = _END.unpack(
            tail[-_END.size :].rjust(_END.size, b"\0")
        )
        if signature != b"PK\5\6" or disk or first or comment or count_here != count:
            what = "it does not end as a ZIP archive in one part without a comment"
            raise _corrupt(self.address, what)
        if count == 0xFFFF or 0xFFFFFFFF in (size, start):
            signature, *_, count, _, start = _END64.unpack(tail[: _END64.size].ljust(_END64.size))
            if signature != b"PK\6\6":
                raise _corrupt(self.address, "its directory is not where it should be")
        return count, start

    def _member(self, entry: zipfile.ZipInfo) -> Member | None:
        """Return a member from its entry in the directory, None for a folder."""
        name, size = entry.orig_filename, entry.file_size
        kind = stat.S_IFMT(entry.external_attr >> 16) if entry.create_system == _UNIX else 0
        if name.endswith("/") and not size and kind in (0, stat.S_IFDIR):
            return None
        if not _NAME.fullmatch(name) or entry.filename != name:
            raise _corrupt(self.address, f"it holds a member with the name {name[:80]!r}")
        if kind not in (0, stat.S_IFREG):
            raise _corrupt(self.address, f"its member {name} is not a plain file")
        if entry.flag_bits & _ENCRYPTED or entry.compress_type or entry.volume:
            what = f"its member {name} is compressed or encrypted, not only stored"
            raise _corrupt(self.address, what)
        if entry.compress_size != size:
            raise _corrupt(self.address, f"its member {name} has two sizes")
        return Member(entry.header_offset, size)

    def _check_overlaps(self, members: dict[str, Member], end: int) -> None:
        previous_end = 0
        for name, member in sorted(members.items(), key=lambda item: item[1].start):
            if member.start < previous_end:
                raise _corrupt(self.address, f"its member {name} overlaps another one")
            previous_end = member.start + _MEMBER.size + len(name) + member.size
        if previous_end > end:
            raise _corrupt(self.address, "it holds less than its directory says")


def _manifest_size(directory: bytes) -> int:
    """Return the size of the manifest by its entry; the largest allowed size if it has none.

    The entry is searched for in the bytes, because their number has to be checked before
    :mod:`zipfile` makes an object of each.
    """
    at = directory.find(MANIFEST.encode())
    while at >= 0:
        entry = directory[max(0, at - _ENTRY) : at]
        if entry.startswith(_ENTRY_SIGNATURE) and len(entry) == _ENTRY:
            size, name_size = _SIZE_AND_NAME.unpack_from(entry, 24)
            if name_size == len(MANIFEST):
                return int(min(size, MAX_MANIFEST_BYTES))
        at = directory.find(MANIFEST.encode(), at + 1)
    return MAX_MANIFEST_BYTES


def _corrupt(address: str, what: str) -> CorruptDatasetError:
    return CorruptDatasetError(
        f"the archive at {address!r} cannot be read in place: {what}; get a fresh copy or make it "
        "with kd-offline pack"
    )
