"""Registry of executors by name: ours, and those of plug-ins."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from kd_offline.errors import UsageError
from kd_offline.execution.base import Executor, Resources
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
    needs: Resources | None = None,
    folders: Iterable[Path] = (),
    files: Iterable[Path] = (),
    logs: Path | None = None,
    modules: Sequence[str] = (),
    check: Callable[[], object] | None = None,
) -> Executor:
    """Return the executor of a place: ``processes:4``, ``ray`` or ``ray://HOST:PORT``.

    Parameters
    ----------
    place
        ``NAME:WORKERS`` for the executors of this machine; without a number, as many as it has
        processors. ``ray`` is the Ray cluster of this machine, ``ray://HOST:PORT`` another one that
        it belongs to; ``,gpus=0.25,memory_mb=4000`` behind either says what a task needs there.
    needs
        What a task needs, for Ray, where the place does not say otherwise. None: one core.
    folders, files
        Folders that tasks write to, and what they read: every machine must see them.
    logs
        Folder for the tracebacks of tasks that fail in other processes.
    modules
        Names of what tasks import, which processes of this machine load once for all.
    check
        Ray calls it once on every node before the first task, such as what opens an address; it
        raises where tasks cannot run. Places on this machine do not call it.

    Raises
    ------
    UnknownNameError, MissingExtraError
        There is no such executor, or its library is not installed.
    UsageError, WorkerError
        The number of workers is none, there is no such cluster, or a node cannot run the tasks.
    """
    where, *stated = place.split(",")
    name, _, rest = where.partition(":")
    if stated and name != "ray":
        msg = f"{place!r} says what a task needs, which only Ray goes by: give {where!r} alone"
        raise UsageError(msg)
    needs = _with_stated(needs or Resources(), stated, place)
    if name == "ray":
        from kd_offline.execution.ray import Ray

        address = rest.removeprefix("//")
        workers: Executor = Ray(
            address=address, needs=needs, folders=folders, files=files, check=check
        )
    elif rest and not (rest.isascii() and rest.isdigit()):
        msg = f"{place!r} is no place: give processes:4, serial, ray or ray://HOST:PORT"
        raise UsageError(msg)
    else:
        workers = executor(name, int(rest) if rest else os.cpu_count() or 1)
    workers.logs, workers.modules = logs, modules
    return workers


_NEEDS: dict[str, Callable[[str], float]] = {"cores": int, "gpus": float, "memory_mb": int}


def _with_stated(needs: Resources, stated: Iterable[str], place: str) -> Resources:
    """Return what a task needs, with what a place states behind commas, such as ``gpus=0.25``."""
    for part in stated:
        name, _, text = part.partition("=")
        try:
            number = _NEEDS[name](text)
            needs = Resources(**{**asdict(needs), name: number})
        except (KeyError, ValueError):
            msg = (
                f"{part!r} in {place!r} is no number that a task needs: give cores, gpus or "
                "memory_mb, as in ray,gpus=0.25,memory_mb=4000"
            )
            raise UsageError(msg) from None
    return needs
