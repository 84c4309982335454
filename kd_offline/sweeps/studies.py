"""Storage of a sweep's trials: a journal for one machine, or a database for several.

Trials of processes that died are found and queued again: by file locks beside a journal, by
heartbeats in a database.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.storages import JournalStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import TrialState

from kd_offline.errors import CheckpointError, MissingExtraError, Remedy, StorageError, UsageError
from kd_offline.execution.base import RETRIES
from kd_offline.file_locks import dead, in_turn, living
from kd_offline.files import (
    MAX_DOCUMENT_BYTES,
    append_file,
    make_subfolder,
    read_file,
    remove_tree,
    write_file,
)
from kd_offline.untrusted_text import without_password
from kd_offline.user_code import described

JOURNAL, STUDY = "trials.journal", "study.txt"
WORKERS, RUNS = "workers", "runs"
HEARTBEAT_S, GRACE_S = 10, 60
_TIMEOUT_S = 30  # of a connection to a database, and of a lock in it
# Attributes of a trial: the process that runs it, and its number once its heart beats.
_WORKER, _BEATS = "worker", "beats"
_NAME = re.compile(r"[0-9a-f]{16}")
_STUDY_NAME = re.compile(r"kd-offline-[0-9a-f]{32}\n")
_LONGEST_HOST = 256
# What Optuna raises of trials that it did not write.
_UNREADABLE = (LookupError, ValueError, TypeError, AttributeError, AssertionError)


class TrialStore(Protocol):
    """Storage of the trials of a sweep, with the processes that are alive."""

    where: str
    """For messages."""

    def open(self, directions: list[Any]) -> optuna.Study:
        """Open the study of the sweep, or create it; called by one process at a time."""
        ...

    @contextmanager
    def working(self) -> Iterator[None]:
        """Let other processes know that this one is alive while the body runs."""
        ...

    def claim(self, trial: optuna.Trial) -> None:
        """Mark a requested trial as running in this process, for other processes to see."""
        ...

    def release(self, number: int) -> None:
        """Forget a trial that was claimed."""
        ...

    def requeue_abandoned(self, study: optuna.Study) -> None:
        """Mark the trials of processes that died as failed, and put each in the queue again."""
        ...

    def failure(self, error: Exception) -> StorageError | None:
        """Return a ``StorageError`` for an error of the store; None for other errors."""
        ...


def first_number(study: optuna.Study, number: int) -> int:
    """Return the number of the trial that a trial runs again, or its own."""
    first = study.get_trials(deepcopy=False)[number].system_attrs.get("failed_trial")
    return first if type(first) is int and first >= 0 else number


def requeue(study: optuna.Study, number: int, *, died: bool) -> None:
    """Mark a running trial as failed, and queue it again.

    ``died``: its process was killed, which may be the trial's doing, so that is done three times;
    what a user interrupts is always queued.
    """
    study.tell(number, state=TrialState.FAIL)
    trial = deepcopy(study.get_trials(deepcopy=False)[number])
    if died:
        _retry()(study, trial)
        return
    study.add_trial(
        optuna.create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            system_attrs={"failed_trial": number, "retry_history": [], **trial.system_attrs},
        )
    )


def ask(study: optuna.Study) -> optuna.Trial:
    """Return the next trial of a study, or the first of its queue."""
    with _without_warnings():
        return study.ask()


def _retry() -> Callable[[optuna.Study, Any], None]:
    with _without_warnings():
        return RetryHeartbeatStaleTrialCallback(max_retry=RETRIES)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence what Optuna says of heartbeats: they are experimental, and we write our own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", "Heartbeat of storage")
        yield


class JournalStore(TrialStore):
    """Trials in a journal in the folder of the sweep, for processes of one machine.

    Raises
    ------
    StorageError
        The sweep was begun with a database.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = ""
        self.where = str(folder / JOURNAL)
        if os.path.lexists(folder / STUDY):
            msg = f"the trials of the sweep in {str(folder)!r} are in a database"
            raise StorageError(msg, Remedy("name it with", storage=...))

    def open(self, directions: list[Any]) -> optuna.Study:
        """Open the study of the sweep, or create it; raises ``StorageError`` for a damaged one."""
        journal = self._folder / JOURNAL
        try:
            study = optuna.create_study(
                storage=JournalStorage(Journal(journal)),
                study_name="sweep",
                directions=directions,
                load_if_exists=True,
            )
            study.get_trials(deepcopy=False)
        except _UNREADABLE as error:
            raise damaged(journal, f"Optuna cannot follow it: {error!r}") from error
        return study

    @contextmanager
    def working(self) -> Iterator[None]:
        """Register this process while the body runs.

        Raises
        ------
        StorageError
            A process of another machine works here, which file locks may not show.
        """
        with registered_worker(self._folder) as self._name:
            _require_one_machine(self._folder)
            yield

    def claim(self, trial: optuna.Trial) -> None:
        """Name this process in a trial."""
        trial.set_user_attr(_WORKER, self._name)

    def release(self, number: int) -> None:
        """Do nothing."""

    def requeue_abandoned(self, study: optuna.Study) -> None:
        """Queue the trials of processes that have ended again."""
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if worker_died(self._folder, trial.user_attrs.get(_WORKER)):
                requeue(study, trial.number, died=True)

    def failure(self, error: Exception) -> StorageError | None:
        """Return None: errors of the journal are ours already."""
        return None


