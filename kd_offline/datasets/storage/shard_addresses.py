"""Addresses of shards in a manifest: which ones a file may state, and where they lead.

A file may come from anyone. So what it states leads no further than the folder in which its
dataset lies; anything else must be named by the user as well.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from kd_offline.datasets.storage.addresses import is_remote, scheme_of, split_pin
from kd_offline.datasets.storage.sources import SCHEMES
from kd_offline.errors import CorruptDatasetError, UsageError

ALLOWED = "KD_OFFLINE_SHARDS"
"""Variable with the addresses, separated by commas, to which manifests may lead."""

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_BELOW = re.compile(rf"{_PART}(/{_PART})*")
# What a web server or a store may take for another path: escapes, empty parts, dots.
_UNSAFE = re.compile(r"[%?#\\\s]|//|(^|/)\.\.?(/|$)")
# Parts of a URL behind the scheme that name a bucket, a server or a repository, not a folder.
_ROOT_PARTS = {"hf": 3}


def resolve_shard(whole: str, stated: str) -> str:
    """Return the address of a shard that the manifest of the dataset at ``whole`` states.

    Raises
    ------
    UsageError
        It leads out of the folder in which the dataset lies, and the user allows no such address.
    CorruptDatasetError
        It is no address.
    """
    plain = split_pin(whole)[0]
    if _BELOW.fullmatch(stated):
        folder = _folder_of(plain)
        if folder is None:
            msg = (
                f"the dataset at {plain!r} lists shards beside itself, where there is no folder: "
                "put it into a folder together with them"
            )
            raise CorruptDatasetError(msg)
        address = f"{folder}/{stated}"
        if is_remote(address) or _is_inside(Path(address), Path(folder)):
            return address
        stated = address  # a link leads elsewhere
    elif not _is_absolute(stated):
        msg = (
            f"the dataset at {plain!r} lists a shard at {stated[:200]!r}, which is no address: "
            "run verify and get a fresh copy"
        )
        raise CorruptDatasetError(msg)
    if not any(_is_below(stated, prefix) for prefix in _allowed()):
        msg = (
            f"the dataset at {plain!r} lists a shard at {stated!r}, and a file may not choose "
            f"which other places are read: if you know that one, set {ALLOWED} to it, or to what "
            "its address begins with"
        )
        raise UsageError(msg)
    return stated


def stated_address(whole: str, shard: str) -> str:
    """Return how the manifest of a dataset at ``whole`` states the address of a shard.

    Below the folder in which the dataset will lie it is relative, else absolute.

    Raises
    ------
    UsageError
        No reader would take the address.
    """
    plain = split_pin(shard)[0].rstrip("/")
    folder = _folder_of(whole)
    if is_remote(plain):
        below = plain.removeprefix(f"{folder}/")
        if below != plain and _BELOW.fullmatch(below):
            return below
        if not _is_absolute(plain):
            msg = (
                f"the shard at {plain!r} cannot be listed, since addresses in a file are without "
                "spaces, escapes and empty parts: move it, or merge with copying"
            )
            raise UsageError(msg)
        return plain
    path = Path(plain).expanduser().resolve()
    if folder is not None and not is_remote(folder) and path.is_relative_to(folder):
        below = path.relative_to(folder).as_posix()
        if _BELOW.fullmatch(below):
            return below
    return str(path)


def is_relative(stated: str) -> bool:
    """Tell whether the address of a shard in a manifest needs nobody's permission."""
    return bool(_BELOW.fullmatch(stated))


def _is_absolute(stated: str) -> bool:
    if is_remote(stated):
        return scheme_of(stated) in SCHEMES and not _UNSAFE.search(stated.partition("://")[2])
    return Path(stated).is_absolute()


def _folder_of(address: str) -> str | None:
    """Return the address of the folder in which a dataset lies; None for a whole bucket."""
    scheme = scheme_of(address)
    if not scheme:
        return str(Path(address).expanduser().resolve().parent)
    parts = address.rstrip("/").partition("://")[2].split("/")
    if len(parts) <= _ROOT_PARTS.get(scheme, 1):
        return None
    return f"{scheme}://{'/'.join(parts[:-1])}"


def _allowed() -> list[str]:
    texts = (text.strip() for text in os.environ.get(ALLOWED, "").split(","))
    return [text for text in texts if text]


def _is_below(address: str, prefix: str) -> bool:
    if is_remote(address) or is_remote(prefix):
        base = prefix.rstrip("/")
        return address == base or address.startswith(f"{base}/")
    return _is_inside(Path(address), Path(prefix).expanduser())


def _is_inside(path: Path, folder: Path) -> bool:
    """Tell whether a path leads to something inside a folder, with all links followed."""
    return path.resolve().is_relative_to(folder.resolve())
