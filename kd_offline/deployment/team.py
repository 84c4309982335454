"""The checked team of a run or of an export of it, for its profile."""

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


@dataclass(frozen=True, slots=True)
class Team:
    """A checked team; ``student`` is that of the export's seed, or of the run's first."""

    run: RunFolder
    manifest: RunManifest
    student: StudentPolicy
    contracts: tuple[AgentContract, ...]
    folder: Path | None = None
    export: ExportManifest | None = None

    def evaluation(self) -> EvaluationReport | None:
        """Return the evaluation of the export, or else of the run's students; None without one.

        Raises
        ------
        CheckpointError
            The file evaluates another team.
        """
        from kd_offline.runs.folder import read_evaluation, require_evaluation_of

        if self.folder is not None:
            report = read_evaluation(self.folder)
            if report is not None:
                require_evaluation_of(report, self.folder, self.manifest, (self.student.seed,))
                return report
        return self.run.evaluation()

    def latency(self) -> LatencyReport | None:
        """Return the timings of the run; None without them.

        Raises
        ------
        CheckpointError
            The file times other networks.
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


def load_team(run: str | Path, export: str | Path | None) -> Team:
    """Return the checked team of a run, or of an export of it.

    Raises
    ------
    UsageError
        There is no run or export, or the run is not complete.
    CheckpointError
        A file does not match what the run or the export states of it.
    MismatchError
        The export was made from another run.
    """
    from kd_offline.evaluation.exported import check_origin, require_same
    from kd_offline.exports.compact import compact
    from kd_offline.exports.contract import contracts
    from kd_offline.exports.engines import read_manifest
    from kd_offline.runs.folder import open_run
    from kd_offline.runs.teams import load_teams

    folder = open_run(run)
    manifest = folder.manifest()
    teams = load_teams(folder, manifest)
    if export is None:
        agents = contracts(compact(teams[0]), teams[0].card.environment)
        return Team(folder, manifest, teams[0], agents)
    export_manifest = read_manifest(export)
    check_origin(export_manifest, export, manifest)
    student = next(team for team in teams if team.seed == export_manifest.seed)
    require_same(export_manifest, student, Path(export))
    return Team(folder, manifest, student, export_manifest.agents, Path(export), export_manifest)
