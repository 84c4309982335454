"""A dataset in one ZIP file, read in place: every member is stored as it is and one read away.

The directory at the end of the archive is read by the rules of the ZIP specification (4.3.12 to
4.3.16), and refused where it leaves any choice of what a member is.
"""

from __future__ import annotations

import re
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

from kd_offline.datasets.format.layout import MANIFEST
from kd_offline.datasets.format.resource_limits import MAX_MANIFEST_BYTES
from kd_offline.datasets.storage.cache import Cache
from kd_offline.errors import CorruptDatasetError, StorageError
from kd_offline.schemas.dataset import FileRecord

_END = struct.Struct("<4s4H2LH")
_END64_PLACE = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_MEMBER = struct.Struct("<4s5H3L2H")
_TAIL = _END64.size + _END64_PLACE.size + _END.size
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_UNIX = 3
# Every file is listed in the manifest, in more bytes than the directory has for it.
_DIRECTORY_BYTES = 2 * MAX_MANIFEST_BYTES
_LEAST_LISTED = len('{"path":"","sha256":"","size":0}') + 64
_SIZE_AND_NAME = struct.Struct("<L3H")  # 24 bytes into an entry
# Additional fields of a member's own header; where they are longer, a second read is needed.
_EXTRA = 64
_MANIFEST = MANIFEST.encode()
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")


class Blob(Protocol):
    """One file that is read in ranges."""

    @property
    def readers(self) -> int:
        """How many ranges are best read at once."""

    def size(self) -> int | None:
        """Return the size in bytes, None where there is no such file."""

    def at(self, offset: int, length: int) -> bytes:
        """Return the bytes of a range."""


@dataclass(frozen=True, slots=True)
class LocalBlob:
    """A file on this machine."""

    path: Path
    readers: ClassVar[int] = 1

    def size(self) -> int | None:
        """Return the size in bytes, None where there is no such file."""
        return self.path.stat().st_size if self.path.is_file() else None

    def at(self, offset: int, length: int) -> bytes:
        """Return the bytes of a range."""
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                return file.read(length)
        except OSError as error:
            msg = f"cannot read {str(self.path)!r} ({error.strerror}): check the path"
            raise StorageError(msg) from error


class Member(NamedTuple):
    """Where a file lies in the archive."""

    start: int  # of its own header
    size: int


