"""The team that a profile is about: of a run, or of an export of it, unaltered."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kd_offline.errors import CheckpointError
from kd_offline.schemas.evaluation import EvaluationReport
from kd_offline.schemas.latency import LatencyReport

if TYPE_CHECKING:
    from kd_offline.runs.folder import RunFolder
    from kd_offline.schemas.export import AgentContract, ExportManifest
    from kd_offline.schemas.run import RunManifest
    from kd_offline.students.policy import StudentPolicy

_WEIGHTS = {"parameters", "parameter_bytes", "macs"}  # differ by precision


@dataclass(frozen=True, slots=True)
class Team:
    """A checked team; ``student`` is that of the export's seed, or of the run's first."""

    run: RunFolder
    manifest: RunManifest
    student: StudentPolicy
    contracts: tuple[AgentContract, ...]
    folder: Path | None = None
    export: ExportManifest | None = None

    @property
    def place(self) -> Path:
        """Folder of what is deployed."""
        return self.run.path if self.folder is None else self.folder

    def evaluation(self) -> EvaluationReport | None:
        """Return what was played: of the export where it was, else of the run's students.

        Raises
        ------
        CheckpointError
            The file is of another team.
        """
        from kd_offline.runs.folder import EVALUATION, RunFolder

        for folder in dict.fromkeys((self.place, self.run.path)):
            report = RunFolder(folder).evaluation()
            if report is not None:
                self._require_ours(report, folder / EVALUATION)
                return report
        return None

    def latency(self) -> LatencyReport | None:
        """Return what was timed.

        Raises
        ------
        CheckpointError
            The file is of other networks.
        """
        from kd_offline.runs.folder import LATENCY

        report = self.run.latency()
        macs = {agent.agent: agent.macs for agent in self.contracts}
        for row in () if report is None else report.rows:
            if row.who == "student" and any(macs.get(name) != row.macs for name in row.agents):
                msg = (
                    f"{self.run.path / LATENCY} times other networks than the run's: "
                    f"time them again with kd-offline bench latency {self.run.path}"
                )
                raise CheckpointError(msg)
        return report

    def _require_ours(self, report: EvaluationReport, file: Path) -> None:
        said, ours = self.manifest, self.manifest.seeds
        if report.export is not None:
            ours = (self.student.seed,)
        wanted = (said.dataset.id, said.environment, said.mask, said.method, ours)
        found = (report.dataset, report.environment, report.mask, report.method)
        if (*found, report.distillation_seeds) != wanted:
            msg = (
                f"{file} is the evaluation of another team than that of {self.run.path}: "
                "evaluate again with kd-offline evaluate"
            )
            raise CheckpointError(msg)


def load_team(run: str | Path, export: str | Path | None) -> Team:
    """Open a run, and an export of it where one is given.

    Raises
    ------
    UsageError
        There is no run or export, or the run is not complete.
    CheckpointError
        A file is not what the run or the export says that it is.
    MismatchError
        The export was made from another run.
    """
    from kd_offline.evaluation.exported import check_origin
    from kd_offline.exports.compact import compact
    from kd_offline.exports.contract import contracts
    from kd_offline.exports.draft import checked_teams
    from kd_offline.exports.engines import read_manifest
    from kd_offline.runs.folder import open_run

    folder = open_run(run)
    manifest = folder.manifest()
    teams = checked_teams(folder, manifest)
    if export is None:
        agents = contracts(compact(teams[0]), teams[0].card.environment)
        return Team(folder, manifest, teams[0], agents)
    said = read_manifest(export)
    check_origin(said, export, manifest)
    student = next(team for team in teams if team.seed == said.seed)
    _require_same(said, student, Path(export))
    return Team(folder, manifest, student, said.agents, Path(export), said)


def _require_same(said: ExportManifest, student: StudentPolicy, folder: Path) -> None:
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
