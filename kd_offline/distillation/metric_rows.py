"""The metrics of a distillation: names for observers, and lines of ``metrics.jsonl``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from kd_offline.tracking.jsonl import Line, json_line

_PLACE = ("seed", "epoch", "split")


def metric_names(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a row by name: ``train/kl``, or ``validation/kl`` of any other part."""
    head = "train" if row["split"] == "train" else "validation"
    numbers = {name: value for name, value in row.items() if name not in _PLACE}
    return {f"{head}/{name}": math.nan if x is None else x for name, x in numbers.items()}


def series_of(seed: int) -> str:
    """Return the series that a seed's metrics belong to."""
    return f"seed {seed}"


def row_line(part: str) -> Line:
    """Return a formatter of metrics as lines of ``metrics.jsonl``; ``part`` is held out."""

    def line(step: int, values: Mapping[str, float], series: str) -> str:
        head = next(iter(values), "validation").partition("/")[0]
        place = (int(series.removeprefix("seed ")), step, "train" if head == "train" else part)
        named = {name.partition("/")[2]: value for name, value in values.items()}
        return json_line(dict(zip(_PLACE, place, strict=True)) | named)

    return line
