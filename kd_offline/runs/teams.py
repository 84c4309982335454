"""The students of a run, which have to be those that its ``run.json`` describes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kd_offline.errors import CheckpointError, Remedy, UsageError
from kd_offline.runs.folder import RunFolder
from kd_offline.schemas.run import RunManifest
from kd_offline.students.file import StudentsFile, read_students

if TYPE_CHECKING:
    from kd_offline.students.policy import StudentPolicy


def checked_students(run: RunFolder, manifest: RunManifest) -> StudentsFile:
    """Return the students' file of a complete run, compared with ``run.json``; needs no PyTorch.

    Raises
    ------
    UsageError
        The run is not complete.
    CheckpointError, StorageError
        The students are missing, were altered, or are those of another run.
    """
    if manifest.status != "complete":
        msg = f"the run in {str(run.path)!r} is {manifest.status}, not complete"
        paths = {"dataset": manifest.dataset.path, "output": str(run.path)}
        raise UsageError(msg, Remedy("finish it with", operation="distill", **paths, resume=True))
    students = read_students(run.students)
    card = students.card
    card_facts = (
        card.dataset,
        card.environment.id,
        card.environment.kwargs,
        card.mask,
        card.method,
    )
    manifest_facts = (
        *(manifest.dataset.id, manifest.environment, manifest.environment_kwargs),
        *(manifest.mask, manifest.method),
    )
    stated_digests = {result.seed: result.digest for result in manifest.results}
    matches = (card_facts, card.seeds, students.digests()) == (
        manifest_facts,
        manifest.seeds,
        stated_digests,
    )
    if not matches or card.environment.agents != tuple(s.agent for s in manifest.students):
        msg = (
            f"the students in {str(run.path)!r} are not the ones that its run.json describes: the "
            "run was altered, so restore it or distil again"
        )
        raise CheckpointError(msg)
    return students


def require_own_students(run: RunFolder, manifest: RunManifest) -> None:
    """Raise as :func:`checked_students` where a complete run holds students."""
    if manifest.status == "complete" and os.path.lexists(run.students):
        checked_students(run, manifest)


def load_teams(run: RunFolder, manifest: RunManifest) -> list[StudentPolicy]:
    """Return the teams of a complete run, one for each seed; see :func:`checked_students`."""
    from kd_offline.students.policy import restore

    return restore(checked_students(run, manifest))