class DatabaseStore(TrialStore):
    """Trials in a database of SQLite or PostgreSQL, for processes of any number of machines.

    A process that runs trials writes a heartbeat for each. A trial without one for a minute is run
    again by whoever looks for work, up to three times.

    Parameters
    ----------
    folder
        Of the sweep; ``study.txt`` there names the study in the database.
    url
        ``sqlite:///FILE`` or ``postgresql://USER@HOST/DATABASE``. It is kept nowhere, and its
        password is in no message.

    Raises
    ------
    UsageError
        It is another kind of address.
    StorageError
        The sweep was begun with a journal.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self._folder, self._url = folder, _parsed(url)
        self._storage: optuna.storages.RDBStorage | None = None
        self._running: dict[int, int] = {}  # number -> identity in the database
        self.where = without_password(url)
        if os.path.lexists(folder / JOURNAL):
            msg = (
                f"the sweep in {str(folder)!r} was begun with a journal, which a database does not "
                "continue: leave the database out, or begin a sweep in another folder"
            )
            raise StorageError(msg)

    def open(self, directions: list[Any]) -> optuna.Study:
        """Open the study of the sweep, or create it.

        Raises
        ------
        StorageError
            The database cannot be reached.
        MissingExtraError
            The driver of PostgreSQL is not installed.
        CheckpointError
            The database does not have the trials of the runs in the folder.
        """
        from sqlalchemy import NullPool

        name = self._study_name()
        with _without_warnings():
            try:
                self._storage = optuna.storages.RDBStorage(
                    # Optuna takes it for a template.
                    self._text().replace("{", "{{").replace("}", "}}"),
                    {"poolclass": NullPool, "connect_args": self._connect_arguments()},
                    heartbeat_interval=HEARTBEAT_S,
                    grace_period=GRACE_S,
                    heartbeat_stale_trial_callback=_retry(),
                )
            except ImportError:
                raise MissingExtraError(
                    library="psycopg", extra="postgresql", purpose="a sweep in PostgreSQL"
                ) from None
            except RuntimeError as error:  # tables of another version of Optuna
                raise self._failed(error) from None
        study = optuna.create_study(
            storage=self._storage, study_name=name, directions=directions, load_if_exists=True
        )
        try:
            study.get_trials(deepcopy=False)
        except _UNREADABLE as error:
            msg = (
                f"the database {self.where!r} is damaged (Optuna cannot follow it: {error!r}): "
                "restore it, or begin the sweep in another folder"
            )
            raise StorageError(msg) from error
        runs = self._folder / RUNS
        if not study.get_trials(deepcopy=False) and runs.is_dir() and any(runs.iterdir()):
            msg = (
                f"the database {self.where!r} does not have the trials of the sweep in "
                f"{str(self._folder)!r}: give the one that it was begun with"
            )
            raise CheckpointError(msg)
        return study

    @contextmanager
    def working(self) -> Iterator[None]:
        """Write heartbeats of the claimed trials while the body runs."""
        ended = threading.Event()
        thread = threading.Thread(target=self._beat, args=(ended,), name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def claim(self, trial: optuna.Trial) -> None:
        """Write the first heartbeat of a trial."""
        assert self._storage is not None  # noqa: S101 - it is open
        self._storage.record_heartbeat(trial._trial_id)
        trial.set_user_attr(_BEATS, trial.number)
        self._running[trial.number] = trial._trial_id

    def release(self, number: int) -> None:
        """Write no further heartbeats of a trial."""
        self._running.pop(number, None)

    def requeue_abandoned(self, study: optuna.Study) -> None:
        """Queue trials again whose heartbeat stopped, and requested trials that nobody claimed.

        Trials are asked for and claimed in one turn, so one without a heartbeat has nobody.
        """
        with _without_warnings():
            fail_stale_trials(study)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.user_attrs.get(_BEATS) != trial.number:
                requeue(study, trial.number, died=True)

    def failure(self, error: Exception) -> StorageError | None:
        """Return the sentence for an error of the database; None for other errors."""
        from alembic.util import CommandError
        from sqlalchemy.exc import SQLAlchemyError

        own = (CommandError, SQLAlchemyError, optuna.exceptions.StorageInternalError)
        return self._failed(error) if isinstance(error, own) else None

    def _failed(self, error: Exception) -> StorageError:
        cause = error.__cause__ or error
        reason = described(getattr(cause, "orig", None) or cause)
        for secret in self._secrets():
            reason = reason.replace(secret, "***")
        return StorageError(
            f"the database {self.where!r} cannot be used ({reason}): see that it runs and takes "
            "this user, then run the same command again"
        )

    def _secrets(self) -> set[str]:
        values = [value for name, value in self._url.query.items() if "password" in name.lower()]
        return {text for text in (self._url.password, *values) if isinstance(text, str) and text}

    def _text(self) -> str:
        text: str = self._url.render_as_string(hide_password=False)
        return text

    def _connect_arguments(self) -> dict[str, int]:
        name = "timeout" if self._url.drivername.startswith("sqlite") else "connect_timeout"
        return {name: _TIMEOUT_S}

    def _study_name(self) -> str:
        """Return the name of the sweep in databases: a random one, the same for all processes."""
        file = self._folder / STUDY
        if not os.path.lexists(file):
            write_file(file, f"kd-offline-{secrets.token_hex(16)}\n")
        text = read_file(file, MAX_DOCUMENT_BYTES).decode("utf-8", "replace")
        if not _STUDY_NAME.fullmatch(text):
            msg = f"{str(file)!r} names no sweep: restore it, or begin one in another folder"
            raise CheckpointError(msg)
        return text.strip()

    def _beat(self, ended: threading.Event) -> None:
        while not ended.wait(HEARTBEAT_S):
            for identity in tuple(self._running.values()):
                try:
                    assert self._storage is not None  # noqa: S101 - it is open
                    self._storage.record_heartbeat(identity)
                except Exception:
                    # What ended for a moment is tried again; what does not come back is told by
                    # the thread that works.
                    break


def _parsed(url: str) -> Any:
    """Return the parts of the address of a database, with the driver that is used here."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    drivers = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}
    drivers |= {"postgres": drivers["postgresql"], drivers["postgresql"]: drivers["postgresql"]}
    try:
        parts = make_url(url)
        driver = drivers[parts.drivername]
    except (ArgumentError, KeyError, ValueError):
        parts, driver = None, ""
    if parts is None or not parts.database or parts.database == ":memory:":
        msg = (
            f"{without_password(url)!r} is no database for the trials of a sweep: give "
            "sqlite:///FILE or postgresql://USER@HOST/DATABASE"
        )
        raise UsageError(msg)
    return parts.set(drivername=driver)


