"""Write metrics as lines of JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kd_offline.files import append_file
from kd_offline.tracking.base import Observer, Operation

Line = Callable[[int, Mapping[str, float], str], str]
"""A function that formats a line from a step, its values and their series."""


def json_line(row: Mapping[str, Any]) -> str:
    """Return a row as a line of JSON; NaN and infinities become null, as JSON lacks them."""
    not_finite = (k for k, v in row.items() if isinstance(v, float) and not math.isfinite(v))
    return json.dumps(dict(row) | dict.fromkeys(not_finite)) + "\n"


class JsonLines(Observer):
    """Appends a line to a file for every set of metrics.

    Parameters
    ----------
    file
        Created if missing.
    line
        Formats a line; by default operation, series, step and every value by its name.

    Raises
    ------
    StorageError
        By ``metrics``: the file cannot be written.
    """

    def __init__(self, file: str | Path = "", line: Line | None = None) -> None:
        self._file, self._line = Path(file or "metrics.jsonl"), line or self._plain
        self._operation = ""

    def start(self, operation: Operation) -> None:
        """Remember the operation's name."""
        self._operation = operation.title

    def metrics(self, step: int, values: Mapping[str, float], *, series: str = "") -> None:
        """Append a line."""
        append_file(self._file, self._line(step, values, series))

    def _plain(self, step: int, values: Mapping[str, float], series: str) -> str:
        return json_line({"operation": self._operation, "series": series, "step": step, **values})
