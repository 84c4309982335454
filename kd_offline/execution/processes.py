"""Executor that runs tasks in processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from itertools import islice
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.util import Finalize
from threading import Lock, Thread
from typing import Any, cast

from kd_offline.errors import UsageError, WorkerError
from kd_offline.execution.base import RETRIES, Executor, Item, Result, logged, portable

_AGAIN_S = 0.1
_POLL_S = 1.0  # how long a process may have ended before that is noticed
_PATIENCE_S = 20.0  # for a process without tasks to close what it has loaded
_GRACE_S = 5.0  # for a process to end before it is killed
_LOADED = ["torch"]  # what most tasks need, and takes seconds to load
OPTIMISING = "torch._dynamo"
"""What tasks need that optimise: PyTorch loads its compiler with the first optimiser."""
_UNGUARDED = 78  # exit code of a process that imports a script which starts processes
_BEGINNING = Lock()


def prepare(modules: Iterable[str] = ()) -> str:
    """Begin to load, in a process of its own, what workers need; return at once.

    Parameters
    ----------
    modules
        Names of what their tasks import beside PyTorch, such as :data:`OPTIMISING`. It is loaded
        once for all workers of this process; the first call decides.

    Returns
    -------
    str
        How workers start: by ``"forkserver"``, as forks of that process, which runs nothing else,
        while this one has threads; or by ``"spawn"``, where the system has no such thing, or there
        is no folder for its socket, whose path may have about 100 characters.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    from multiprocessing.forkserver import ensure_running

    multiprocessing.get_context("forkserver").set_forkserver_preload([*_LOADED, *modules])
    try:
        with _as_this_process():
            ensure_running()
    except OSError:
        return "spawn"
    return "forkserver"


@contextmanager
def _as_this_process() -> Iterator[None]:
    """Let a process that begins import what this one would, and leave an interrupt to this one.

    Without, Python imports first from the working folder, where anything may lie, and a process
    that is interrupted while it loads prints a traceback.
    """
    changed = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONSAFEPATH": "1"}
    with _BEGINNING, ExitStack() as stack:
        before = {name: os.environ.get(name) for name in changed}
        stack.callback(_set_environment, before)
        _set_environment(changed)
        if hasattr(signal, "pthread_sigmask"):
            resource_tracker.ensure_running()  # which would unblock the signal
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            stack.callback(signal.pthread_sigmask, signal.SIG_SETMASK, blocked)
        yield


def _set_environment(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


class Processes(Executor):
    """Runs tasks in new processes; tasks, items and results must be picklable.

    Processes start with the first tasks. If one is killed, its task is run again in a new one, up
    to three times, and the other processes go on. Each leads a process group, in which everything
    that its tasks start ends with it. Processes also end when this one does, however it ends.

    Parameters
    ----------
    workers
        Largest number of processes.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._running: dict[Connection, Any] = {}
        self._leaving: list[Any] = []  # processes that get no more tasks

    def map(self, task: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the result of every item, in order."""
        remaining = enumerate(items)
        running: dict[Connection, tuple[int, Any]] = {}
        for numbered_item in islice(remaining, self._workers):
            running[self._start_process(task)] = numbered_item
        for connection, numbered_item in running.items():
            _send(connection, numbered_item)
        return self._results(task, remaining, running)

    def close(self) -> None:
        """End all processes, and what they started."""
        for connection, process in self._running.items():
            process.terminate()
            connection.close()
        _join(self._leaving, _PATIENCE_S)
        for process in self._leaving:
            process.terminate()
        processes = [*self._running.values(), *self._leaving]
        _join(processes, _GRACE_S)
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()
            _kill_group(process.pid)
        self._running, self._leaving = {}, []

    def _start_process(self, task: Callable[[Item], Result]) -> Connection:
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            sys.stderr.flush()
            os._exit(_UNGUARDED)  # quietly: the process that has started this one tells
        start = prepare(self.modules)
        context: Any = multiprocessing.get_context(start)
        parent_end, child_end = multiprocessing.Pipe()
        arguments = child_end, task, dict(os.environ)
        for left in reversed(range(RETRIES + 1)):
            process = context.Process(target=_run_tasks, args=arguments)
            try:
                with _as_this_process() if start == "spawn" else nullcontext():
                    process.start()
                break
            except (EOFError, ConnectionError):  # what is forked was killed; it is begun again
                if not left:
                    msg = "worker processes are killed when they begin: free memory, and repeat"
                    raise WorkerError(msg) from None
                time.sleep(_AGAIN_S)
        child_end.close()
        self._running[parent_end] = process
        return parent_end

    def _results(
        self,
        task: Callable[[Any], Any],
        remaining: Iterator[tuple[int, Any]],
        running: dict[Connection, tuple[int, Any]],
    ) -> Iterator[Any]:
        finished: dict[int, tuple[Any, BaseException | None]] = {}
        losses: Counter[int] = Counter()
        idle: list[Connection] = []
        index, started = 0, len(running)
        while True:
            while idle and started < index + 2 * self._workers:
                connection = idle.pop()
                if (numbered_item := next(remaining, None)) is None:
                    connection.close()  # by which it ends
                    self._leaving.append(self._running.pop(connection))
                    continue
                running[connection], started = numbered_item, started + 1
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
                for ready in self._ready(running):
                    number, item = running.pop(ready)
                    try:
                        result, error, trace = _received(ready)
                    except (EOFError, ConnectionError):
                        code = self._bury(ready)
                        if code == _UNGUARDED:
                            raise _unguarded() from None
                        losses[number] += 1
                        if losses[number] <= RETRIES:
                            other = self._start_process(task)
                            running[other] = number, item
                            _send(other, running[other])
                        else:
                            finished[number] = None, _worker_error(code)
                    else:
                        finished[number] = result, logged(error, trace, number, self.logs)
                        idle.append(ready)

    def _ready(self, running: Iterable[Connection]) -> list[Connection]:
        """Wait for results, or for processes that ended without; return their connections.

        What a task forked may hold the other end of a connection, which then stays open when the
        process of the task ends.
        """
        while True:
            if ready := cast(list[Connection], wait(running, _POLL_S)):
                return ready
            if ended := [each for each in running if not self._running[each].is_alive()]:
                return ended

    def _bury(self, connection: Connection) -> int | None:
        """Forget a process that ended by itself; return its exit code."""
        process = self._running.pop(connection)
        connection.close()
        process.join()
        _kill_group(process.pid)
        code: int | None = process.exitcode
        return code


def _join(processes: Iterable[Any], seconds: float) -> None:
    """Wait until processes have ended, for so long at most, whatever their number."""
    end = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))


