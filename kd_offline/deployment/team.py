"""The checked team of a run or of an export of it, for its profile."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kd_offline.errors import CheckpointError
from kd_offline.schemas.evaluation import EvaluationReport
from kd_offline.schemas.latency import LatencyReport
from kd_offline.schemas.robustness import RobustnessReport

if TYPE_CHECKING:
    from kd_offline.runs.complete import CompleteRun
    from kd_offline.schemas.export import AgentContract, ExportManifest
    from kd_offline.students.policy import StudentPolicy


@dataclass(frozen=True, slots=True)
class Team:
    """A checked team; ``student`` is that of the export's seed, or of the run's first."""

    run: CompleteRun
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
                require_evaluation_of(report, self.folder, self.run.manifest, (self.student.seed,))
                return report
        return self.run.folder.evaluation()

    def robustness(self) -> RobustnessReport | None:
        """Return the finished audit of the export, or else that of the run; None without one.

        Raises
        ------
        CheckpointError
            The file is of another team.
        """
        from kd_offline.runs.folder import read_robustness, require_robustness_of

        if self.folder is not None:
            report = read_robustness(self.folder)
            if report is not None:
                require_robustness_of(report, self.folder, self.run.manifest, (self.student.seed,))
                return report
        return self.run.folder.robustness()

    def latency(self) -> LatencyReport | None:
        """Return the timings of the run; None without them.

        Raises
        ------
        CheckpointError
            The file times other networks.
        """
        from kd_offline.runs.folder import LATENCY

        report = self.run.folder.latency()
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
    from kd_offline.evaluation.exported import own_student
    from kd_offline.exports.compact import compact
    from kd_offline.exports.contract import contracts
    from kd_offline.exports.engines import read_manifest
    from kd_offline.runs.complete import complete_run

    complete = complete_run(run)
    if export is None:
        student = complete.team()
        return Team(complete, student, contracts(compact(student), student.card.environment))
    manifest = read_manifest(export)
    student = own_student(manifest, export, complete)
    return Team(complete, student, manifest.agents, Path(export), manifest)
