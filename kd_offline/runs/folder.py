"""The run folder: the files of a distillation, its evaluation, its timings and its report."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kd_offline.errors import CheckpointError, Remedy, StorageError, UsageError
from kd_offline.files import (
    append_file,
    make_folder,
    read_file,
    refuse_address,
    remove_tree,
    write_file,
)
from kd_offline.recipes import build
from kd_offline.schemas.document import Document, LinesRecord
from kd_offline.schemas.evaluation import EvaluationReport
from kd_offline.schemas.latency import LatencyReport
from kd_offline.schemas.quantisation import QuantisationReport
from kd_offline.schemas.recipes import DistillRecipe, with_present_names
from kd_offline.schemas.robustness import RobustnessReport
from kd_offline.schemas.run import RunManifest
from kd_offline.sealed_json import holds, lines_record, read_document, write_document
from kd_offline.strict_json import parse
from kd_offline.tracking.jsonl import json_line

RUN = "run.json"
STUDENTS = "students.safetensors"
METRICS = "metrics.jsonl"
EVALUATION = "evaluation.json"
LATENCY = "latency.json"
QUANTISATION = "quantisation.json"
ROBUSTNESS = "robustness.json"
UNFINISHED_ROBUSTNESS = "robustness.unfinished.json"
REPORT = "report.html"
RESUME = "resume"

MetricRow = dict[str, Any]
MAX_METRICS_BYTES = 1 << 30
Report = TypeVar("Report", bound=Document)


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run folder that exists; see :func:`create_run` and :func:`open_run`."""

    path: Path

    @property
    def students(self) -> Path:
        """Path of the students' weights."""
        return self.path / STUDENTS

    @property
    def resume_state(self) -> Path:
        """Folder of the state of an unfinished training; removed once the run is complete."""
        return self.path / RESUME

    @property
    def report(self) -> Path:
        """Path of the HTML report."""
        return self.path / REPORT

    def manifest(self) -> RunManifest:
        """Read ``run.json``.

        Raises
        ------
        CheckpointError, StorageError
            It was altered, is damaged, or is no plain file.
        FormatVersionError
            It was written by a newer version.
        """
        return read_document(RunManifest, self.path / RUN, "restore it or distil again")

    def write_manifest(self, manifest: RunManifest) -> None:
        """Replace ``run.json``."""
        write_document(self.path / RUN, manifest)

    def evaluation(self) -> EvaluationReport | None:
        """Read ``evaluation.json``; None where the run was not evaluated.

        Raises
        ------
        CheckpointError, StorageError, FormatVersionError
            It cannot be used, or evaluates other students than those of this run.
        """
        report = read_evaluation(self.path)
        if report is not None:
            manifest = self.manifest()
            require_evaluation_of(report, self.path, manifest, manifest.seeds)
        return report

    def write_evaluation(self, report: EvaluationReport) -> None:
        """Replace ``evaluation.json``."""
        write_document(self.path / EVALUATION, report, nulls=False)

    def latency(self) -> LatencyReport | None:
        """Read ``latency.json``; None where nothing was timed. Raises as :meth:`evaluation`."""
        report = _read(LatencyReport, self.path / LATENCY, "time it again with bench latency")
        if report is not None and (report.students or report.version >= report.SEALED_SINCE):
            own_digests = digests(self.manifest()).items()
            if not report.students or not report.students.items() <= own_digests:
                raise _other_team(self.path / LATENCY, "bench latency")
        return report

    def write_latency(self, report: LatencyReport) -> None:
        """Replace ``latency.json``."""
        write_document(self.path / LATENCY, report, nulls=False)

    def quantisation(self) -> QuantisationReport | None:
        """Read ``quantisation.json``; None where precisions were not compared.

        Raises as :meth:`evaluation`.
        """
        file = self.path / QUANTISATION
        report = _read(QuantisationReport, file, "make it again with bench quantisation")
        if report is not None and not _same_team(
            report, manifest := self.manifest(), manifest.seeds
        ):
            raise _other_team(file, "bench quantisation")
        return report

    def write_quantisation(self, report: QuantisationReport) -> None:
        """Replace ``quantisation.json``."""
        write_document(self.path / QUANTISATION, report, nulls=False)

    def robustness(self) -> RobustnessReport | None:
        """Read ``robustness.json``, or an audit that is not finished; None where there is neither.

        Raises as :meth:`evaluation`.
        """
        report = read_robustness(self.path) or read_robustness(self.path, finished=False)
        if report is not None:
            manifest = self.manifest()
            require_robustness_of(report, self.path, manifest, manifest.seeds)
        return report

    def write_robustness(self, report: RobustnessReport) -> None:
        """Replace ``robustness.json``, or what is kept of an audit while it is not complete."""
        unfinished = self.path / UNFINISHED_ROBUSTNESS
        if report.status != "complete":
            write_document(unfinished, report, nulls=False)
            return
        write_document(self.path / ROBUSTNESS, report, nulls=False)
        remove_tree(unfinished)

    def metrics(self) -> list[MetricRow]:
        """Read all rows of ``metrics.jsonl``; an incomplete last line is left out.

        Raises
        ------
        CheckpointError, StorageError
            The rows differ from those that ``run.json`` states, or cannot be read.
        """
        manifest, content = self.manifest(), self._lines()
        if manifest.metrics is not None:
            self._require_lines(manifest.metrics, content, whole=manifest.status == "complete")
        return self._rows(content)

    def metrics_record(self) -> LinesRecord:
        """Return size and digest of the rows so far, as a document records them."""
        return lines_record(self._lines())

    def resume_metrics(
        self, keep: Callable[[MetricRow], bool], saved: LinesRecord | None = None
    ) -> None:
        """Drop the rows for which ``keep`` is false, and an incomplete last line, before resuming.

        ``saved`` is the record of the rows in the state that training resumes from.
        """
        content = self._lines()
        for record in (self.manifest().metrics, saved):
            if record is not None:
                self._require_lines(record, content)
        rows = [row for row in self._rows(content) if keep(row)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write_file(self.path / METRICS, text)

    def _lines(self) -> bytes:
        file = self.path / METRICS
        return read_file(file, MAX_METRICS_BYTES) if file.exists() else b""

    def _require_lines(self, record: LinesRecord, content: bytes, *, whole: bool = False) -> None:
        if not holds(record, content) or (whole and len(content) != record.bytes):
            msg = (
                f"{str(self.path / METRICS)!r} does not hold the rows that its run states: it was "
                "damaged or edited; restore it or distil again"
            )
            raise CheckpointError(msg)

    def _rows(self, content: bytes) -> list[MetricRow]:
        try:
            rows = [parse(line, utf8=True) for line in content.split(b"\n")[:-1]]
        except ValueError as error:
            rows, reason = [None], str(error)
        else:
            reason = "a line is no JSON object"
        if not all(isinstance(row, dict) for row in rows):
            msg = f"{str(self.path / METRICS)!r} is damaged: {reason}; restore it or distil again"
            raise CheckpointError(msg)
        return rows

    def append_metrics(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows: flat mappings of names to numbers or strings.

        ``seed``, ``epoch`` and ``split`` ("train", or the name of the held-out part) locate a row;
        every other number is a curve of the report. Numbers that are not finite become null.
        """
        text = "".join(map(json_line, rows))
        append_file(self.path / METRICS, text)


def create_run(path: str | Path, manifest: RunManifest, *, overwrite: bool = False) -> RunFolder:
    """Create a run folder that holds only ``run.json``.

    Raises
    ------
    StorageError
        There is something at ``path`` already, or the disk refuses.
    """
    run = RunFolder(emptied(path, overwrite=overwrite))
    run.write_manifest(manifest)
    return run


def emptied(path: str | Path, *, overwrite: bool = False) -> Path:
    """Return an empty folder for a run, without the run that was there.

    Raises
    ------
    StorageError
        There is something at ``path`` that may not be replaced, or the disk refuses.
    """
    folder = Path(path)
    check_free(folder, overwrite=overwrite)
    make_folder(folder)
    # A link to a folder stays one. What makes it a run goes last, so a killed removal is repeated.
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name == RUN):
        remove_tree(entry)
    return folder


def check_free(path: str | Path, *, overwrite: bool = False) -> None:
    """Raise the error that :func:`create_run` would raise, as far as known in advance."""
    folder = Path(path)
    refuse_address(folder)
    if not folder.exists() or _is_empty(folder):
        return
    if not overwrite:
        msg = f"{folder} already exists"
        go_on = Remedy("continue it with", resume=True), Remedy("replace it with", overwrite=True)
        raise StorageError(msg, Remedy("give another path"), *go_on)
    if not (folder / RUN).is_file():
        msg = f"{folder} exists and is not a run: remove it yourself or give another path"
        raise StorageError(msg)


def open_run(path: str | Path) -> RunFolder:
    """Open a run folder.

    Raises
    ------
    UsageError
        There is no run at ``path``.
    """
    folder = Path(path)
    if not (folder / RUN).is_file():
        msg = (
            f"{folder} is not a run: it holds no {RUN}, so give a folder made by kd-offline distill"
        )
        raise UsageError(msg)
    return RunFolder(folder)


def recipe_of(manifest: RunManifest) -> DistillRecipe:
    """Return the recipe of a run; recipes of former versions are converted.

    Raises
    ------
    UnknownNameError, UsageError
        ``run.json`` states no valid recipe.
    """
    return build(DistillRecipe, [with_present_names(manifest.recipe)], "the run's recipe")


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def read_evaluation(folder: Path) -> EvaluationReport | None:
    """Read the ``evaluation.json`` of a run or an export; None where there is none.

    Raises
    ------
    CheckpointError, StorageError, FormatVersionError
        It cannot be used.
    """
    return _read(EvaluationReport, folder / EVALUATION, "evaluate again")


def read_robustness(folder: Path, *, finished: bool = True) -> RobustnessReport | None:
    """Read the audit of a run or an export, or one that is not finished; None without one.

    Raises
    ------
    CheckpointError, StorageError, FormatVersionError
        It cannot be used.
    """
    file = folder / (ROBUSTNESS if finished else UNFINISHED_ROBUSTNESS)
    return _read(RobustnessReport, file, "make it again with audit")


def require_robustness_of(
    report: RobustnessReport, folder: Path, manifest: RunManifest, seeds: tuple[int, ...]
) -> None:
    """Raise a ``CheckpointError`` unless the audit in ``folder`` is of students of these seeds."""
    own = {str(r.seed): r.digest for r in manifest.results if r.seed in seeds}
    if not report.students.items() <= own.items():
        raise _other_team(folder / ROBUSTNESS, "audit")


def require_evaluation_of(
    report: EvaluationReport, folder: Path, manifest: RunManifest, seeds: tuple[int, ...]
) -> None:
    """Raise a ``CheckpointError`` unless the evaluation in ``folder`` is of these students."""
    if not _same_team(report, manifest, seeds):
        raise _other_team(folder / EVALUATION, "evaluate")


def digests(manifest: RunManifest) -> dict[str, str]:
    """Return the digest of the students of every distillation seed, by the seed as text."""
    return {str(result.seed): result.digest for result in manifest.results}


def _same_team(
    report: EvaluationReport | QuantisationReport, manifest: RunManifest, seeds: tuple[int, ...]
) -> bool:
    expected = (manifest.dataset.id, manifest.environment, manifest.mask, manifest.method, seeds)
    described = (report.dataset, report.environment, report.mask, report.method)
    all_digests = digests(manifest)
    own_digests = {str(seed): all_digests.get(str(seed)) for seed in seeds}
    stated_digests = report.students or (report.version < report.SEALED_SINCE and own_digests)
    return (*described, report.distillation_seeds) == expected and stated_digests == own_digests


def _other_team(file: Path, command: str) -> CheckpointError:
    return CheckpointError(
        f"{str(file)!r} is of other students than those of its run: make it again with "
        f"kd-offline {command}"
    )


def _read(model: type[Report], file: Path, remedy: str) -> Report | None:
    return read_document(model, file, remedy) if os.path.lexists(file) else None
