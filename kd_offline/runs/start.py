"""The students of a run as what an expert's training starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kd_offline import code_guard
from kd_offline.errors import MismatchError
from kd_offline.experts.start import settings_of
from kd_offline.runs.complete import complete_run


def start_settings(
    run: str | Path, seed: int | None = None, *, environment: str | None = None
) -> dict[str, Any]:
    """Return the settings of a training that starts from students, by dotted path.

    Parameters
    ----------
    run
        Folder of a complete run.
    seed
        Which of its teams; None: that of its first seed.
    environment
        Name of the run's environment, to allow one that a file may not start by itself, see
        :mod:`kd_offline.code_guard`.

    Raises
    ------
    UsageError
        There is no complete run, its environment needs the user's word, or no expert can have
        networks as its students are.
    CheckpointError, StorageError
        The run or its students were altered.
    MismatchError
        The run is of another environment.
    UnknownNameError
        The run has no such seed.
    """
    complete = complete_run(run)
    manifest = complete.manifest
    if environment not in (None, manifest.environment):
        msg = (
            f"the run in {str(run)!r} is of the environment {manifest.environment!r}, not of "
            f"{environment!r}: leave the name out, or start from another run"
        )
        raise MismatchError(msg)
    code_guard.check_environment(
        manifest.environment,
        manifest.environment_kwargs,
        asked_by=f"the run in {str(run)!r}",
        allowed=environment,
        remedy=code_guard.naming("train_recipe", manifest.environment),
    )
    students, chosen = complete.students, complete.seed(seed)
    return settings_of(students.card, chosen) | {
        "environment_kwargs": dict(manifest.environment_kwargs),
        "start.run": str(Path(run)),
        "start.seed": chosen,
        "start.digest": students.digests()[chosen],
    }
