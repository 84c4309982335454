"""Values that the shell completes: names that are at hand without loading anything heavy."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable
from importlib.resources import files

METHODS = (
    *("kd-marl", "kd-marl-eq6", "kl", "q", "bc", "bc-argmax", "ctds", "igm-bc", "logits", "tseng"),
    *("relation-attention", "mixer", "hidden-features", "neighbours", "multi-teacher"),
    *("ddn-external", "ptde"),
)
EXPERTS = ("bundled", "bundled:large", "bundled:mlp", "bundled:masked")
ENGINES = ("torch", "onnx", "c", "c-ctypes", "numpy")
MAPS = ("3m", "8m", "5m_vs_6m", "3s5z", "2s3z", "smacv2_5_units")

Completion = Callable[[str], list[str]]


def one_of(*names: str) -> Completion:
    """Return a completion function for one of ``names``."""
    return lambda incomplete: _matching(names, incomplete)


def algorithms(incomplete: str) -> list[str]:
    """Complete the name of an algorithm that trains experts."""
    from kd_offline.experts.algorithms import ALGORITHMS

    return _matching(ALGORITHMS, incomplete)


def families(incomplete: str) -> list[str]:
    """Complete the name of a student family."""
    from kd_offline.students.families import FAMILIES

    return _matching(FAMILIES, incomplete)


def environments(incomplete: str) -> list[str]:
    """Complete the name of an environment."""
    from kd_offline.environments import names

    known = [name for name in names() if "<" not in name]
    return _matching([*known, *(f"smax/{name}" for name in MAPS)], incomplete)


def devices(incomplete: str) -> list[str]:
    """Complete the name of a device."""
    from kd_offline.hardware.profiles import names

    return _matching(names(), incomplete)


def masks(incomplete: str) -> list[str]:
    """Complete the name of a student mask."""
    text = (files("kd_offline.students") / "mask_presets.toml").read_text("utf-8")
    return _matching(["full", *tomllib.loads(text), "random-k"], incomplete)


def documents(incomplete: str) -> list[str]:
    """Complete the name of a document that has a schema."""
    from kd_offline.schemas.publish import MODELS

    return _matching(MODELS, incomplete)


def executors(incomplete: str) -> list[str]:
    """Complete the name of an executor."""
    from kd_offline.execution import EXECUTORS

    return _matching(EXECUTORS, incomplete)


def trackers(incomplete: str) -> list[str]:
    """Complete the name of a tracker."""
    from kd_offline.tracking import OBSERVERS

    return _matching(OBSERVERS, incomplete)


def _matching(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
