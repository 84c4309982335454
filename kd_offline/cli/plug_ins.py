"""Parts of installed packages in the help of the commands that take them; nothing is imported."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from kd_offline.registry import Registry

_TERMS = "kd_offline.distillation.terms:TERMS"
_FAMILIES = "kd_offline.students.families:FAMILIES"
_ALGORITHMS = "kd_offline.experts.algorithms:ALGORITHMS"
_OBSERVERS = "kd_offline.tracking:OBSERVERS"
_ENVIRONMENTS = "kd_offline.environments:ENVIRONMENTS"
_EXECUTORS = "kd_offline.execution:EXECUTORS"
TAKEN: dict[str, tuple[str, ...]] = {
    "train": (_ALGORITHMS, _ENVIRONMENTS, _OBSERVERS),
    "record": (_ENVIRONMENTS, _OBSERVERS),
    "distill": (_TERMS, _FAMILIES, _OBSERVERS),
    "sweep": (_TERMS, _FAMILIES, _EXECUTORS, _OBSERVERS),
    "evaluate": (_OBSERVERS,),
    "envs": (_ENVIRONMENTS,),
}
"""Command -> kinds of parts that its options name."""


def installed(command: str) -> list[tuple[str, str]]:
    """Return the plug-ins' parts for a command, each with its kind and package."""
    rows = []
    for place in TAKEN.get(command, ()):
        module, _, name = place.partition(":")
        registry: Registry[Any] = getattr(import_module(module), name)
        rows += [
            (part, f"{registry.what} of {origin}") for part, origin in registry.plug_ins().items()
        ]
    return rows
