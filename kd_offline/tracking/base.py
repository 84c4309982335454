"""What an operation tells while it runs, and the one protocol of who listens."""

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
"""Of an observer."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation that begins.

    Parameters
    ----------
    name
        Such as ``distill``; the name of the command, where there is one.
    settings
        What it was asked for, as JSON: the recipe of a distillation, for instance.
    output
        The folder or file that it writes or works on; None where there is none.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    output: Path | None = None

    @property
    def title(self) -> str:
        """Name and output in a few words: ``distill run``."""
        return self.name if self.output is None else f"{self.name} {self.output.resolve().name}"


class Observer(Protocol):
    """Listens to an operation. A subclass overrides what it wants; the rest does nothing.

    All methods are called by the thread that called the operation, ``start`` first and ``end``
    last. An observer may be given to several operations, one after another.
    """

    def start(self, operation: Operation) -> None:
        """Take note that an operation begins."""
        return

    def progress(self, done: int, total: int, unit: str) -> None:
        """Take note that ``done`` of ``total`` are done; ``unit``: of what, such as ``epochs``."""
        return

    def metrics(self, step: int, values: Mapping[str, float], *, series: str = "") -> None:
        """Take measured values.

        Parameters
        ----------
        step
            Where they belong on the x-axis: an epoch, joint steps, episodes, a trial.
        values
            By name, such as ``train/loss``; docs/guide/tracking.md lists the names. A value may be
            NaN or infinite.
        series
            Which of several curves of one operation they belong to, such as ``seed 0``; empty
            where there is one.
        """
        return

    def message(self, text: str) -> None:
        """Take a note for people, one line."""
        return

    def end(self, result: object = None, error: BaseException | None = None) -> None:
        """Take what the operation returns, or the error that ended it."""
        return


class NullObserver(Observer):
    """Listens to nothing."""


SILENT = NullObserver()


class FunctionObserver(Observer):
    """Calls functions of yours: ``FunctionObserver(progress=print)``.

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
    """Several observers as one. One that fails is named in a warning and left out from then on.

    Parameters
    ----------
    observers
        Of the caller: code that is not ours.
    files
        Observers that write what the operation itself needs, such as ``metrics.jsonl`` of a run:
        they are called first, and their errors end the operation.
    """

    def __init__(self, observers: Sequence[Observer] = (), files: Sequence[Observer] = ()) -> None:
        self._observers, self._files = list(observers), tuple(files)
        self.result: object = None  # what ``end`` hands on, set by the operation

    def start(self, operation: Operation) -> None:
        """Tell every observer."""
        self._tell("start", operation)

    def progress(self, done: int, total: int, unit: str) -> None:
        """Tell every observer."""
        self._tell("progress", done, total, unit)

    def metrics(self, step: int, values: Mapping[str, float], *, series: str = "") -> None:
        """Tell every observer."""
        self._tell("metrics", step, values, series=series)

    def message(self, text: str) -> None:
        """Tell every observer."""
        self._tell("message", text)

    def end(self, result: object = None, error: BaseException | None = None) -> None:
        """Tell every observer."""
        self._tell("end", result, error)

    def _tell(self, method: str, *arguments: Any, **options: Any) -> None:
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
    """Return what counts one more of ``total`` as done whenever it is called."""
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
    """Tell observers that an operation begins, give them as one, and tell them how it ended.

    ``files``: see :class:`Observers`. The operation puts what it returns into ``result``.
    """
    every = Observers(observers, files)
    every.start(operation)
    try:
        yield every
    except BaseException as error:
        every.end(None, error)
        raise
    every.end(every.result)


def _warn(text: str) -> None:
    try:
        warnings.warn(text, ObserverWarning, stacklevel=2)
    except ObserverWarning:  # warnings are errors here, but a run is never lost to an observer
        _LOG.warning("%s", text)
