"""Registry of executors by name: ours, and those of plug-ins."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from kd_offline.errors import UsageError
from kd_offline.execution.base import Executor
from kd_offline.registry import Registry

EXECUTORS: Registry[Callable[[int], Executor]] = Registry(
    "executor",
    "kd_offline.executors",
    {
        "serial": "kd_offline.execution.base:Serial",
        "threads": "kd_offline.execution.threads:Threads",
        "processes": "kd_offline.execution.processes:Processes",
        "ray": "kd_offline.execution.ray:Ray",
    },
)
"""Each is called with the number of workers."""


def executor(name: str, workers: int) -> Executor:
    """Return an executor with this number of workers.

    Raises
    ------
    UnknownNameError
        There is no executor of this name.
    UsageError
        ``workers`` is below 1.
    """
    if workers < 1:
        msg = f"an executor cannot have {workers} workers: give 1 or more"
        raise UsageError(msg)
    return EXECUTORS.load(name)(workers)


def executor_on(
    place: str,
    *,
    cores: int = 1,
    folders: Iterable[Path] = (),
    files: Iterable[Path] = (),
    logs: Path | None = None,
) -> Executor:
    """Return the executor of a place: ``processes:4``, ``ray`` or ``ray://HOST:PORT``.

    Parameters
    ----------
    place
        ``NAME:WORKERS`` for the executors of this machine; without a number, as many as it has
        processors. ``ray`` is the Ray cluster of this machine, ``ray://HOST:PORT`` another one that
        it belongs to.
    cores
        Of a task, on Ray.
    folders, files
        Folders that tasks write to, and what they read: every machine must see them.
    logs
        Folder for the tracebacks of tasks that failed on Ray.

    Raises
    ------
    UnknownNameError, MissingExtraError
        There is no such executor, or its library is not installed.
    UsageError
        The number of workers is none, there is no such cluster, or a node cannot run the tasks.
    """
    name, _, rest = place.partition(":")
    if name == "ray":
        from kd_offline.execution.ray import Ray

        address = rest.removeprefix("//")
        return Ray(address=address, cores=cores, folders=folders, files=files, logs=logs)
    if rest and not (rest.isascii() and rest.isdigit()):
        msg = f"{place!r} is no place: give processes:4, serial, ray or ray://HOST:PORT"
        raise UsageError(msg)
    return executor(name, int(rest) if rest else os.cpu_count() or 1)
