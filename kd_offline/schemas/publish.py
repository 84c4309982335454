"""Write the published JSON Schemas, or tell which of them are out of step.

Run ``python -m kd_offline.schemas.publish`` in the root of the repository; with ``--check`` nothing
is written and the exit status is 1 when a file differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import BaseModel

DIALECT = "https://json-schema.org/draft/2020-12/schema"

# File name with its format version -> where the model is. A published file never changes its
# meaning: an incompatible model gets a new version, and the old file stays.
PUBLISHED: dict[str, str] = {
    "dataset-manifest-1.0": "kd_offline.schemas.dataset:DatasetManifest",
    "dataset-inspect-1.0": "kd_offline.schemas.dataset:InspectReport",
    "dataset-verify-1.0": "kd_offline.schemas.dataset:VerifyReport",
    "environment-1.0": "kd_offline.schemas.environment:EnvironmentSpec",
    "mask-file-1.0": "kd_offline.schemas.mask:MaskFile",
}


def load_model(reference: str) -> type[BaseModel]:
    """Return the model that ``module:Class`` names."""
    module, name = reference.split(":")
    model: type[BaseModel] = getattr(import_module(module), name)
    return model


def json_schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema that is published under ``name``."""
    schema = load_model(PUBLISHED[name]).model_json_schema(by_alias=True)
    return {"$schema": DIALECT, "$id": f"urn:kd-offline:schema:{name}"} | schema


def file_text(name: str) -> str:
    """Return the exact text of a published file."""
    return json.dumps(json_schema(name), indent=2, ensure_ascii=True) + "\n"


def texts(names: Mapping[str, str] = PUBLISHED) -> dict[str, str]:
    """Return the text of every published file by its file name."""
    return {f"{name}.schema.json": file_text(name) for name in names}


def out_of_step(folder: Path) -> list[str]:
    """Return the names of the files in ``folder`` that are missing, stale or no longer listed."""
    want = texts()
    have = {path.name: path.read_text("ascii") for path in folder.glob("*.schema.json")}
    return sorted(name for name in want.keys() | have.keys() if want.get(name) != have.get(name))


def write(folder: Path) -> list[str]:
    """Write the files that differ and return their names; files not listed are left alone."""
    changed = [name for name in out_of_step(folder) if name in texts()]
    for name in changed:
        (folder / name).write_text(texts()[name], "ascii")
    return changed


def main(arguments: list[str] | None = None) -> int:
    """Write or check the files in ``schemas/``; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    parser.add_argument("--folder", type=Path, default=Path("schemas"))
    options = parser.parse_args(arguments)
    options.folder.mkdir(exist_ok=True)
    names = out_of_step(options.folder) if options.check else write(options.folder)
    verdict = "out of step" if options.check else "written"
    for name in names:
        print(f"{options.folder / name}: {verdict}", file=sys.stderr)
    return int(options.check and bool(names))


if __name__ == "__main__":
    sys.exit(main())
