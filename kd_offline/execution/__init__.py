"""Registry of executors by name: ours, and those of plug-ins."""

from __future__ import annotations

from collections.abc import Callable

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
