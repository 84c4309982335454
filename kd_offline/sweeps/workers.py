"""The processes that share a sweep: their journal, whose turn it is, and who of them died.

Everything rests on locks of the system, which lets go of them when a process ends, however that
ends: nothing is guessed from times.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from kd_offline.errors import StorageError
from kd_offline.file_locks import dead, in_turn, living
from kd_offline.files import append_file, make_subfolder, remove_tree

WORKERS = "workers"
_NAME = re.compile(r"[0-9a-f]{16}")


class Journal(BaseJournalBackend):
    """Optuna's journal, a line of JSON for each change, which no two processes write at once.

    A line that a killed process did not finish is dropped by the next one that writes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turns = make_subfolder(path.parent, WORKERS)
        self._ends = [0]  # where each line ends that was read so far
        append_file(path, "")

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the changes from a number on; those that are written meanwhile come later.

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
        """Write changes; they are on the disk when this returns."""
        lines = [json.dumps(log, separators=(",", ":")) + "\n" for log in logs]
        with in_turn(self._turns):
            append_file(self._path, "".join(lines), whole_lines=True, durable=True)

    def _document(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise damaged(self._path, f"line {number + 1} is no JSON document")
        return found


def damaged(journal: Path, what: str) -> StorageError:
    """Return the error that says that a sweep's journal cannot be read."""
    return StorageError(
        f"{str(journal)!r} is damaged ({what}): restore it, or begin the sweep in another folder"
    )


@contextmanager
def at_work(folder: Path) -> Iterator[str]:
    """Give this process a name in the sweep; others can tell by it whether the process lives."""
    name = secrets.token_hex(8)
    file = make_subfolder(folder, WORKERS) / name
    with living(file):
        yield name
    remove_tree(file)


def died(folder: Path, name: object) -> bool:
    """Tell whether the process of this name ended; False where that cannot be told."""
    if os.name == "nt":
        return False
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return True  # the name is given before anybody else sees the trial
    return dead(folder / WORKERS / name)
