"""MLflow: a run for each series, in the experiment ``kd-offline``."""

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
_LONGEST = 6000  # characters of a parameter
_MOST = 100  # parameters at once


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
        # Folders are in maintenance there and refused unless this is set; nothing is told of us.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        try:
            with _its_own_warnings():
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
        """Open the store; a run begins with its first metrics."""
        self._operation, self._runs = operation, {}
        with _its_own_warnings():
            self._store = self._client(self._uri)
            known = self._store.get_experiment_by_name(EXPERIMENT)
            made = known.experiment_id if known else self._store.create_experiment(EXPERIMENT)
        self._experiment = made

    def metrics(self, step: int, values: Mapping[str, float], *, series: str = "") -> None:
        """Log the values of a step."""
        now = int(1000 * time.time())
        named = [self._metric(metric_name(k), float(v), now, step) for k, v in values.items()]
        with _its_own_warnings():
            if series not in self._runs:
                self._runs[series] = self._begun(series)
            self._store.log_batch(self._runs[series], metrics=named)

    def end(self, result: object = None, error: BaseException | None = None) -> None:
        """Say of the runs how they ended."""
        status = "FINISHED" if error is None else "FAILED"
        if isinstance(error, KeyboardInterrupt):
            status = "KILLED"
        with _its_own_warnings():
            for run in self._runs.values():
                self._store.set_terminated(run, status)
        self._runs = {}

    def _begun(self, series: str) -> str:
        title = f"{self._operation.title} {series}".strip()
        run = self._store.create_run(self._experiment, run_name=title).info.run_id
        settings = flat(self._operation.settings).items()
        stated = [self._param(metric_name(k), str(v)[:_LONGEST]) for k, v in settings]
        for first in range(0, len(stated), _MOST):
            self._store.log_batch(run, params=stated[first : first + _MOST])
        return str(run)


@contextmanager
def _its_own_warnings() -> Iterator[None]:
    """Ignore warnings: MLflow's are about its own use of other libraries."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
