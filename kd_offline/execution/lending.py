"""What a process loads once for all tasks of a command: environments, experts, students."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.util import Finalize
from typing import Any, TypeVar

Loaded = TypeVar("Loaded")


@dataclass(frozen=True, slots=True)
class _Idle:
    """What this process has loaded for tasks of one command, while no task uses it."""

    command: str = ""
    loaded: list[tuple[ExitStack, Any]] = field(default_factory=list)


@dataclass(slots=True)
class _Process:
    """What this process has loaded for its latest command."""

    idle: _Idle = field(default_factory=_Idle)

    def close(self) -> None:
        """Close everything that no task uses."""
        while self.idle.loaded:
            self.idle.loaded.pop()[0].close()


_PROCESS = _Process()


@contextmanager
def lent(command: str, load: Callable[[], AbstractContextManager[Loaded]]) -> Iterator[Loaded]:
    """Lend what this process has loaded for an earlier task of a command, or load it now.

    Tasks that run at the same time get one each, also those of several commands. After a failure,
    what the task had is closed.

    Parameters
    ----------
    command
        A text that differs between calls of an operation, such as a random one. What was loaded
        for another command is closed.
    load
        Returns what is lent, as a context manager that closes it.
    """
    idle = _PROCESS.idle
    if idle.command != command:
        if not idle.command:  # not on import: a new worker forgets what was registered before it
            Finalize(None, _PROCESS.close, exitpriority=0)
        _PROCESS.close()
        idle = _PROCESS.idle = _Idle(command)
    try:
        stack, loaded = idle.loaded.pop()
    except IndexError:
        stack = ExitStack()
        loaded = stack.enter_context(load())
    with stack.pop_all() as used:  # what failed is not used again
        yield loaded
        if idle is _PROCESS.idle:  # or tasks of another command have begun meanwhile
            idle.loaded.append((used.pop_all(), loaded))


def close_lent() -> None:
    """Close what tasks that ran in this process have loaded; for the end of a command."""
    _PROCESS.close()
