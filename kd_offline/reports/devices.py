"""The evaluation of a run, with predictions for devices that the reader names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kd_offline.hardware import profiles as hardware
from kd_offline.hardware.teams import predictions
from kd_offline.runs.folder import RunFolder, recipe_of
from kd_offline.schemas.evaluation import EvaluationReport
from kd_offline.students.cost_bounds import require_predicted


def evaluated(folder: RunFolder, profiles: Sequence[str | Path] = ()) -> EvaluationReport | None:
    """Return the evaluation of a run with predictions for ``profiles``; None if it has none.

    Raises
    ------
    UnknownNameError, UsageError
        A profile is unknown or incomplete, or the students have no form that devices run.
    """
    devices = [hardware.load(profile) for profile in profiles]
    if devices:
        require_predicted(recipe_of(folder.manifest()).student)
    report = folder.evaluation()
    if report is None or not devices:
        return report
    return report.model_copy(update={"predictions": predictions(report.cost, devices)})
