"""The expert buffer on disk.

Each of its packages imports only from those before it: ``format`` (arrays, manifest, limits),
``storage`` (files at any address), ``reading`` and ``writing``, ``loading`` (batches) and
``validation``, ``analysis`` and ``metadata``, ``edit``, ``convert``, ``sharing``.

Names are loaded when they are first used. Nothing here imports PyTorch but
``loading.torch_loading``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kd_offline.datasets.edit.annotate import annotate
    from kd_offline.datasets.edit.comparison import diff
    from kd_offline.datasets.edit.filter import Conditions, filter
    from kd_offline.datasets.edit.merge import append, merge
    from kd_offline.datasets.edit.split import split
    from kd_offline.datasets.loading.loader import Loader
    from kd_offline.datasets.loading.mixing import Mixture
    from kd_offline.datasets.loading.plan import Windows
    from kd_offline.datasets.loading.sampler import Position
    from kd_offline.datasets.metadata.cards import card
    from kd_offline.datasets.metadata.summary import inspect
    from kd_offline.datasets.reading.reader import ExpertBuffer
    from kd_offline.datasets.sharing.virtual import virtual_merge
    from kd_offline.datasets.validation.integrity import verify
    from kd_offline.datasets.writing.blocks import EpisodeBlock
    from kd_offline.datasets.writing.writer import DatasetWriter

_HOMES = {
    "Conditions": "edit.filter",
    "DatasetWriter": "writing.writer",
    "EpisodeBlock": "writing.blocks",
    "ExpertBuffer": "reading.reader",
    "Loader": "loading.loader",
    "Mixture": "loading.mixing",
    "Position": "loading.sampler",
    "Windows": "loading.plan",
    "annotate": "edit.annotate",
    "append": "edit.merge",
    "card": "metadata.cards",
    "diff": "edit.comparison",
    "filter": "edit.filter",
    "inspect": "metadata.summary",
    "merge": "edit.merge",
    "split": "edit.split",
    "verify": "validation.integrity",
    "virtual_merge": "sharing.virtual",
}

__all__ = [
    "Conditions",
    "DatasetWriter",
    "EpisodeBlock",
    "ExpertBuffer",
    "Loader",
    "Mixture",
    "Position",
    "Windows",
    "annotate",
    "append",
    "card",
    "diff",
    "filter",
    "inspect",
    "merge",
    "split",
    "verify",
    "virtual_merge",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
