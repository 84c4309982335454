"""Limits on what a dataset may ask of its reader: docs/format.md, section 5.

Digests show that nothing was altered. They do not show that the author meant well, so these
limits are checked before anything is allocated or decoded.
"""

from __future__ import annotations

import os

from kd_offline.errors import UsageError

MAX_MANIFEST_BYTES = 32 << 20  # some 150,000 files
MAX_METADATA_BYTES = 64 << 10
# Decoded bytes of one range of rows, over all arrays of its grid. Streaming holds that much.
MAX_RANGE_BYTES = 512 << 20
# Only a few constant arrays are compressed further, never a whole dataset.
MAX_EXPANSION = 1000
FREE_BYTES = 1 << 30
_UNCHECKED_BYTES = 256 << 20


def expansion_problem(decoded: int, stored: int) -> str | None:
    """Return why ``stored`` bytes may not decode to ``decoded`` bytes, or None where they may."""
    if decoded <= FREE_BYTES + MAX_EXPANSION * stored:
        return None
    return (
        f"{stored:,} stored bytes claim to decode to {decoded:,}, more than {MAX_EXPANSION} "
        f"times as many and {FREE_BYTES:,}"
    )


def check_memory(
    needed: int, what: str, remedy: str = "read fewer rows, episodes or arrays at a time"
) -> None:
    """Raise an error if more memory is needed than is available.

    Raises
    ------
    UsageError
        ``needed`` bytes are more than this machine has or this process may use.
    """
    if needed < _UNCHECKED_BYTES:
        return
    available = _available_memory()
    if available is not None and needed > available:
        msg = (
            f"{what} need {needed / 1e9:,.1f} GB of memory, but there are "
            f"{available / 1e9:,.1f}: {remedy}"
        )
        raise UsageError(msg)


def _available_memory() -> int | None:
    """Return the physical memory or the process's own limit, in bytes; None if not known."""
    try:
        known = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, ValueError, OSError):
        return None
    try:
        import resource
    except ImportError:
        return known[0]
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return min([*known, limit] if limit != resource.RLIM_INFINITY else known)
