"""The executor protocol: map a task over items in parallel; results keep the order of items."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeVar

from kd_offline.errors import KdOfflineError, WorkerError
from kd_offline.files import make_folder, write_file
from kd_offline.user_code import described

Item = TypeVar("Item")
Result = TypeVar("Result")

RETRIES = 3
"""How often a task is run again because its worker or node died."""


@dataclass(frozen=True, slots=True)
class Resources:
    """Processors and GPUs that a task needs, for executors that place tasks on machines."""

    cores: int = 1
    memory_mb: int | None = None
    gpus: float = 0.0  # 0.25: four tasks share one

    @classmethod
    def of(cls, threads: int, accelerator: str = "cpu") -> Resources:
        """Return the resources of a recipe: a core for each thread, and a GPU if it names one."""
        return cls(cores=threads, gpus=1.0 if accelerator == "cuda" else 0.0)

    def __post_init__(self) -> None:
        divided = self.gpus > 1 and self.gpus % 1 > 0  # more than one are not shared
        if self.cores < 1 or (self.memory_mb or 1) < 1 or not 0 <= self.gpus < math.inf or divided:
            msg = f"a task cannot need {self}: give 1 core or more, and 0 to 1 GPU or whole ones"
            raise ValueError(msg)


class Executor(Protocol):
    """Maps a task over items, several at a time. A ``with`` block ends all workers.

    A task may depend on its item alone, so results do not depend on the executor. Where workers can
    die, a task whose worker dies is run again, so it must be one that can be repeated.
    """

    logs: Path | None = None
    """Folder for the tracebacks of tasks that failed in other processes; None: not kept."""

    modules: Sequence[str] = ()
    """Names of what tasks import, which may be loaded once for all workers of a machine."""

    several_machines: bool = False
    """Whether tasks may run on machines that do not see each other's processes."""

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
            By the iterator: a worker ended before its task did, also when it was run again.
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


def logged(
    error: BaseException | None, trace: str, number: int, folder: Path | None
) -> BaseException | None:
    """Write the traceback of the error of a task to a file, and name that in the error.

    ``number``: of the task, counted from 0. ``folder``: None for no file.
    """
    if folder is None or error is None:
        return error
    make_folder(folder)
    file = folder / f"task-{number + 1}.log"
    write_file(file, trace)
    where = f"traceback of task {number + 1}: {str(file)!r}"
    if isinstance(error, KdOfflineError):
        error.args = (f"{error.args[0]} ({where})", *error.args[1:])
    else:
        error.add_note(where)
    return error
