"""The evaluation of a run, with predictions for devices that the reader names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kd_offline.hardware import profiles as hardware
from kd_offline.hardware.teams import predictions
from kd_offline.runs.folder import RunFolder
from kd_offline.schemas.evaluation import EvaluationReport


def evaluated(folder: RunFolder, profiles: Sequence[str | Path] = ()) -> EvaluationReport | None:
    """Return the evaluation of a run with predictions for ``profiles``; None if it has none.

    Raises
    ------
    UnknownNameError, UsageError
        A profile is unknown or incomplete.
    """
    devices = [hardware.load(profile) for profile in profiles]
    report = folder.evaluation()
    if report is None or not devices:
        return report
    return report.model_copy(update={"predictions": predictions(report.cost, devices)})
