"""Executor that runs tasks in processes of this machine."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from multiprocessing.connection import Connection, wait
from typing import Any, cast

from kd_offline.errors import KdOfflineError, WorkerError
from kd_offline.execution.base import Executor, Item, Result
from kd_offline.user_code import described

_GRACE_S = 5.0  # for a process to end before it is killed


class Processes(Executor):
    """Runs tasks in new processes; tasks, items and results must be picklable.

    Processes start with the first tasks. If one is killed, its task fails with an error and the
    other processes go on.

    Parameters
    ----------
    workers
        Largest number of processes.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._running: dict[Connection, Any] = {}

    def map(self, task: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the result of every item, in order."""
        remaining = enumerate(items)
        first_items = {
            self._start_process(task): numbered_item
            for numbered_item in islice(remaining, self._workers)
        }
        for connection, numbered_item in first_items.items():
            _send(connection, numbered_item)
        indices = {connection: index for connection, (index, _) in first_items.items()}
        return self._results(remaining, indices)

    def close(self) -> None:
        """End all processes."""
        for connection, process in self._running.items():
            process.terminate()
            connection.close()
        for process in self._running.values():
            process.join(_GRACE_S)
            if process.is_alive():
                process.kill()
                process.join()
        self._running = {}

    def _start_process(self, task: Callable[[Item], Result]) -> Connection:
        context = multiprocessing.get_context("spawn")
        parent_end, child_end = context.Pipe()
        process = context.Process(target=_run_tasks, args=(child_end, task))
        process.start()
        child_end.close()
        self._running[parent_end] = process
        return parent_end

    def _results(
        self, remaining: Iterator[tuple[int, Any]], running: dict[Connection, int]
    ) -> Iterator[Any]:
        finished: dict[int, tuple[Any, BaseException | None]] = {}
        idle: list[Connection] = []
        index, started = 0, len(running)
        while True:
            while idle and started < index + 2 * self._workers:
                connection = idle.pop()
                if (numbered_item := next(remaining, None)) is None:
                    self._release(connection)
                    continue
                running[connection], started = started, started + 1
                _send(connection, numbered_item)
            if index in finished:
                result, error = finished.pop(index)
                if error is not None:
                    raise error
                yield result
                index += 1
            elif not running:
                return
            else:
                for ready in cast(list[Connection], wait(list(running))):
                    finished[running.pop(ready)] = self._received(ready)
                    if ready in self._running:
                        idle.append(ready)

    def _release(self, connection: Connection) -> None:
        """Close the connection of a process that has no more tasks, and wait for its end."""
        connection.close()
        self._running.pop(connection).join()

    def _received(self, connection: Connection) -> tuple[Any, BaseException | None]:
        """Return the result of a task, or its error."""
        try:
            result, error = connection.recv()
        except EOFError:
            process = self._running.pop(connection)
            connection.close()
            process.join()
            return None, _worker_error(process.exitcode)
        return result, error


def _send(connection: Connection, numbered: tuple[int, Any]) -> None:
    with suppress(BrokenPipeError):  # it ended, which is seen when its result is waited for
        connection.send(numbered[1])


def _worker_error(code: int | None) -> WorkerError:
    cause = f"was killed by signal {-code}" if code and code < 0 else f"ended with exit code {code}"
    msg = f"a worker process {cause} before its task was done: do it again, with fewer workers"
    return WorkerError(msg)


def _run_tasks(connection: Connection, task: Callable[[Any], Any]) -> None:
    """Run tasks from the connection until it is closed."""
    try:
        while True:
            item = connection.recv()
            result: Any = None
            failed: Exception | None = None
            try:
                result = task(item)
            except Exception as error:
                failed = portable(error)
            connection.send((result, failed))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return  # the parent process reports the error


def portable(error: Exception) -> Exception:
    """Return an error that can be unpickled in another process."""
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:
        copy = None
    if type(copy) is type(error) and str(copy) == str(error):
        return error
    if isinstance(error, KdOfflineError):
        portable = WorkerError(error.args[0], *error.remedies)
        portable.exit_code = error.exit_code
        return portable
    return WorkerError(f"a task failed in a worker process: {described(error)}; correct it")
