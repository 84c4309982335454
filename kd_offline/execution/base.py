"""The executor protocol: map a task over items in parallel; results keep the order of items."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Executor(Protocol):
    """Maps a task over items, several at a time. A ``with`` block ends all workers.

    A task may depend on its item alone, so results do not depend on the executor.
    """

    def map(self, task: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the result of every item, in order.

        The first tasks start at once. At most twice as many tasks as workers are started before
        their results are taken.

        Raises
        ------
        Exception
            By the iterator: the error that the task of an item raised. Running tasks are finished
            or ended, and no others are started.
        WorkerError
            By the iterator: a worker ended before its task did.
        """
        ...

    def close(self) -> None:
        """End all workers; tasks that have not started are dropped."""
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
    """Runs one task after another, in the thread that takes the results."""

    def __init__(self, workers: int = 1) -> None:
        del workers  # always one

    def map(self, task: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the result of every item; each is computed when it is taken."""
        return map(task, items)

    def close(self) -> None:
        """Do nothing."""
