"""Weights & Biases observer: a run for each series, in a group for the operation."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from kd_offline.errors import MissingExtraError
from kd_offline.tracking.base import Observer, Operation

_DONE, _FAILED = 0, 1  # exit codes of a run


class WeightsAndBiases(Observer):
    """Logs to a project of Weights & Biases; with ``WANDB_MODE=offline`` nothing is uploaded.

    Parameters
    ----------
    project
        Default: the value of ``WANDB_PROJECT``, or ``kd-offline``.

    Raises
    ------
    MissingExtraError
        wandb is not installed.
    """

    def __init__(self, project: str = "") -> None:
        try:
            import wandb
        except ImportError as error:
            raise MissingExtraError(
                library="wandb", extra="track", purpose="tracking by Weights & Biases"
            ) from error
        self._library, self._project = wandb, project
        self._operation, self._runs = Operation("run"), dict[str, Any]()

    def start(self, operation: Operation) -> None:
        """Remember the operation. A run is created with the first metrics of its series."""
        self._operation, self._runs = operation, {}

    def metrics(self, step: int, values: Mapping[str, float], *, series: str = "") -> None:
        """Log the values of a step."""
        if series not in self._runs:
            self._runs[series] = self._start_run(series)
        self._runs[series].log(dict(values), step=step)

    def end(self, result: object = None, error: BaseException | None = None) -> None:
        """Finish the runs."""
        for run in self._runs.values():
            run.finish(exit_code=_DONE if error is None else _FAILED)
        self._runs = {}

    def _start_run(self, series: str) -> Any:
        title = self._operation.title
        settings = self._library.Settings(silent=True, console="off")
        return self._library.init(
            project=self._project or os.environ.get("WANDB_PROJECT") or "kd-offline",
            group=title,
            name=f"{title} {series}".strip(),
            job_type=self._operation.name,
            config=dict(self._operation.settings),
            reinit="create_new",
            settings=settings,
        )
