"""JSON Schemas of every document: ``python -m kd_offline.schemas.publish --write schemas/``.

``--check schemas/`` writes nothing and exits with 1 when a published file is not in step.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from kd_offline.errors import UnknownNameError
from kd_offline.schemas.dataset import DatasetManifest, InspectReport, VerifyReport
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.evaluation import EvaluationReport
from kd_offline.schemas.expert import ExpertCard, TrainProgress, TrainRecipe
from kd_offline.schemas.mask import MaskFile
from kd_offline.schemas.outputs import (
    CacheOutput,
    CardOutput,
    ConvertOutput,
    DiffReport,
    DistillOutput,
    DoctorReport,
    EditOutput,
    EvaluateOutput,
    RecordOutput,
    RerunReport,
    TransferOutput,
)
from kd_offline.schemas.recipes import DistillRecipe
from kd_offline.schemas.run import RunManifest
from kd_offline.schemas.student import StudentCard

MODELS: dict[str, type[BaseModel]] = {
    "dataset": DatasetManifest,
    "environment": EnvironmentSpec,
    "expert": ExpertCard,
    "training-curve": TrainProgress,
    "train-recipe": TrainRecipe,
    "distill-recipe": DistillRecipe,
    "mask": MaskFile,
    "run": RunManifest,
    "students": StudentCard,
    "evaluation": EvaluationReport,
    "record-output": RecordOutput,
    "inspect-output": InspectReport,
    "verify-output": VerifyReport,
    "convert-output": ConvertOutput,
    "edit-output": EditOutput,
    "diff-output": DiffReport,
    "card-output": CardOutput,
    "distill-output": DistillOutput,
    "evaluate-output": EvaluateOutput,
    "rerun-output": RerunReport,
    "doctor-output": DoctorReport,
    "transfer-output": TransferOutput,
    "cache-output": CacheOutput,
}
"""Name of a document -> its model."""

VERSIONS: dict[str, str] = dict.fromkeys(MODELS, "1.0")
"""Version of each document's format; an incompatible change raises it and keeps the old file."""


def json_schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema of a document.

    Raises
    ------
    UnknownNameError
        There is no such document.
    """
    if name not in MODELS:
        raise UnknownNameError(what="document", got=name, allowed=MODELS)
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:kd-offline:schema:{name}-{VERSIONS[name]}",
    }
    return head | MODELS[name].model_json_schema(by_alias=True)


def schema_text(name: str) -> str:
    """Return the JSON Schema of a document, as it is published."""
    return json.dumps(json_schema(name), indent=2) + "\n"


def file_name(name: str) -> str:
    """Return the name of a document's published file."""
    return f"{name}-{VERSIONS[name]}.schema.json"


def write(folder: Path) -> None:
    """Write the current schemas into ``folder``; files of older versions stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in MODELS:
        (folder / file_name(name)).write_text(schema_text(name), encoding="utf-8")


def stale(folder: Path) -> list[str]:
    """Return the files in ``folder`` that are missing, out of step, or of no known document."""
    wrong = [file_name(name) for name in MODELS if not _in_step(folder, name)]
    found = (file.name for file in folder.glob("*.schema.json"))
    return sorted(wrong + [file for file in found if file.rsplit("-", 1)[0] not in MODELS])


def _in_step(folder: Path, name: str) -> bool:
    file = folder / file_name(name)
    return file.exists() and file.read_text("utf-8") == schema_text(name)


def main(arguments: list[str]) -> int:
    """Write the schemas, or check that they are in step; return the exit status."""
    mode, folder = arguments
    if mode == "--write":
        write(Path(folder))
        return 0
    if wrong := stale(Path(folder)):
        sys.stderr.write(f"not in step: {', '.join(wrong)}; run make schemas\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
