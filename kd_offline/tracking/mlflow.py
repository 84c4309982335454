"""MLflow observer: a run for each series, in the experiment ``kd-offline``."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kd_offline.errors import MissingExtraError
from kd_offline.tracking.base import Observer, Operation
from kd_offline.tracking.series import flat, metric_name

EXPERIMENT = "kd-offline"
_LONGEST_PARAMETER = 6000  # characters
_PARAMETERS_PER_CALL = 100


class MLflow(Observer):
    """Logs to an MLflow store.

    Parameters
    ----------
    store
        A folder of files, or a tracking URI such as ``sqlite:///mlflow.db`` or ``http://host``.
        Default: what ``MLFLOW_TRACKING_URI`` says, or the folder ``mlruns``.

    Raises
    ------
    MissingExtraError
        MLflow is not installed.
    """

    def __init__(self, store: str = "") -> None:
        # MLflow refuses folders as stores unless the first is set; the second stops telemetry.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        try:
            with _ignore_warnings():
                from mlflow.entities import Metric, Param
                from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise MissingExtraError(
                library="mlflow-skinny", extra="track", purpose="tracking by MLflow"
            ) from error
        self._client: Callable[[str], Any] = lambda uri: MlflowClient(uri, registry_uri=uri)
        self._metric, self._param = Metric, Param
        store = store or os.environ.get("MLFLOW_TRACKING_URI", "") or "mlruns"
        self._uri = store if "://" in store else Path(store).resolve().as_uri()
        self._operation, self._runs = Operation("run"), dict[str, str]()

    def start(self, operation: Operation) -> None:
        """Open the store. A run is created with the first metrics of its series."""
        self._operation, self._runs = operation, {}
        with _ignore_warnings():
            self._store = self._client(self._uri)
            experiment = self._store.get_experiment_by_name(EXPERIMENT)
            experiment_id = (
                experiment.experiment_id
                if experiment
                else self._store.create_experiment(EXPERIMENT)
            )
        self._experiment = experiment_id

    def metrics(self, step: int, values: Mapping[str, float], *, series: str = "") -> None:
        """Log the values of a step."""
        milliseconds = int(1000 * time.time())
        metrics = [
            self._metric(metric_name(k), float(v), milliseconds, step) for k, v in values.items()
        ]
        with _ignore_warnings():
            if series not in self._runs:
                self._runs[series] = self._start_run(series)
            self._store.log_batch(self._runs[series], metrics=metrics)

    def end(self, result: object = None, error: BaseException | None = None) -> None:
        """Set the final status of all runs."""
        status = "FINISHED" if error is None else "FAILED"
        if isinstance(error, KeyboardInterrupt):
            status = "KILLED"
        with _ignore_warnings():
            for run in self._runs.values():
                self._store.set_terminated(run, status)
        self._runs = {}

    def _start_run(self, series: str) -> str:
        title = f"{self._operation.title} {series}".strip()
        run = self._store.create_run(self._experiment, run_name=title).info.run_id
        settings = flat(self._operation.settings).items()
        parameters = [self._param(metric_name(k), str(v)[:_LONGEST_PARAMETER]) for k, v in settings]
        for first in range(0, len(parameters), _PARAMETERS_PER_CALL):
            self._store.log_batch(run, params=parameters[first : first + _PARAMETERS_PER_CALL])
        return str(run)


@contextmanager
def _ignore_warnings() -> Iterator[None]:
    """Ignore warnings while the body runs: MLflow's concern its own use of other libraries."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
