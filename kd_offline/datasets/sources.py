"""Addresses of datasets, and what opens each kind for reading."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kd_offline.datasets.addresses import scheme_of, split_pin
from kd_offline.datasets.store import Files, Folder
from kd_offline.errors import UnknownNameError


def open_files(address: str | Path) -> Files:
    """Return the files of the dataset at ``address``, without touching any of them.

    Raises
    ------
    UsageError
        The address is of no known kind, or its pin is not one.
    """
    plain, pin = split_pin(str(address))
    scheme = scheme_of(plain)
    if scheme not in SCHEMES:
        raise UnknownNameError(
            what="kind of address", got=f"{scheme}://", allowed=[f"{s}://" for s in SCHEMES if s]
        )
    return SCHEMES[scheme](plain, pin)


def _local(path: str, pin: str) -> Files:
    return Folder(Path(path).expanduser(), pin)


SCHEMES: dict[str, Callable[[str, str], Files]] = {"": _local}
"""Scheme of an address (none for a path) -> what opens it, given the address and its pin."""
