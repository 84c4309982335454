"""Registry of observers by name: ours, and those of plug-ins."""

from __future__ import annotations

from collections.abc import Callable

from kd_offline.errors import UsageError
from kd_offline.registry import Registry
from kd_offline.tracking.base import METHODS, Observer
from kd_offline.user_code import calling

OBSERVERS: Registry[Callable[[str], Observer]] = Registry(
    "tracker",
    "kd_offline.observers",
    {
        "tensorboard": "kd_offline.tracking.tensorboard:TensorBoard",
        "wandb": "kd_offline.tracking.wandb:WeightsAndBiases",
        "mlflow": "kd_offline.tracking.mlflow:MLflow",
        "jsonl": "kd_offline.tracking.jsonl:JsonLines",
    },
)
"""Each is called with the text after the colon; empty where there is none."""


def tracker(text: str) -> Observer:
    """Return the observer that ``NAME`` or ``NAME:TARGET`` describes, such as ``tensorboard:logs``.

    Raises
    ------
    UnknownNameError, MissingExtraError
        There is no tracker of this name, or its library is not installed.
    UserCodeError
        The factory of a plug-in failed.
    UsageError
        The factory of a plug-in returned no observer.
    """
    name, _, target = text.partition(":")
    make = OBSERVERS.load(name)
    origin = OBSERVERS.origin(name)
    if origin.ours:
        return make(target)
    with calling(f"the tracker {name!r} of {origin}", "make"):
        observer = make(target)
    missing = [name for name in METHODS if not callable(getattr(observer, name, None))]
    if missing:
        msg = (
            f"the tracker {name!r} of {origin} has no method {missing[0]!r}: derive its class from "
            "Observer"
        )
        raise UsageError(msg)
    return observer
