"""The same small task many times, on a few threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(action: Callable[[Item], Result], items: Iterable[Item], threads: int) -> list[Result]:
    """Return ``action`` of every item, in order; the first error ends what has not begun."""
    work = list(items)
    if threads == 1 or len(work) < 2:
        return [action(item) for item in work]
    pool = ThreadPoolExecutor(min(threads, len(work)))
    try:
        return list(pool.map(action, work))
    finally:
        pool.shutdown(cancel_futures=True)
