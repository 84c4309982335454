"""kd-offline: record multi-agent experts once, distil them many times.

Everything here is loaded when it is first used; importing the package imports no PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kd_offline.datasets.convert.run import convert
    from kd_offline.datasets.integrity import verify
    from kd_offline.datasets.reader import ExpertBuffer
    from kd_offline.datasets.summary import inspect
    from kd_offline.distillation.distill import distill
    from kd_offline.distillation.recipe import distill_recipe
    from kd_offline.distillation.rerun import rerun
    from kd_offline.environments import load as load_environment
    from kd_offline.errors import KdOfflineError
    from kd_offline.evaluation.evaluate import evaluate
    from kd_offline.experts.load import load as load_expert
    from kd_offline.experts.recipe import train_recipe
    from kd_offline.experts.train import train
    from kd_offline.recording.labels import relabel
    from kd_offline.recording.record import record
    from kd_offline.recording.replay import replay
    from kd_offline.reports.html import report
    from kd_offline.students.policy import load as load_students

__version__ = "0.1.0"

_HOMES = {
    "ExpertBuffer": "datasets.reader:ExpertBuffer",
    "KdOfflineError": "errors:KdOfflineError",
    "convert": "datasets.convert.run:convert",
    "distill": "distillation.distill:distill",
    "distill_recipe": "distillation.recipe:distill_recipe",
    "evaluate": "evaluation.evaluate:evaluate",
    "inspect": "datasets.summary:inspect",
    "load_environment": "environments:load",
    "load_expert": "experts.load:load",
    "load_students": "students.policy:load",
    "record": "recording.record:record",
    "relabel": "recording.labels:relabel",
    "replay": "recording.replay:replay",
    "report": "reports.html:report",
    "rerun": "distillation.rerun:rerun",
    "train": "experts.train:train",
    "train_recipe": "experts.recipe:train_recipe",
    "verify": "datasets.integrity:verify",
}

__all__ = [
    "ExpertBuffer",
    "KdOfflineError",
    "__version__",
    "convert",
    "distill",
    "distill_recipe",
    "evaluate",
    "inspect",
    "load_environment",
    "load_expert",
    "load_students",
    "record",
    "relabel",
    "replay",
    "report",
    "rerun",
    "train",
    "train_recipe",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    home, _, attribute = _HOMES[name].partition(":")
    return getattr(import_module(f"{__name__}.{home}"), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
