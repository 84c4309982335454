"""The learning curve of a training: one line of JSON for each iteration."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from kd_offline.errors import CheckpointError
from kd_offline.files import read_file, write_file
from kd_offline.schemas.document import LinesRecord
from kd_offline.schemas.expert import TrainProgress
from kd_offline.sealed_json import holds, lines_record

MAX_BYTES = 1 << 30
_RETURN = "train/return/"


def metric_names(progress: TrainProgress) -> dict[str, float]:
    """Return the values of a line by the names of metrics."""
    numbers = progress.model_dump(exclude_none=True, exclude={"frames", "returns"})
    metrics = {f"train/{name}": value for name, value in numbers.items()}
    return metrics | {f"{_RETURN}{side}": value for side, value in progress.returns.items()}


def line(step: int, values: Mapping[str, float], series: str) -> str:
    """Return the line of metrics that :func:`metric_names` named; ``step``: frames."""
    named = {name: value for name, value in values.items() if not name.startswith(_RETURN)}
    progress = TrainProgress.model_validate(
        {
            "frames": step,
            "returns": {n.removeprefix(_RETURN): v for n, v in values.items() if n not in named},
            **{name.removeprefix("train/"): value for name, value in named.items()},
        }
    )
    return progress.model_dump_json(exclude_none=True) + "\n"


def read(path: Path) -> Iterator[TrainProgress]:
    """Yield the lines of a learning curve; none where it is missing."""
    content = read_file(path, MAX_BYTES) if path.is_file() else b""
    for text in content.splitlines():
        yield TrainProgress.model_validate_json(text)


def truncate(path: Path, iterations: int, saved: LinesRecord | None) -> None:
    """Remove the lines written after the checkpoint from which training resumes.

    ``saved`` is the record of the lines in the card.

    Raises
    ------
    CheckpointError
        They are not those lines.
    """
    content = read_file(path, MAX_BYTES) if path.is_file() else b""
    if saved is not None and not holds(saved, content):
        msg = (
            f"{str(path)!r} does not hold the lines that its expert states: it was damaged or "
            "edited; restore it or begin the training in another folder"
        )
        raise CheckpointError(msg)
    if content:
        lines = content.splitlines(keepends=True)
        lines_kept = [
            x for x in lines if x.endswith(b"\n") and json.loads(x)["iteration"] <= iterations
        ]
        write_file(path, b"".join(lines_kept))


def record(path: Path) -> LinesRecord | None:
    """Return the record of the lines for the card; None where there are none."""
    return lines_record(read_file(path, MAX_BYTES)) if path.is_file() else None