class Journal(BaseJournalBackend):
    """Optuna's journal: a line of JSON for each change, written by one process at a time.

    A line that a killed process did not finish is removed by the next process that writes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turns = make_subfolder(path.parent, WORKERS)
        self._ends = [0]  # byte offsets of the ends of the lines read so far
        append_file(path, "")

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the changes from a number on; those written meanwhile come with the next call.

        Raises
        ------
        StorageError
            A line is no JSON document.
        """
        start = min(log_number_from, len(self._ends) - 1)
        with self._path.open("rb") as file:
            file.seek(self._ends[start])
            for number, line in enumerate(file, start):
                if not line.endswith(b"\n"):
                    return
                if number + 1 == len(self._ends):
                    self._ends.append(self._ends[number] + len(line))
                if number >= log_number_from:
                    yield self._document(line, number)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append changes and flush them to disk."""
        lines = [json.dumps(log, separators=(",", ":")) + "\n" for log in logs]
        with in_turn(self._turns):
            append_file(self._path, "".join(lines), whole_lines=True, durable=True)

    def _document(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            document = json.loads(line)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise damaged(self._path, f"line {number + 1} is no JSON document")
        return document


def damaged(journal: Path, what: str) -> StorageError:
    """Return the error for a journal that cannot be read."""
    return StorageError(
        f"{str(journal)!r} is damaged ({what}): restore it, or begin the sweep in another folder"
    )


@contextmanager
def registered_worker(folder: Path) -> Iterator[str]:
    """Register this process in the sweep while the body runs; yield its name.

    Other processes can detect by the name whether this one is alive.
    """
    name = secrets.token_hex(8)
    file = make_subfolder(folder, WORKERS) / name
    with living(file, socket.gethostname()):
        yield name
    remove_tree(file)


def worker_died(folder: Path, name: object) -> bool:
    """Return whether the process of this name has ended; False where that is unknown."""
    if os.name == "nt":
        return False
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return True  # a running trial always has the name of its worker
    return dead(folder / WORKERS / name)


def _require_one_machine(folder: Path) -> None:
    """Raise a ``StorageError`` if a process of another machine works on the sweep."""
    for file in (folder / WORKERS).iterdir():
        if not _NAME.fullmatch(file.name) or worker_died(folder, file.name):
            continue
        try:
            host = read_file(file, _LONGEST_HOST).decode("utf-8", "replace")
        except StorageError:
            continue  # it ended in the meantime
        if host and host != socket.gethostname():
            msg = (
                f"the machine {host!r} works on the sweep in {str(folder)!r}, and a journal is for "
                f"one machine: wait, or remove {str(file)!r} if that process is gone"
            )
            several = Remedy("begin a sweep of several machines with", storage=...)
            raise StorageError(msg, several)
