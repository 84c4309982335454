"""kd-offline: record multi-agent experts once, distil them many times.

Every name is imported on first use; importing the package does not import PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kd_offline.datasets.convert.convert import convert
    from kd_offline.datasets.edit.annotate import annotate
    from kd_offline.datasets.edit.comparison import diff
    from kd_offline.datasets.edit.filter import Conditions, filter
    from kd_offline.datasets.edit.merge import append, merge
    from kd_offline.datasets.edit.split import split
    from kd_offline.datasets.metadata.cards import card
    from kd_offline.datasets.metadata.summary import inspect
    from kd_offline.datasets.reading.reader import ExpertBuffer
    from kd_offline.datasets.sharing.share import pack, pull, push
    from kd_offline.datasets.validation.integrity import verify
    from kd_offline.deployment.check import deploy_check
    from kd_offline.deployment.profile import collaboration_profile
    from kd_offline.distillation.distill import distill
    from kd_offline.distillation.recipe import distill_recipe
    from kd_offline.distillation.rerun import rerun
    from kd_offline.environments import load as load_environment
    from kd_offline.errors import KdOfflineError
    from kd_offline.evaluation.calibrate import calibrate
    from kd_offline.evaluation.evaluate import evaluate
    from kd_offline.evaluation.latency import bench_latency
    from kd_offline.experts.load import load as load_expert
    from kd_offline.experts.recipe import train_recipe
    from kd_offline.experts.train import train
    from kd_offline.experts.train_all import train_all
    from kd_offline.exports.engines import load_export
    from kd_offline.exports.export import export
    from kd_offline.online.adapt import adapt
    from kd_offline.online.dagger import dagger
    from kd_offline.online.ppd import ppd
    from kd_offline.recording.add_masks import relabel_masks
    from kd_offline.recording.recipe import record_recipe
    from kd_offline.recording.record import record
    from kd_offline.recording.relabel import relabel
    from kd_offline.recording.replay import replay
    from kd_offline.reports.html import report
    from kd_offline.robustness.audit import audit
    from kd_offline.students.policy import load as load_students
    from kd_offline.sweeps.sweep import sweep

__version__ = "0.1.0"

_LOCATIONS = {
    "Conditions": "datasets.edit.filter:Conditions",
    "ExpertBuffer": "datasets.reading.reader:ExpertBuffer",
    "KdOfflineError": "errors:KdOfflineError",
    "adapt": "online.adapt:adapt",
    "annotate": "datasets.edit.annotate:annotate",
    "audit": "robustness.audit:audit",
    "append": "datasets.edit.merge:append",
    "bench_latency": "evaluation.latency:bench_latency",
    "calibrate": "evaluation.calibrate:calibrate",
    "card": "datasets.metadata.cards:card",
    "collaboration_profile": "deployment.profile:collaboration_profile",
    "convert": "datasets.convert.convert:convert",
    "dagger": "online.dagger:dagger",
    "ppd": "online.ppd:ppd",
    "deploy_check": "deployment.check:deploy_check",
    "diff": "datasets.edit.comparison:diff",
    "distill": "distillation.distill:distill",
    "distill_recipe": "distillation.recipe:distill_recipe",
    "evaluate": "evaluation.evaluate:evaluate",
    "export": "exports.export:export",
    "filter": "datasets.edit.filter:filter",
    "inspect": "datasets.metadata.summary:inspect",
    "load_environment": "environments:load",
    "load_export": "exports.engines:load_export",
    "load_expert": "experts.load:load",
    "load_students": "students.policy:load",
    "merge": "datasets.edit.merge:merge",
    "pack": "datasets.sharing.share:pack",
    "pull": "datasets.sharing.share:pull",
    "push": "datasets.sharing.share:push",
    "record": "recording.record:record",
    "record_recipe": "recording.recipe:record_recipe",
    "relabel": "recording.relabel:relabel",
    "relabel_masks": "recording.add_masks:relabel_masks",
    "replay": "recording.replay:replay",
    "report": "reports.html:report",
    "rerun": "distillation.rerun:rerun",
    "split": "datasets.edit.split:split",
    "sweep": "sweeps.sweep:sweep",
    "train": "experts.train:train",
    "train_all": "experts.train_all:train_all",
    "train_recipe": "experts.recipe:train_recipe",
    "verify": "datasets.validation.integrity:verify",
}

__all__ = [
    "Conditions",
    "ExpertBuffer",
    "KdOfflineError",
    "__version__",
    "adapt",
    "annotate",
    "append",
    "audit",
    "bench_latency",
    "calibrate",
    "card",
    "collaboration_profile",
    "convert",
    "dagger",
    "deploy_check",
    "diff",
    "distill",
    "distill_recipe",
    "evaluate",
    "export",
    "filter",
    "inspect",
    "load_environment",
    "load_expert",
    "load_export",
    "load_students",
    "merge",
    "pack",
    "ppd",
    "pull",
    "push",
    "record",
    "record_recipe",
    "relabel",
    "relabel_masks",
    "replay",
    "report",
    "rerun",
    "split",
    "sweep",
    "train",
    "train_all",
    "train_recipe",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _LOCATIONS:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    module, _, attribute = _LOCATIONS[name].partition(":")
    try:
        return getattr(import_module(f"{__name__}.{module}"), attribute)
    except ModuleNotFoundError as error:
        from kd_offline.errors import MissingExtraError, is_torch

        if not is_torch(error):
            raise
        raise MissingExtraError(
            library="torch", extra="torch", purpose=f"kd_offline.{name}"
        ) from error


def __dir__() -> list[str]:
    return sorted(__all__)
