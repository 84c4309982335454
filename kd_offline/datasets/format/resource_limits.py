"""How much a dataset may ask of its reader: docs/format.md, section 5.

Digests say that nothing was altered, not that whoever wrote the file meant well. These bounds hold
before anything is allocated or decoded.
"""

from __future__ import annotations

import os

from kd_offline.errors import UsageError

MAX_MANIFEST_BYTES = 32 << 20  # some 150,000 files
MAX_METADATA_BYTES = 64 << 10
# Decoded bytes of one range of rows, over all arrays that share its grid: what streaming holds.
MAX_RANGE_BYTES = 512 << 20
# Stored values never shrink as far on the whole; only a few constant arrays do.
MAX_EXPANSION = 1000
FREE_BYTES = 1 << 30
_UNCHECKED_BYTES = 256 << 20


def expansion_problem(decoded: int, stored: int) -> str | None:
    """Return what is wrong with a dataset of ``decoded`` bytes in ``stored`` ones, or None."""
    if decoded <= FREE_BYTES + MAX_EXPANSION * stored:
        return None
    return (
        f"{stored:,} stored bytes claim to decode to {decoded:,}, more than {MAX_EXPANSION} "
        f"times as many and {FREE_BYTES:,}"
    )


def check_memory(
    needed: int, what: str, remedy: str = "read fewer rows, episodes or arrays at a time"
) -> None:
    """Refuse what cannot fit into memory, rather than being killed half-way.

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
    """Return the physical memory or the process's own limit, in bytes, where they are known."""
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
