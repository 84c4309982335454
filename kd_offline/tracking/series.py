"""Convert names and settings to the form that trackers accept."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def path_part(text: str) -> str:
    """Return a text as one component of a path: letters, digits, ``-``, ``_`` and dots."""
    return re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII).strip(".-") or "run"


def metric_name(text: str) -> str:
    """Return a name that every tracker accepts: letters, digits, and ``/``, ``.``, ``_``, ``-``."""
    return re.sub(r"[^\w/. -]+", "-", text, flags=re.ASCII)


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one dict with dotted keys, such as ``optimisation.epochs``."""
    flattened: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flattened |= flat(value, f"{prefix}{name}.")
        else:
            flattened[f"{prefix}{name}"] = value
    return flattened
