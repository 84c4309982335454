"""Conformance check for observers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from kd_offline.testing.conformance import ConformanceError
from kd_offline.tracking.base import METHODS, Observer, Operation

_VALUES = {
    "train/loss": 0.5,
    "validation/kl.agent_0": 1,
    "train/return/größe of 1": math.nan,
    "evaluation/flops/student": math.inf,
}


def check_observer(make: Callable[[], Observer]) -> None:
    """Raise :class:`ConformanceError` unless an observer accepts every event.

    Parameters
    ----------
    make
        Returns a new observer each time; called a few times.

    Notes
    -----
    The rules, by the name an error begins with. ``methods``: it has every method of
    :class:`~kd_offline.tracking.base.Observer`. ``operations``: one observer listens to several
    operations, one after another. ``metrics``: values may be integers, NaN or infinite, and names
    and series hold any text. ``ends``: an operation may end before anything was told, with an error
    or without a result.
    """
    observer = make()
    for method in METHODS:
        if not callable(getattr(observer, method, None)):
            rule, detail = "methods", f"it has no method {method!r}"
            raise ConformanceError(rule, detail)
    settings = {"recipe": {"seeds": [0, 1], "mask": None}, "dataset": "sha256:0"}
    output = Path("a folder/run")
    with _Rule("operations"):
        for name in ("distill", "evaluate"):
            observer.start(Operation(name, settings, output))
            observer.message("ready")
            observer.progress(0, 2, "epochs")
            observer.metrics(1, {"train/loss": 1.0}, series="seed 0")
            observer.progress(1, 2, "epochs")
            observer.end({"status": "complete"})
    with _Rule("metrics"):
        observer.start(Operation("train", settings, output))
        for step, series in ((0, ""), (2, ""), (1, "seed 0"), (1, "../: é")):
            observer.metrics(step, _VALUES, series=series)
        observer.metrics(3, {})
        observer.end()
    with _Rule("ends"):
        for error in (None, ValueError("lost"), KeyboardInterrupt()):
            observer = make()
            observer.start(Operation("diff"))
            observer.end(None, error)


class _Rule:
    """A context in which any error violates the rule."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            raise ConformanceError(self._name, f"{type(error).__name__}: {error}") from error
