"""One way to carry out many tasks: results come in the order of the tasks, wherever they ran."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Executor(Protocol):
    """Maps a task over items, several at a time. Used in a ``with`` block, which ends all workers.

    Results do not depend on the executor: a task depends on its item alone.
    """

    def map(self, task: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the result of every item, in order.

        The first tasks begin at once; no more than twice as many as there are workers begin before
        their results are taken.

        Raises
        ------
        Exception
            By the iterator: what the task of an item raised. Tasks that run are finished or ended,
            and others are not begun.
        WorkerError
            By the iterator: a worker ended before its task did.
        """
        ...

    def close(self) -> None:
        """End all workers; tasks that have not begun are dropped."""
        ...

    def __enter__(self) -> Executor:
        """Return the executor itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End all workers."""
        self.close()


class Serial(Executor):
    """Carries out one task after another, in the thread that asks for the results."""

    def __init__(self, workers: int = 1) -> None:
        del workers  # there is one

    def map(self, task: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the result of every item, each when it is asked for."""
        return map(task, items)

    def close(self) -> None:
        """Do nothing."""
