"""An export that plays in place of the students of its run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kd_offline.errors import MismatchError
from kd_offline.schemas.export import ExportManifest
from kd_offline.schemas.run import RunManifest
from kd_offline.types import TeamPolicy


@dataclass(frozen=True, slots=True)
class Exported:
    """The exported team of one distillation seed."""

    folder: Path
    team: TeamPolicy
    seed: int
    name: str  # precision and engine


def load_exported(folder: str | Path, engine: str | None, run: RunManifest) -> Exported:
    """Open an export of a run.

    Raises
    ------
    MismatchError
        It was not made from this run.
    UsageError, CheckpointError, MissingExtraError
        It cannot be used.
    """
    from kd_offline.exports.engines import engine_for, load_export, read_manifest

    said = read_manifest(folder)
    check_origin(said, folder, run)
    chosen = engine_for(said, engine)
    name = f"{said.precision} in {chosen}"
    return Exported(Path(folder), load_export(folder, chosen, said), said.seed, name)


def check_origin(said: ExportManifest, folder: str | Path, run: RunManifest) -> None:
    """Raise a ``MismatchError`` where an export was not made from a run."""
    if (said.seed, said.students) not in {(r.seed, r.digest) for r in run.results}:
        msg = (
            f"the export in {str(folder)!r} holds the students {said.students[:19]} of seed "
            f"{said.seed}, which are not in this run: give the run that it was made from"
        )
        raise MismatchError(msg)
