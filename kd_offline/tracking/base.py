"""The observer protocol: how an operation reports its progress, metrics and end."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from kd_offline.errors import ObserverWarning, UserCodeError
from kd_offline.user_code import calling

METHODS = ("start", "progress", "metrics", "message", "end")
"""Names of the methods of an observer."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation that starts.

    Parameters
    ----------
    name
        Such as ``distill``; the name of the command, where there is one.
    settings
        Its arguments as JSON values: the recipe of a distillation, for instance.
    output
        The folder or file that it writes or works on; None where there is none.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    output: Path | None = None

    @property
    def title(self) -> str:
        """Name and output, such as ``distill run``."""
        return self.name if self.output is None else f"{self.name} {self.output.resolve().name}"


class Observer(Protocol):
    """Receives the events of an operation. A subclass overrides the methods that it needs.

    All methods are called by the thread that called the operation, ``start`` first and ``end``
    last. An observer may be used for several operations, one after another.
    """

    def start(self, operation: Operation) -> None:
        """Receive the start of an operation."""
        return

    def progress(self, done: int, total: int, unit: str) -> None:
        """Receive that ``done`` of ``total`` are done; ``unit`` names them, such as ``epochs``."""
        return

    def metrics(self, step: int, values: Mapping[str, float], *, series: str = "") -> None:
        """Receive measured values.

        Parameters
        ----------
        step
            Position on the x-axis: an epoch, joint steps, episodes, a trial.
        values
            By name, such as ``train/loss``; docs/guide/tracking.md lists the names. A value may be
            NaN or infinite.
        series
            Which of several curves of one operation they belong to, such as ``seed 0``; empty
            where there is one.
        """
        return

    def message(self, text: str) -> None:
        """Receive a note for the user, one line."""
        return

    def end(self, result: object = None, error: BaseException | None = None) -> None:
        """Receive the result of the operation, or the error that ended it."""
        return


class NullObserver(Observer):
    """Ignores all events."""


SILENT = NullObserver()


class FunctionObserver(Observer):
    """Calls a function for each event: ``FunctionObserver(progress=print)``.

    Parameters
    ----------
    start, progress, metrics, message, end
        Called with the arguments of the method of that name; None: not called.
    """

    def __init__(
        self,
        *,
        start: Callable[..., object] | None = None,
        progress: Callable[..., object] | None = None,
        metrics: Callable[..., object] | None = None,
        message: Callable[..., object] | None = None,
        end: Callable[..., object] | None = None,
    ) -> None:
        self._start, self._progress, self._metrics = start, progress, metrics
        self._message, self._end = message, end

    def start(self, operation: Operation) -> None:
        """Call ``start``."""
        if self._start is not None:
            self._start(operation)

    def progress(self, done: int, total: int, unit: str) -> None:
        """Call ``progress``."""
        if self._progress is not None:
            self._progress(done, total, unit)

    def metrics(self, step: int, values: Mapping[str, float], *, series: str = "") -> None:
        """Call ``metrics``."""
        if self._metrics is not None:
            self._metrics(step, values, series=series)

    def message(self, text: str) -> None:
        """Call ``message``."""
        if self._message is not None:
            self._message(text)

    def end(self, result: object = None, error: BaseException | None = None) -> None:
        """Call ``end``."""
        if self._end is not None:
            self._end(result, error)


class Observers(Observer):
    """Several observers as one. One that fails is named in a warning and no longer called.

    Parameters
    ----------
    observers
        The user's observers; any error of theirs is caught.
    files
        Observers that write files of the operation itself, such as ``metrics.jsonl`` of a run.
        They are called first, and their errors end the operation.
    """

    def __init__(self, observers: Sequence[Observer] = (), files: Sequence[Observer] = ()) -> None:
        self._observers, self._files = list(observers), tuple(files)
        self.result: object = None  # set by the operation, passed to ``end``

    def start(self, operation: Operation) -> None:
        """Call ``start`` of every observer."""
        self._call_all("start", operation)

    def progress(self, done: int, total: int, unit: str) -> None:
        """Call ``progress`` of every observer."""
        self._call_all("progress", done, total, unit)

    def metrics(self, step: int, values: Mapping[str, float], *, series: str = "") -> None:
        """Call ``metrics`` of every observer."""
        self._call_all("metrics", step, values, series=series)

    def message(self, text: str) -> None:
        """Call ``message`` of every observer."""
        self._call_all("message", text)

    def end(self, result: object = None, error: BaseException | None = None) -> None:
        """Call ``end`` of every observer."""
        self._call_all("end", result, error)

    def _call_all(self, method: str, *arguments: Any, **options: Any) -> None:
        for observer in self._files:
            getattr(observer, method)(*arguments, **options)
        for observer in tuple(self._observers):
            try:
                with calling(f"observer {type(observer).__name__}", method):
                    getattr(observer, method)(*arguments, **options)
            except UserCodeError as error:
                self._observers = [one for one in self._observers if one is not observer]
                _warn(f"{error}; it is left out from here on, and the work goes on")


def counting(observer: Observer, total: int, unit: str) -> Callable[[], None]:
    """Return a function that reports one more of ``total`` as done at every call."""
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        observer.progress(done, total, unit)

    observer.progress(done, total, unit)
    return tick


@contextmanager
def observed(
    operation: Operation, observers: Sequence[Observer], files: Sequence[Observer] = ()
) -> Iterator[Observers]:
    """Report the start and the end of an operation to observers; yield them as one observer.

    ``files``: see :class:`Observers`. The operation stores its return value in ``result``.
    """
    observers_as_one = Observers(observers, files)
    observers_as_one.start(operation)
    try:
        yield observers_as_one
    except BaseException as error:
        observers_as_one.end(None, error)
        raise
    observers_as_one.end(observers_as_one.result)


def _warn(text: str) -> None:
    try:
        warnings.warn(text, ObserverWarning, stacklevel=2)
    except ObserverWarning:  # warnings are errors here, but a run is never lost to an observer
        _LOG.warning("%s", text)
