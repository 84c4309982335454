"""An export that plays in place of the students of its run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kd_offline.errors import CheckpointError, MismatchError
from kd_offline.schemas.export import ExportManifest
from kd_offline.schemas.run import RunManifest
from kd_offline.types import TeamPolicy

if TYPE_CHECKING:
    from kd_offline.students.policy import StudentPolicy

_WEIGHTS = {"parameters", "parameter_bytes", "macs"}  # differ by precision


@dataclass(frozen=True, slots=True)
class Exported:
    """The exported team of one distillation seed."""

    folder: Path
    team: TeamPolicy
    seed: int
    name: str  # precision and engine


def load_exported(
    folder: str | Path, engine: str | None, run: RunManifest, teams: Sequence[StudentPolicy]
) -> Exported:
    """Open an export of a run with these teams.

    Raises
    ------
    MismatchError
        It was not made from this run.
    UsageError, CheckpointError, MissingExtraError
        It cannot be used, or says of itself what its students are not.
    """
    from kd_offline.exports.engines import engine_for, load_export, read_manifest

    said = read_manifest(folder)
    check_origin(said, folder, run)
    require_same(said, next(team for team in teams if team.seed == said.seed), Path(folder))
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


def require_same(said: ExportManifest, student: StudentPolicy, folder: Path) -> None:
    """Refuse an ``export.json`` that tells something else than the students themselves."""
    from kd_offline.exports.compact import compact
    from kd_offline.exports.contract import contracts
    from kd_offline.exports.engines import MANIFEST
    from kd_offline.schemas.export import RESET

    card = student.card
    own = contracts(compact(student), card.environment)
    wanted = (card.environment.id, card.mask, card.random_k, card.method, card.dataset, RESET)
    found = (said.environment, said.mask, said.random_k, said.method, said.dataset, said.reset)
    same = [agent.model_dump(exclude=_WEIGHTS) for agent in own] == [
        agent.model_dump(exclude=_WEIGHTS) for agent in said.agents
    ]
    if found != wanted or not same:
        msg = (
            f"{folder / MANIFEST} does not describe the students that it was made from: it was "
            "altered, so export again"
        )
        raise CheckpointError(msg)
