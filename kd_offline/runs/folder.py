"""The run folder: where a distillation leaves everything that it is judged by."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from kd_offline.errors import CheckpointError, StorageError, UsageError
from kd_offline.files import append_file, check_major, make_folder, remove_tree, write_file
from kd_offline.schemas.evaluation import EvaluationReport
from kd_offline.schemas.latency import LatencyReport
from kd_offline.schemas.quantisation import QuantisationReport
from kd_offline.schemas.run import RUN_FORMAT, RunManifest

RUN = "run.json"
STUDENTS = "students.safetensors"
METRICS = "metrics.jsonl"
EVALUATION = "evaluation.json"
LATENCY = "latency.json"
QUANTISATION = "quantisation.json"
REPORT = "report.html"
RESUME = "resume"

MetricRow = dict[str, Any]
Model = TypeVar("Model")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run folder that exists; see :func:`create_run` and :func:`open_run`."""

    path: Path

    @property
    def students(self) -> Path:
        """File of the students' weights."""
        return self.path / STUDENTS

    @property
    def resume_state(self) -> Path:
        """Folder of an unfinished training's state; gone once the run is complete."""
        return self.path / RESUME

    @property
    def report(self) -> Path:
        """File of the HTML report."""
        return self.path / REPORT

    def manifest(self) -> RunManifest:
        """Read ``run.json``.

        Raises
        ------
        CheckpointError
            It is damaged.
        FormatVersionError
            It was written by a newer version.
        """
        text = (self.path / RUN).read_text(encoding="utf-8")
        check_major(text, self.path / RUN, RUN_FORMAT)
        return _parse(RunManifest.model_validate_json, text, self.path / RUN)

    def write_manifest(self, manifest: RunManifest) -> None:
        """Replace ``run.json``."""
        write_file(self.path / RUN, manifest.model_dump_json(indent=2) + "\n")

    def evaluation(self) -> EvaluationReport | None:
        """Read ``evaluation.json``; None where the run was not evaluated."""
        file = self.path / EVALUATION
        if not file.exists():
            return None
        return _parse(EvaluationReport.model_validate_json, file.read_text(encoding="utf-8"), file)

    def write_evaluation(self, report: EvaluationReport) -> None:
        """Replace ``evaluation.json``."""
        write_file(self.path / EVALUATION, report.json_text())

    def latency(self) -> LatencyReport | None:
        """Read ``latency.json``; None where nothing was timed."""
        file = self.path / LATENCY
        if not file.exists():
            return None
        return _parse(LatencyReport.model_validate_json, file.read_text(encoding="utf-8"), file)

    def write_latency(self, report: LatencyReport) -> None:
        """Replace ``latency.json``."""
        write_file(self.path / LATENCY, report.json_text())

    def quantisation(self) -> QuantisationReport | None:
        """Read ``quantisation.json``; None where precisions were not compared."""
        file = self.path / QUANTISATION
        if not file.exists():
            return None
        return _parse(
            QuantisationReport.model_validate_json, file.read_text(encoding="utf-8"), file
        )

    def write_quantisation(self, report: QuantisationReport) -> None:
        """Replace ``quantisation.json``."""
        write_file(self.path / QUANTISATION, report.json_text())

    def metrics(self) -> list[MetricRow]:
        """Read all rows of ``metrics.jsonl``; a last line torn by a kill is left out."""
        return [json.loads(line) for line in _whole_lines(self.path / METRICS)]

    def append_metrics(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows: flat mappings of names to numbers or strings.

        ``seed``, ``epoch`` and ``split`` ("train", or the part that is held out) say where a row
        belongs; every
        other number is a curve of the report. Numbers that are not finite become null.
        """
        text = "".join(json.dumps(_finite(row)) + "\n" for row in rows)
        append_file(self.path / METRICS, text)

    def keep_metrics(self, keep: Callable[[MetricRow], bool]) -> None:
        """Drop the rows that ``keep`` refuses and a torn last line, before work is resumed."""
        kept = [row for row in self.metrics() if keep(row)]
        text = "".join(json.dumps(row) + "\n" for row in kept)
        write_file(self.path / METRICS, text)


def create_run(path: str | Path, manifest: RunManifest, *, overwrite: bool = False) -> RunFolder:
    """Create a run folder that holds only ``run.json``.

    Raises
    ------
    StorageError
        There is something at ``path`` already, or the disk refuses.
    """
    folder = Path(path)
    check_free(folder, overwrite=overwrite)
    make_folder(folder)
    for entry in folder.iterdir():  # a link to a folder stays one
        remove_tree(entry)
    run = RunFolder(folder)
    run.write_manifest(manifest)
    return run


def check_free(path: str | Path, *, overwrite: bool = False) -> None:
    """Raise a ``StorageError`` where :func:`create_run` would not find its place free."""
    folder = Path(path)
    if not folder.exists() or _is_empty(folder):
        return
    if not overwrite:
        msg = f"{folder} already exists: give another path, resume it, or pass --overwrite"
        raise StorageError(msg)
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


def _finite(row: Mapping[str, Any]) -> MetricRow:
    """Return the row with null for NaN and infinities, which JSON does not have."""
    bad = (k for k, v in row.items() if isinstance(v, float) and not math.isfinite(v))
    return dict(row) | dict.fromkeys(bad)


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _whole_lines(file: Path) -> list[str]:
    if not file.exists():
        return []
    return file.read_text(encoding="utf-8").split("\n")[:-1]


def _parse(read: Callable[[str], Model], text: str, file: Path) -> Model:
    try:
        return read(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        msg = f"{file} is damaged: {where}: {first['msg']}; restore it or distil again"
        raise CheckpointError(msg) from error
