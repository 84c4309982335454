"""JSON Schemas of every document: ``python -m kd_offline.schemas.publish --write schemas/``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pydantic import BaseModel

from kd_offline.errors import UnknownNameError
from kd_offline.schemas.dataset import DatasetManifest, InspectReport, VerifyReport
from kd_offline.schemas.evaluation import EvaluationReport
from kd_offline.schemas.expert import ExpertCard, TrainProgress, TrainRecipe
from kd_offline.schemas.mask import MaskFile
from kd_offline.schemas.outputs import (
    DistillOutput,
    DoctorReport,
    EvaluateOutput,
    RecordOutput,
    RerunReport,
)
from kd_offline.schemas.recipes import DistillRecipe
from kd_offline.schemas.run import RunManifest
from kd_offline.schemas.student import StudentCard

MODELS: dict[str, type[BaseModel]] = {
    "dataset": DatasetManifest,
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
    "distill-output": DistillOutput,
    "evaluate-output": EvaluateOutput,
    "rerun-output": RerunReport,
    "doctor-output": DoctorReport,
}
"""Name of a document -> its model."""


def schema_text(name: str) -> str:
    """Return the JSON Schema of a document, as it is published.

    Raises
    ------
    UnknownNameError
        There is no such document.
    """
    if name not in MODELS:
        raise UnknownNameError(what="document", got=name, allowed=MODELS)
    schema = MODELS[name].model_json_schema(mode="serialization", by_alias=True)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(head | schema, indent=2) + "\n"


def write(folder: Path) -> None:
    """Write every schema into ``folder`` and remove those of documents that are gone."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.schema.json"):
        file.unlink()
    for name in MODELS:
        (folder / f"{name}.schema.json").write_text(schema_text(name), encoding="utf-8")


def stale(folder: Path) -> list[str]:
    """Return the files in ``folder`` that are not as they would be written."""
    wanted = {f"{name}.schema.json": schema_text(name) for name in MODELS}
    found = {file.name: file.read_text("utf-8") for file in folder.glob("*.schema.json")}
    names = sorted(wanted.keys() | found.keys())
    return [name for name in names if wanted.get(name) != found.get(name)]


def main(arguments: list[str]) -> int:
    """Write the schemas, or check that they are in step."""
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
