"""Open the files of a dataset at any kind of address."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kd_offline.datasets.storage.addresses import is_remote, scheme_of, split_pin
from kd_offline.datasets.storage.archive import Archive, LocalRangeReader
from kd_offline.datasets.storage.cache import Cache, default_cache
from kd_offline.datasets.storage.store import Files, Folder
from kd_offline.errors import UnknownNameError


def open_files(address: str | Path, *, cached: bool = True) -> Files:
    """Return the files of the dataset at ``address``; reads none of them.

    Listed files of remote datasets are kept in the user's cache, unless ``cached`` is false.

    Raises
    ------
    UsageError
        The address is of no known kind, or its pin is not one.
    MissingExtraError
        The library that reads such addresses is not installed.
    """
    plain, pin = split_pin(str(address))
    opener = SCHEMES[require_known_scheme(plain)]
    cache = default_cache() if cached and is_remote(plain) else None
    return opener(plain, f"@sha256:{pin}" if pin else "", cache)


def require_known_scheme(address: str) -> str:
    """Return the scheme of an address, ``""`` for a path.

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


def _open_local(path: str, pin: str, cache: Cache | None) -> Files:
    local_path = Path(path).expanduser()
    if local_path.suffix == ".zip" and not local_path.is_dir():
        return Archive(f"{local_path}{pin}", LocalRangeReader(local_path))
    return Folder(local_path, pin)


def _open_remote(url: str, pin: str, cache: Cache | None) -> Files:
    from kd_offline.datasets.storage.remote import Remote, RemoteRangeReader, open_store

    base = url.rstrip("/")
    if base.endswith(".zip"):
        parent, _, name = base.rpartition("/")
        return Archive(f"{url}{pin}", RemoteRangeReader(url, open_store(parent), name), cache)
    return Remote(f"{url}{pin}", open_store(base), scheme_of(url) in _LISTABLE, cache)


SCHEMES: dict[str, Callable[[str, str, Cache | None], Files]] = {
    "": _open_local,
    "s3": _open_remote,
    "gs": _open_remote,
    "az": _open_remote,
    "https": _open_remote,
    "http": _open_remote,
    "hf": _open_remote,
}
"""Scheme of an address (``""`` for a path) -> function of address, ``@`` pin and cache."""
_LISTABLE = ("s3", "gs", "az")
