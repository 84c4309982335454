"""Names and settings as trackers take them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def path_part(text: str) -> str:
    """Return a text as one part of a path: letters, digits, ``-``, ``_`` and dots."""
    return re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII).strip(".-") or "run"


def metric_name(text: str) -> str:
    """Return a name that every tracker takes: letters, digits, and ``/``, ``.``, ``_``, ``-``."""
    return re.sub(r"[^\w/. -]+", "-", text, flags=re.ASCII)


def flat(settings: Mapping[str, Any], head: str = "") -> dict[str, Any]:
    """Return nested settings by dotted names: ``optimisation.epochs``."""
    out: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{head}{name}.")
        else:
            out[f"{head}{name}"] = value
    return out
