"""The learning curve of a training: one line of JSON for each iteration."""

from __future__ import annotations

import json
from pathlib import Path

from kd_offline.files import append_file, write_file
from kd_offline.schemas.expert import TrainProgress


def append(path: Path, progress: TrainProgress) -> None:
    """Write one line more."""
    append_file(path, progress.model_dump_json(exclude_none=True) + "\n")


def truncate(path: Path, iterations: int) -> None:
    """Drop the lines that were written after the checkpoint that training continues from."""
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [x for x in lines if x.endswith("\n") and json.loads(x)["iteration"] <= iterations]
        write_file(path, "".join(kept))
