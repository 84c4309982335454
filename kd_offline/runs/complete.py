"""A complete run, read once: what its ``run.json`` states, and the students that it describes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from kd_offline.errors import CheckpointError, Remedy, UnknownNameError, UsageError
from kd_offline.runs.folder import RunFolder, open_run
from kd_offline.schemas.run import RunManifest
from kd_offline.students.file import StudentsFile, read_students

if TYPE_CHECKING:
    from kd_offline.students.policy import StudentPolicy


@dataclass(frozen=True)
class CompleteRun:
    """A run whose students were compared with its ``run.json``; see :func:`complete_run`.

    Its files are read once, so that all parts of an operation see the same state of the folder.
    """

    folder: RunFolder
    manifest: RunManifest
    students: StudentsFile

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.folder.path

    @cached_property
    def teams(self) -> tuple[StudentPolicy, ...]:
        """The team of each distillation seed; imports PyTorch."""
        from kd_offline.students.policy import restore

        return tuple(restore(self.students))

    def team(self, seed: int | None = None) -> StudentPolicy:
        """Return the team of a seed; None: of the first one.

        Raises
        ------
        UnknownNameError
            The run has no such seed.
        """
        return self.teams[self.manifest.seeds.index(self.seed(seed))]

    def seed(self, asked: int | None) -> int:
        """Return a seed of the run, the first one for None; raises as :meth:`team`."""
        seeds = self.manifest.seeds
        chosen = seeds[0] if asked is None else asked
        if chosen not in seeds:
            known = [str(number) for number in seeds]
            raise UnknownNameError(what="seed of the run", got=str(chosen), allowed=known)
        return chosen


def complete_run(run: str | Path) -> CompleteRun:
    """Read a complete run, and compare its students with ``run.json``; needs no PyTorch.

    Raises
    ------
    UsageError
        There is no run, or it is not complete.
    CheckpointError, StorageError
        The students are missing, were altered, or are those of another run.
    """
    folder = open_run(run)
    manifest = folder.manifest()
    return CompleteRun(folder, manifest, _own_students(folder, manifest))


def require_own_students(run: RunFolder, manifest: RunManifest) -> None:
    """Raise as :func:`complete_run` where a complete run holds students that are not its own."""
    if manifest.status == "complete" and os.path.lexists(run.students):
        _own_students(run, manifest)


def _own_students(run: RunFolder, manifest: RunManifest) -> StudentsFile:
    if manifest.status != "complete":
        msg = f"the run in {str(run.path)!r} is {manifest.status}, not complete"
        if manifest.training is not None:
            again = Remedy("repeat the command that makes it with", resume=True)
            raise UsageError(msg, again)
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
