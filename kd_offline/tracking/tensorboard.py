"""TensorBoard observer: event files, a folder for each series."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd_offline.errors import MissingExtraError
from kd_offline.tracking.base import Observer, Operation
from kd_offline.tracking.series import path_part


class TensorBoard(Observer):
    """Writes scalars to ``FOLDER/OPERATION/SERIES``, which ``tensorboard`` shows.

    Parameters
    ----------
    folder
        Default: ``runs``.

    Raises
    ------
    MissingExtraError
        TensorBoard or PyTorch is not installed.
    """

    def __init__(self, folder: str | Path = "") -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError(
                library="tensorboard", extra="track", purpose="tracking by TensorBoard"
            ) from error
        self._make, self._root = SummaryWriter, Path(folder or "runs")
        self._writers: dict[str, Any] = {}

    def start(self, operation: Operation) -> None:
        """Create the folder of the operation and write its settings as text."""
        self._close()
        self._folder = self._root / path_part(operation.title)
        settings = json.dumps(operation.settings, indent=2, default=str)
        self._writer("").add_text("settings", f"```json\n{settings}\n```")

    def metrics(self, step: int, values: Mapping[str, float], *, series: str = "") -> None:
        """Write every value as a scalar."""
        writer = self._writer(series)
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    def end(self, result: object = None, error: BaseException | None = None) -> None:
        """Close the files."""
        self._close()

    def _writer(self, series: str) -> Any:
        if series not in self._writers:
            folder = self._folder / path_part(series) if series else self._folder
            self._writers[series] = self._make(str(folder))
        return self._writers[series]

    def _close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers = {}