def _kill_group(leader: int) -> None:
    """Kill what the tasks of a process that has ended have started and left."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, signal.SIGKILL)


def _received(connection: Connection) -> Any:
    """Return what a process has sent; raise ``EOFError`` if it ended without."""
    if not connection.poll():
        raise EOFError
    return connection.recv()


def _send(connection: Connection, numbered: tuple[int, Any]) -> None:
    with suppress(ConnectionError):  # it ended, which is seen when its result is waited for
        connection.send(numbered[1])


def _worker_error(code: int | None) -> WorkerError:
    cause = f"was killed by signal {-code}" if code and code < 0 else f"ended with exit code {code}"
    msg = (
        f"a worker process {cause} before its task was done, and so did those that were to run it "
        f"again ({RETRIES + 1} in all): repeat the command, with fewer workers"
    )
    return WorkerError(msg)


def _unguarded() -> UsageError:
    return UsageError(
        "the script begins work in processes when it is imported, and every process imports it: "
        "put the call below if __name__ == '__main__':"
    )


def _run_tasks(
    connection: Connection, task: Callable[[Any], Any], environment: dict[str, str]
) -> None:
    """Run tasks from the connection until it is closed."""
    os.environ.clear()  # the process that was forked may have begun with another environment
    os.environ.update(environment)
    try:
        if hasattr(os, "setpgid"):
            _end_with_parent()
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        while True:
            item = connection.recv()
            result: Any = None
            failed: Exception | None = None
            trace = ""
            try:
                result = task(item)
            except Exception as error:
                failed, trace = portable(error), traceback.format_exc()
            connection.send((result, failed, trace))
    except (EOFError, ConnectionError):
        return  # the parent process has no more tasks, or has ended
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGTERM)  # the parent process reports the error


def _end_with_parent() -> None:
    """Lead a process group; end like on Ctrl-C when terminated, or when the parent process ends.

    So environments are closed. What is left of the group is killed by the parent process, or here
    where that has ended.
    """
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, _interrupt)
    os.register_at_fork(after_in_child=partial(signal.signal, signal.SIGTERM, signal.SIG_DFL))
    parent = multiprocessing.parent_process()
    assert parent is not None and parent.pid is not None  # noqa: S101, PT018 - it started this one
    number = parent.pid

    def watch() -> None:
        # What the parent forked may hold its end of the pipe by which its end is noticed.
        while not wait([parent.sentinel], _POLL_S) and _exists(number):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GRACE_S)
        os.killpg(0, signal.SIGKILL)

    def kill_group_of_no_parent() -> None:
        if not parent.is_alive():
            os.killpg(0, signal.SIGKILL)

    Thread(target=watch, name="parent", daemon=True).start()
    Finalize(None, kill_group_of_no_parent, exitpriority=-1000)  # after all others


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _interrupt(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)  # closing is not interrupted
    raise KeyboardInterrupt
