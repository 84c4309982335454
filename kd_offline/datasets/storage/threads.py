"""Map a function over items on a few threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from kd_offline.execution.base import Executor, Item, Result, Serial
from kd_offline.execution.threads import Threads


def parallel_map(
    action: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> list[Result]:
    """Return ``action`` of every item, in order; the first error stops what has not begun."""
    work = list(items)
    alone = threads == 1 or len(work) < 2
    executor: Executor = Serial() if alone else Threads(min(threads, len(work)))
    with executor:
        return list(executor.map(action, work))
