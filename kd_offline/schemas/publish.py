"""JSON Schemas of every document: ``python -m kd_offline.schemas.publish --write schemas/``.

``--check schemas/`` writes nothing and exits with 1 when a published file is not in step.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from importlib import import_module
from typing import Any, cast

from pydantic import BaseModel

from kd_offline.errors import UnknownNameError
from kd_offline.generated_files import GeneratedFolder
from kd_offline.schemas.collaboration import CollaborationProfile
from kd_offline.schemas.dataset import DatasetManifest, InspectReport, VerifyReport
from kd_offline.schemas.dataset_outputs import (
    CacheOutput,
    CardOutput,
    ConvertOutput,
    DiffReport,
    EditOutput,
    PlacesOutput,
    TransferOutput,
)
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.evaluation import EvaluationReport
from kd_offline.schemas.expert import TrainProgress
from kd_offline.schemas.export import ExportManifest
from kd_offline.schemas.hardware import HardwareProfile
from kd_offline.schemas.interface import InterfaceCheck, InterfaceSpec
from kd_offline.schemas.latency import LatencyReport
from kd_offline.schemas.mask import MaskFile
from kd_offline.schemas.online import AdaptationReport, DaggerReport
from kd_offline.schemas.outputs import (
    DistillOutput,
    DoctorReport,
    ErrorOutput,
    EvaluateOutput,
    ExportOutput,
    HardwareOutput,
    RecordOutput,
    RerunReport,
)
from kd_offline.schemas.quantisation import QuantisationReport
from kd_offline.schemas.recipes import DistillRecipe
from kd_offline.schemas.record_recipe import RecordRecipe
from kd_offline.schemas.robustness import RobustnessReport
from kd_offline.schemas.run import RunManifest
from kd_offline.schemas.student import StudentCard
from kd_offline.schemas.sweep import SweepReport

MODELS: dict[str, type[BaseModel] | str] = {
    "dataset": DatasetManifest,
    "environment": EnvironmentSpec,
    "expert": "kd_offline.experts.card:ExpertCard",
    "train-seeds-output": "kd_offline.experts.card:TrainSeedsOutput",
    "training-curve": TrainProgress,
    "train-recipe": "kd_offline.experts.card:RecipeDocument",
    "record-recipe": RecordRecipe,
    "distill-recipe": DistillRecipe,
    "mask": MaskFile,
    "hardware": HardwareProfile,
    "run": RunManifest,
    "students": StudentCard,
    "evaluation": EvaluationReport,
    "export": ExportManifest,
    "latency": LatencyReport,
    "quantisation": QuantisationReport,
    "robustness": RobustnessReport,
    "profile": CollaborationProfile,
    "interface": InterfaceSpec,
    "error-output": ErrorOutput,
    "record-output": RecordOutput,
    "inspect-output": InspectReport,
    "verify-output": VerifyReport,
    "convert-output": ConvertOutput,
    "edit-output": EditOutput,
    "diff-output": DiffReport,
    "card-output": CardOutput,
    "distill-output": DistillOutput,
    "sweep": SweepReport,
    "dagger": DaggerReport,
    "adaptation": AdaptationReport,
    "evaluate-output": EvaluateOutput,
    "export-output": ExportOutput,
    "deploy-check-output": InterfaceCheck,
    "rerun-output": RerunReport,
    "doctor-output": DoctorReport,
    "hardware-output": HardwareOutput,
    "transfer-output": TransferOutput,
    "places-output": PlacesOutput,
    "cache-output": CacheOutput,
}
"""Name of a document -> its model, or ``module:name`` of one that is not defined in schemas."""

VERSIONS: dict[str, str] = {
    **dict.fromkeys(MODELS, "1.0"),
    **dict.fromkeys(("distill-recipe", "robustness", "sweep"), "2.0"),
}
"""Version of each document's format; an incompatible change raises it and keeps the old file."""


def model(name: str) -> type[BaseModel]:
    """Return the model of a document.

    Raises
    ------
    UnknownNameError
        There is no such document.
    """
    if name not in MODELS:
        raise UnknownNameError(what="document", got=name, allowed=MODELS)
    found = MODELS[name]
    if not isinstance(found, str):
        return found
    module, _, attribute = found.partition(":")
    return cast(type[BaseModel], getattr(import_module(module), attribute))


def json_schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema of a document; raises as :func:`model`."""
    described = model(name)
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:kd-offline:schema:{name}-{VERSIONS[name]}",
    }
    return head | described.model_json_schema(by_alias=True)


@cache
def schema_text(name: str) -> str:
    """Return the JSON Schema of a document, as it is published."""
    return json.dumps(json_schema(name), indent=2) + "\n"


def file_name(name: str) -> str:
    """Return the name of a document's published file."""
    return f"{name}-{VERSIONS[name]}.schema.json"


def texts() -> dict[str, str]:
    """Return every JSON Schema as it is published, by file name."""
    return {file_name(name): schema_text(name) for name in MODELS}


_FOLDER = GeneratedFolder(
    texts, "*.schema.json", "schemas", keeps=lambda file: file.rsplit("-", 1)[0] in MODELS
)
stale, write, main = _FOLDER.stale, _FOLDER.write, _FOLDER.main


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
