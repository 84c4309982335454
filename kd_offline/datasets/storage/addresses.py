"""Addresses of datasets: a path or a URL, and optionally a pin, the id that it must have."""

from __future__ import annotations

import re

from kd_offline.errors import MismatchError, UsageError

_PIN = re.compile(r"@sha256:(?P<hex>[^/@]*)$")
_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+)://")
_SHORTEST_PIN = 12


def scheme_of(address: str) -> str:
    """Return the scheme of a URL in lower case, ``""`` for a path."""
    match = _SCHEME.match(address)
    return match["scheme"].lower() if match else ""


def is_remote(address: str) -> bool:
    """Tell whether an address is a URL rather than a path."""
    return bool(scheme_of(address))


def split_pin(address: str) -> tuple[str, str]:
    """Return the address without its pin, and the pinned digits of the id (``""`` if none).

    Raises
    ------
    UsageError
        The pin is not 12 to 64 lower-case hexadecimal digits.
    """
    match = _PIN.search(address)
    if match is None:
        return address, ""
    if not re.fullmatch(rf"[0-9a-f]{{{_SHORTEST_PIN},64}}", match["hex"]):
        msg = (
            f"the pin {match[0][1:]!r} is not a dataset's id: give sha256: and {_SHORTEST_PIN} to "
            "64 of its digits, as inspect prints it"
        )
        raise UsageError(msg)
    return address[: match.start()], match["hex"]


def check_pin(address: str, dataset_id: str) -> None:
    """Raise an error if the id is not the one that ``address`` pins.

    Raises
    ------
    MismatchError
        The id does not begin with the pinned digits.
    """
    plain, pin = split_pin(address)
    if not dataset_id.startswith(f"sha256:{pin}"):
        msg = (
            f"the dataset at {plain!r} has the id {dataset_id}, but sha256:{pin} is asked for: "
            "it was replaced by another one, so find the one you want or change the pin"
        )
        raise MismatchError(msg)
