"""Conformance check for executors."""

from __future__ import annotations

from collections.abc import Callable

from kd_offline.execution.base import Executor
from kd_offline.testing.environments import ConformanceError


def check_executor(make: Callable[[int], Executor]) -> None:
    """Raise :class:`ConformanceError` unless an executor gives the results of a loop.

    Parameters
    ----------
    make
        Returns a new executor with so many workers; called a few times.

    Notes
    -----
    The rules, by the name an error begins with. ``order``: results come in the order of the items,
    whatever the number of workers, also of a second map. ``errors``: what a task raises is raised
    where its result would be. ``empty``: no items, no results.
    """
    for workers in (1, 3):
        with make(workers) as executor:
            for n in (7, 2):
                doubled = list(executor.map(_doubled, range(n)))
                _rule(
                    "order",
                    doubled == [2 * k for k in range(n)],
                    f"{workers} workers: {doubled}",
                )
            _rule("empty", list(executor.map(_doubled, ())) == [], "there are results of nothing")
        with make(workers) as executor:
            results = executor.map(_third_fails, range(5))
            first = [next(results), next(results)]
            try:
                next(results)
                failed = False
            except ZeroDivisionError:
                failed = True
            _rule(
                "errors", failed and first == [0, 1], f"{workers} workers: {first}, then no error"
            )


def _doubled(number: int) -> int:
    return 2 * number


def _third_fails(number: int) -> int:
    return number if number != 2 else number // 0


def _rule(name: str, holds: bool, detail: str) -> None:
    if not holds:
        raise ConformanceError(name, detail)
