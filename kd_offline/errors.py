"""The error tree: grouped by what the caller can do next; each is also a builtin error.

::

    KdOfflineError                 exit 1
    ├── UsageError                 exit 2   a name, width or setting is wrong: correct the call
    │   ├── UnknownNameError       exit 2   not one of the names that exist here
    │   └── MissingExtraError      exit 2   an optional library is not installed
    ├── DatasetError               exit 1   the data on disk cannot be used as they are
    │   ├── NotADatasetError       exit 2   no dataset at that path: correct it
    │   ├── UnfinishedError        exit 1   a recording without its manifest: resume or delete it
    │   ├── CorruptDatasetError    exit 1   bytes differ from what the manifest states
    │   ├── FormatVersionError     exit 1   written by a newer or foreign format
    │   ├── SignatureError         exit 1   no signature, or none of a trusted key for these data
    │   └── MissingArrayError      exit 2   the chosen method needs an array that is not there
    ├── CheckpointError            exit 1   an expert or student file cannot be used
    │   └── NoCheckpointError      exit 2   no expert and no students at that path: correct it
    ├── MismatchError              exit 2   two parts that do not fit each other
    ├── StorageError               exit 1   the disk or folder refuses: full, read-only, exists
    ├── GameError                  exit 1   the process of a game does not start, or broke down
    ├── UserCodeError              exit 1   an environment or expert of the user's own failed
    ├── WorkerError                exit 1   a worker process ended, or its task failed
    └── BudgetError                exit 3   a stated budget is violated

Every message is one sentence: what is wrong, what was got, what is allowed and what to do next.
Where arguments of a call help, what to do next is a :class:`Remedy`: it holds their names and
values, and the command line prints them as options.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_BUDGET = 3
EXIT_SUSPECT = 4
"""Nothing failed, but an audit has findings."""


class Remedy:
    """One thing that the caller can do next, with the arguments that it takes.

    ``Remedy("pass", overwrite=True)`` reads ``pass overwrite=True`` in Python; the command line
    names the option, and leaves the remedy out where the command that failed has none.

    Parameters
    ----------
    before, after
        Words around the arguments.
    operation
        The operation that takes the arguments, such as ``record``, where it is another one than
        the one that failed.
    arguments
        By their names in Python. The value ``...`` stands for one that only the caller knows; an
        entry of a mapping is given as ``settings={"student.depth": 1}``.
    """

    def __init__(
        self, before: str, after: str = "", /, *, operation: str = "", **arguments: object
    ) -> None:
        self.before, self.after = before, after
        self.operation, self.arguments = operation, arguments

    def __str__(self) -> str:
        named = [_named(name, value) for name, value in self.arguments.items()]
        return self.around(f"{self.operation}({', '.join(named)})" if self.operation else named)

    def around(self, arguments: str | Iterable[str]) -> str:
        """Return the words around ``arguments``, which are already written out."""
        middle = arguments if isinstance(arguments, str) else ", ".join(arguments)
        return " ".join(part for part in (self.before, middle, self.after) if part)


def _named(name: str, value: object) -> str:
    """Return an argument as Python has it, and only its name where the value is not known."""
    if isinstance(value, Mapping) and ... in value.values():
        return " and ".join(f"{name}[{path!r}]" for path in value)
    return name if value is ... else f"{name}={value!r}"


class KdOfflineError(Exception):
    """Base of every error that kd-offline raises on purpose.

    Parameters
    ----------
    message
        What is wrong, what was got and what is allowed; with no remedies also what to do next.
    remedies
        What to do next, one or the other.
    """

    exit_code = EXIT_FAILED

    def __init__(self, message: object = "", *remedies: Remedy | str) -> None:
        super().__init__(message)
        self.remedies = tuple(r if isinstance(r, Remedy) else Remedy(str(r)) for r in remedies)

    def __str__(self) -> str:
        return self.sentence(str)

    @property
    def facts(self) -> str:
        """The message in one line and without remedies: for documents, whose readers vary."""
        return " ".join(self.sentence(lambda remedy: None).split())

    def sentence(self, spell: Callable[[Remedy], str | None]) -> str:
        """Return the message and the remedies as ``spell`` words them; None leaves one out."""
        message = str(self.args[0]) if self.args else ""
        *others, last = [text for text in map(spell, self.remedies) if text] or [""]
        advice = f"{', '.join(others)} or {last}" if others else last
        mark = ";" if ": " in message else ":"
        return f"{message}{mark} {advice}" if advice else message


class UsageError(KdOfflineError, ValueError):
    """A value given by the user is not acceptable."""

    exit_code = EXIT_USAGE


class UnknownNameError(UsageError, LookupError):
    """A name is not among the ones that exist."""

    def __init__(self, what: str, got: str, allowed: Iterable[str], hint: str = "") -> None:
        names = list(allowed)
        close = difflib.get_close_matches(got, names, n=1, cutoff=0.5)
        suggestion = f"; did you mean {close[0]!r}?" if close else ""
        listed = ", ".join(names) if names else "none"
        hint_text = f"; {hint}" if hint else ""
        super().__init__(f"unknown {what} {got!r}: allowed are {listed}{suggestion}{hint_text}")
        self.got = got
        self.allowed = tuple(names)


class MissingExtraError(UsageError, ImportError):
    """An optional library is absent."""

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the library {library!r}, which is not installed: "
            f"run pip install 'kd-offline[{extra}]'"
        )
        self.extra = extra


def is_torch(error: BaseException) -> bool:
    """Return whether ``error`` says that PyTorch is not installed."""
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    return name is not None and name.partition(".")[0] == "torch"


class DatasetError(KdOfflineError):
    """A dataset on disk cannot be used as it is."""


class NotADatasetError(DatasetError, FileNotFoundError):
    """There is no expert buffer at the path."""

    exit_code = EXIT_USAGE


class UnfinishedError(DatasetError):
    """A recording was begun here and not finished: it has no manifest."""


class CorruptDatasetError(DatasetError, ValueError):
    """Stored bytes or values differ from what the manifest promises."""


class FormatVersionError(DatasetError, ValueError):
    """The dataset was written in a format that this version does not read."""


class SignatureError(DatasetError):
    """A signature is absent, altered, of another dataset or of no trusted key."""


class MissingArrayError(DatasetError, LookupError):
    """An array that the request needs is not in the dataset."""

    exit_code = EXIT_USAGE


class CheckpointError(KdOfflineError, ValueError):
    """An expert or student checkpoint is damaged, incomplete or foreign."""


class NoCheckpointError(CheckpointError, FileNotFoundError):
    """There is no expert, or there are no students, at the path."""

    exit_code = EXIT_USAGE


class MismatchError(KdOfflineError, ValueError):
    """Two parts do not fit each other, such as an expert and an environment."""

    exit_code = EXIT_USAGE


class StorageError(KdOfflineError, OSError):
    """The file system refuses: full, read-only, in use, or already there."""


class GameError(KdOfflineError, RuntimeError):
    """A game that runs in a process of its own does not start, or broke down."""


class UserCodeError(KdOfflineError, RuntimeError):
    """Code of the user or of a plug-in failed; the original error is its cause."""


class WorkerError(KdOfflineError, RuntimeError):
    """A worker that carries out tasks for this process ended or failed."""


class BudgetError(KdOfflineError):
    """A stated budget is violated."""

    exit_code = EXIT_BUDGET


class UnsealedWarning(UserWarning):
    """A file of an older version has no digest, so damage to it is not noticed."""


class ObserverWarning(UserWarning):
    """An observer failed and is no longer called; the operation goes on."""
