"""Addresses of datasets, and what opens each kind for reading."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kd_offline.datasets.storage.addresses import is_remote, scheme_of, split_pin
from kd_offline.datasets.storage.archive import Archive, LocalRangeReader
from kd_offline.datasets.storage.cache import Cache, default_cache
from kd_offline.datasets.storage.store import Files, Folder
from kd_offline.errors import UnknownNameError


def open_files(address: str | Path, *, cached: bool = True) -> Files:
    """Return the files of the dataset at ``address``, without reading any of them.

    Listed files of remote folders are kept in the user's cache, unless ``cached`` is false.

    Raises
    ------
    UsageError
        The address is of no known kind, or its pin is not one.
    MissingExtraError
        The library that reads such addresses is not installed.
    """
    plain, pin = split_pin(str(address))
    opener = SCHEMES[known_scheme(plain)]
    cache = default_cache() if cached and is_remote(plain) else None
    return opener(plain, f"@sha256:{pin}" if pin else "", cache)


def known_scheme(address: str) -> str:
    """Return the scheme of an address.

    Raises
    ------
    UnknownNameError
        There is no such kind of address.
    """
    scheme = scheme_of(address)
    if scheme not in SCHEMES:
        kinds = ["a path", *(f"{name}://" for name in SCHEMES if name)]
        raise UnknownNameError(what="kind of address", got=f"{scheme}://", allowed=kinds)
    return scheme


def _local(path: str, pin: str, cache: Cache | None) -> Files:
    place = Path(path).expanduser()
    if place.suffix == ".zip" and not place.is_dir():
        return Archive(f"{place}{pin}", LocalRangeReader(place))
    return Folder(place, pin)


def _remote(url: str, pin: str, cache: Cache | None) -> Files:
    from kd_offline.datasets.storage.remote import Remote, RemoteRangeReader, connect

    base = url.rstrip("/")
    if base.endswith(".zip"):
        parent, _, name = base.rpartition("/")
        return Archive(f"{url}{pin}", RemoteRangeReader(url, connect(parent), name), cache)
    return Remote(f"{url}{pin}", connect(base), scheme_of(url) in _LISTABLE, cache)


SCHEMES: dict[str, Callable[[str, str, Cache | None], Files]] = {
    "": _local,
    "s3": _remote,
    "gs": _remote,
    "az": _remote,
    "https": _remote,
    "http": _remote,
    "hf": _remote,
}
"""Scheme of an address (none for a path) -> what opens it: address, pin with its @, cache."""
_LISTABLE = ("s3", "gs", "az")