class Archive:
    """The files in one archive."""

    def __init__(self, where: str, blob: Blob, cache: Cache | None = None) -> None:
        self.where = where
        self._blob = blob
        self._cache = cache

    @property
    def readers(self) -> int:
        """How many files are best read at once."""
        return self._blob.readers

    def present(self) -> bool:
        """Tell whether there is a file at the address."""
        return self._blob.size() is not None

    def exists(self, path: str) -> bool:
        """Tell whether ``path`` is a member."""
        return path in self._members

    def size(self, path: str) -> int | None:
        """Return the size of a member in bytes, None where there is none."""
        return self._members[path].size if path in self._members else None

    def files(self) -> Iterator[str]:
        """Yield the path of every member."""
        return iter(self._members)

    def read(self, path: str, listed: FileRecord | None = None) -> bytes:
        """Return the bytes of a member, of a listed one at most its size and one byte.

        Raises
        ------
        FileNotFoundError
            There is no such member.
        CorruptDatasetError
            The archive contradicts itself.
        """
        if path not in self._members:
            raise FileNotFoundError(path)
        if listed is None or self._cache is None:
            return self._member_bytes(path, listed)
        return self._cache.through(listed, lambda: self._member_bytes(path, listed))

    def _member_bytes(self, path: str, listed: FileRecord | None) -> bytes:
        start, size = self._members[path]
        if listed is None and size > MAX_MANIFEST_BYTES:
            raise _corrupt(self.where, f"its member {path} has {size} bytes")
        wanted = size if listed is None else min(size, listed.size + 1)
        name = path.encode("ascii")
        head = _MEMBER.size + len(name)
        data = self._blob.at(start, min(head + _EXTRA + wanted, self._directory[0] - start))
        signature, _, flags, method, *_, name_size, extra = _unpack(_MEMBER, data)
        right = (b"PK\3\4", 0, len(name)) == (signature, method, name_size)
        if not right or flags & _ENCRYPTED or data[_MEMBER.size : head] != name:
            raise _corrupt(self.where, f"its member {path} is not what its directory says")
        if extra > _EXTRA:
            return self._blob.at(start + head + extra, wanted)
        return data[head + extra : head + extra + wanted]

    @cached_property
    def _directory(self) -> tuple[int, int, int]:
        """Return where the directory begins, its bytes and its members."""
        total = self._blob.size()
        if total is None:
            raise FileNotFoundError(self.where)
        tail = self._blob.at(max(0, total - _TAIL), min(_TAIL, total)) if total else b""
        signature, disk, first, here, count, size, start, comment = _unpack(
            _END, tail[-_END.size :]
        )
        if signature != b"PK\5\6" or disk or first or comment or here != count:
            raise _corrupt(
                self.where, "it does not end as a ZIP archive in one part without a comment"
            )
        end = total - _END.size
        if count == 0xFFFF or 0xFFFFFFFF in (size, start):
            end = total - _TAIL
            record = _unpack(_END64, tail[: _END64.size])
            place = _unpack(_END64_PLACE, tail[_END64.size :][: _END64_PLACE.size])
            if (record[0], place[0], place[2]) != (b"PK\6\6", b"PK\6\7", end):
                raise _corrupt(self.where, "its directory is not where it should be")
            count, size, start = record[7:10]
        if start + size != end or size > _DIRECTORY_BYTES:
            raise _corrupt(self.where, "its directory is not where it should be, or too large")
        return start, size, count

    @cached_property
    def _members(self) -> dict[str, Member]:
        try:
            start, size, count = self._directory
        except FileNotFoundError:
            return {}
        data = self._blob.at(start, size)
        self._check_count(data, count)
        members: dict[str, Member] = {}
        place = 0
        for _ in range(count):
            fields = _unpack(_ENTRY, data[place : place + _ENTRY.size])
            named = place + _ENTRY.size + fields[10]
            after = named + fields[11] + fields[12]
            if fields[0] != b"PK\1\2" or after > size:
                raise _corrupt(self.where, "its directory is damaged")
            name = data[place + _ENTRY.size : named].decode("latin-1")
            member = self._member(name, fields, data[named : named + fields[11]])
            if member is not None:
                if name in members:
                    raise _corrupt(self.where, f"it holds {name} twice")
                members[name] = member
            place = after
        self._check_overlaps(members, start)
        return members

    def _check_count(self, data: bytes, count: int) -> None:
        """Refuse more members than the manifest can list, before any is looked at."""
        place = listed = 0
        for _ in range(count):
            if place + _ENTRY.size > len(data):
                raise _corrupt(self.where, "its directory is damaged")
            size, name, extra, comment = _SIZE_AND_NAME.unpack_from(data, place + 24)
            named = place + _ENTRY.size
            if data[named : named + name] == _MANIFEST:
                listed = size // _LEAST_LISTED
            place = named + name + extra + comment
        most = 2 * listed + 2  # a folder may have an entry as well
        if listed and count > most:
            raise _corrupt(
                self.where, f"it holds {count:,} members, and its manifest lists {most:,} at most"
            )

    def _member(self, name: str, fields: tuple[Any, ...], extra: bytes) -> Member | None:
        """Return a member from its entry, None for a folder."""
        made, flags, method, packed, size = fields[1], fields[3], fields[4], fields[8], fields[9]
        kind = stat.S_IFMT(fields[15] >> 16) if made >> 8 == _UNIX else 0
        if name.endswith("/") and not size and kind in (0, stat.S_IFDIR):
            return None
        if not _NAME.fullmatch(name):
            raise _corrupt(self.where, f"it holds a member with the name {name[:80]!r}")
        if kind not in (0, stat.S_IFREG):
            raise _corrupt(self.where, f"its member {name} is not a plain file")
        if flags & _ENCRYPTED or method or fields[13]:
            raise _corrupt(
                self.where, f"its member {name} is compressed or encrypted, not only stored"
            )
        packed, size, start = _wide(extra, size, packed, fields[16])
        if packed != size:
            raise _corrupt(self.where, f"its member {name} has two sizes")
        return Member(start, size)

    def _check_overlaps(self, members: dict[str, Member], end: int) -> None:
        free = 0
        for name, member in sorted(members.items(), key=lambda item: item[1].start):
            if member.start < free:
                raise _corrupt(self.where, f"its member {name} overlaps another one")
            free = member.start + _MEMBER.size + len(name) + member.size
        if free > end:
            raise _corrupt(self.where, "it holds less than its directory says")


def _wide(extra: bytes, size: int, packed: int, start: int) -> tuple[int, int, int]:
    """Return packed size, size and start, taken from the ZIP64 field where they are too large."""
    values = [size, packed, start]
    while len(extra) >= 4:
        kind, length = struct.unpack("<2H", extra[:4])
        if kind == 1:
            words = [int.from_bytes(extra[i : i + 8], "little") for i in range(4, 4 + length, 8)]
            values = [words.pop(0) if v == 0xFFFFFFFF and words else v for v in values]
            break
        extra = extra[4 + length :]
    return values[1], values[0], values[2]


def _unpack(form: struct.Struct, data: bytes) -> tuple[Any, ...]:
    """Unpack the beginning of ``data``; zeros where it is too short."""
    return form.unpack(data[: form.size].ljust(form.size, b"\0"))


def _corrupt(where: str, what: str) -> CorruptDatasetError:
    return CorruptDatasetError(
        f"the archive at {where!r} cannot be read in place: {what}; get a fresh copy or make it "
        "with kd-offline pack"
    )
