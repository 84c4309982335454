"""Executor that runs tasks in threads of this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from kd_offline.execution.base import Executor, Item, Result


class Threads(Executor):
    """Runs tasks in threads; an error is raised after the running tasks have finished.

    Parameters
    ----------
    workers
        Number of threads.
    initialise
        Called first by every thread.
    """

    def __init__(self, workers: int, initialise: Callable[[], object] | None = None) -> None:
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers, "worker", initialise)

    def map(self, task: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the result of every item, in order."""
        remaining = iter(items)
        waiting = deque(
            self._pool.submit(task, item) for item in islice(remaining, self._workers + 1)
        )
        return self._results(task, remaining, waiting)

    def close(self) -> None:
        """Drop tasks that have not started, and wait for the others."""
        self._pool.shutdown(cancel_futures=True)

    def _results(
        self,
        task: Callable[[Item], Result],
        remaining: Iterator[Item],
        waiting: deque[Future[Result]],
    ) -> Iterator[Result]:
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(self._pool.submit(task, item) for item in islice(remaining, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()
