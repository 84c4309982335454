"""Tasks in processes of this machine."""

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

_LAST_S = 5.0  # that a process has to end before it is killed


class Processes(Executor):
    """Carries out tasks in new processes; tasks, items and results must be possible to pickle.

    Processes begin with the first tasks. One that is killed is an error for its task alone; the
    others go on.

    Parameters
    ----------
    workers
        Number of processes at most.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._running: dict[Connection, Any] = {}

    def map(self, task: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the result of every item, in order."""
        remaining = enumerate(items)
        at_work = {self._begun(task): first for first in islice(remaining, self._workers)}
        for connection, first in at_work.items():
            _send(connection, first)
        indices = {connection: index for connection, (index, _) in at_work.items()}
        return self._results(remaining, indices)

    def close(self) -> None:
        """End all processes."""
        for connection, process in self._running.items():
            process.terminate()
            connection.close()
        for process in self._running.values():
            process.join(_LAST_S)
            if process.is_alive():
                process.kill()
                process.join()
        self._running = {}

    def _begun(self, task: Callable[[Item], Result]) -> Connection:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, task))
        process.start()
        theirs.close()
        self._running[ours] = process
        return ours

    def _results(
        self, remaining: Iterator[tuple[int, Any]], at_work: dict[Connection, int]
    ) -> Iterator[Any]:
        done: dict[int, tuple[Any, BaseException | None]] = {}
        idle: list[Connection] = []
        index, given = 0, len(at_work)
        while True:
            while idle and given < index + 2 * self._workers:
                connection = idle.pop()
                if (following := next(remaining, None)) is None:
                    self._release(connection)
                    continue
                at_work[connection], given = given, given + 1
                _send(connection, following)
            if index in done:
                result, error = done.pop(index)
                if error is not None:
                    raise error
                yield result
                index += 1
            elif not at_work:
                return
            else:
                for ready in cast(list[Connection], wait(list(at_work))):
                    done[at_work.pop(ready)] = self._received(ready)
                    if ready in self._running:
                        idle.append(ready)

    def _release(self, connection: Connection) -> None:
        """Let a process end that has no more to do."""
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
            return None, _ended(process.exitcode)
        return result, error


def _send(connection: Connection, numbered: tuple[int, Any]) -> None:
    with suppress(BrokenPipeError):  # it ended, which is seen when its result is waited for
        connection.send(numbered[1])


def _ended(code: int | None) -> WorkerError:
    how = f"was killed by signal {-code}" if code and code < 0 else f"ended with exit code {code}"
    msg = f"a worker process {how} before its task was done: do it again, with fewer workers"
    return WorkerError(msg)


def _work(connection: Connection, task: Callable[[Any], Any]) -> None:
    """Carry out tasks until there are no more."""
    try:
        while True:
            item = connection.recv()
            result: Any = None
            failed: Exception | None = None
            try:
                result = task(item)
            except Exception as error:
                failed = _portable(error)
            connection.send((result, failed))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return  # whoever gave the tasks says what is to be said


def _portable(error: Exception) -> Exception:
    """Return an error that another process can read."""
    try:
        same = pickle.loads(pickle.dumps(error))
    except Exception:
        same = None
    if type(same) is type(error) and str(same) == str(error):
        return error
    if isinstance(error, KdOfflineError):
        made = WorkerError(error.args[0], *error.remedies)
        made.exit_code = error.exit_code
        return made
    return WorkerError(f"a task failed in a worker process: {described(error)}; correct it")
