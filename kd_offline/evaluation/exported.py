"""Load an export of a run as the team that is evaluated instead of its students."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kd_offline.errors import CheckpointError, MismatchError
from kd_offline.runs.complete import CompleteRun
from kd_offline.schemas.export import ExportManifest
from kd_offline.schemas.run import RunManifest
from kd_offline.types import TeamPolicy

if TYPE_CHECKING:
    from kd_offline.students.policy import StudentPolicy

_WEIGHTS = {"parameters", "parameter_bytes", "macs", "zeros"}  # differ by precision


@dataclass(frozen=True, slots=True)
class ExportedTeam:
    """The exported team of one distillation seed."""

    folder: Path
    team: TeamPolicy
    seed: int
    name: str  # precision and engine


def load_exported(folder: str | Path, engine: str | None, run: CompleteRun) -> ExportedTeam:
    """Load an export of a run's teams in an engine (None: the first that the export offers).

    Raises
    ------
    MismatchError
        The export was not made from this run.
    UsageError, CheckpointError, MissingExtraError
        It cannot be used, or its ``export.json`` does not match its students.
    """
    from kd_offline.exports.engines import engine_for, load_export, read_manifest

    manifest = read_manifest(folder)
    own_student(manifest, folder, run)
    chosen_engine = engine_for(manifest, engine)
    name = f"{manifest.precision} in {chosen_engine}"
    return ExportedTeam(
        Path(folder), load_export(folder, chosen_engine, manifest), manifest.seed, name
    )


def own_student(manifest: ExportManifest, folder: str | Path, run: CompleteRun) -> StudentPolicy:
    """Return the team of a run that the export in ``folder`` was made from.

    Raises
    ------
    MismatchError, CheckpointError
        It was made from another run, or its ``export.json`` describes something else.
    """
    check_origin(manifest, folder, run.manifest)
    student = run.team(manifest.seed)
    require_same(manifest, student, Path(folder))
    return student


def check_origin(manifest: ExportManifest, folder: str | Path, run: RunManifest) -> None:
    """Raise a ``MismatchError`` if an export was not made from this run."""
    if (manifest.seed, manifest.students) not in {(r.seed, r.digest) for r in run.results}:
        msg = (
            f"the export in {str(folder)!r} holds the students {manifest.students[:19]} of seed "
            f"{manifest.seed}, which are not in this run: give the run that it was made from"
        )
        raise MismatchError(msg)


def require_same(manifest: ExportManifest, student: StudentPolicy, folder: Path) -> None:
    """Raise a ``CheckpointError`` if ``export.json`` does not describe its own student."""
    from kd_offline.exports.compact import compact
    from kd_offline.exports.contract import contracts
    from kd_offline.exports.engines import MANIFEST
    from kd_offline.schemas.export import RESET

    card = student.card
    own = contracts(compact(student), card.environment)
    expected = (card.environment.id, card.mask, card.random_k, card.method, card.dataset, RESET)
    stated = (
        manifest.environment,
        manifest.mask,
        manifest.random_k,
        manifest.method,
        manifest.dataset,
        manifest.reset,
    )
    same = [agent.model_dump(exclude=_WEIGHTS) for agent in own] == [
        agent.model_dump(exclude=_WEIGHTS) for agent in manifest.agents
    ]
    if stated != expected or not same:
        msg = (
            f"{folder / MANIFEST} does not describe the students that it was made from: it was "
            "altered, so export again"
        )
        raise CheckpointError(msg)
