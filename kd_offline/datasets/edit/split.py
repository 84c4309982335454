"""``split``: make a dataset of the same episodes with another training and held-out split."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from kd_offline.datasets.edit.lineage import check_output, lineage, next_version, open_parent
from kd_offline.datasets.edit.rewrite_metadata import rewrite_metadata
from kd_offline.datasets.format import layout
from kd_offline.datasets.format.splits import Splits
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.writing.dataset_files import split_records
from kd_offline.errors import MissingArrayError, Remedy, UnknownNameError, UsageError
from kd_offline.schemas.dataset import DatasetManifest
from kd_offline.seeding import generator
from kd_offline.tracking.base import Observer
from kd_offline.types import Array, IntArray

STRATA = {
    "return": "return",
    "none": "",
    "noise": "noise_level",
    "expert": "expert_id",
    "won": "won",
}
"""Name of a stratification -> column of the episode table."""

_RETURN_BINS = 10  # with equally many episodes each
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_TOLERANCE = 1e-6  # of shares that should add up to one


def split(
    dataset: str | Path,
    output: str | Path,
    *,
    heldout: float = 0.1,
    parts: Mapping[str, float] | None = None,
    seed: int = 0,
    stratify: str = "return",
    resume: bool = False,
    overwrite: bool = False,
    observers: Sequence[Observer] = (),
) -> DatasetManifest:
    """Make a dataset of the same episodes with another split.

    Whole episodes are assigned, and episodes with the same seed stay together, so no part
    contains beginnings of another. Data files are copied as they are.

    Parameters
    ----------
    heldout
        Share of the episodes that is held out; the rest is ``train``.
    parts
        Shares by name instead, adding up to 1; ``train`` must be among them. Distillation uses
        ``train`` and ``heldout``; other names are read by ``ExpertBuffer.split``.
    stratify
        Spread evenly over the parts: ``return`` (tenths of the returns), ``noise``, ``expert``,
        ``won``, or ``none``.
    observers
        They receive the number of finished bytes.

    Raises
    ------
    UsageError, UnknownNameError
        A share or name is not possible, or there are fewer episodes than parts.
    MissingArrayError
        The dataset has no column to stratify by.
    DatasetError, StorageError
        The dataset cannot be read or the result not be written.
    """
    shares = _shares(heldout, parts)
    parent = open_parent(dataset)
    root = check_output(output, [parent])
    units, of_episode = _seed_groups(parent)
    strata = _strata(parent, stratify)[units]
    order = generator(seed, "split").permutation(len(units))
    order = order[np.argsort(strata[order], kind="stable")]
    drawn = np.empty(len(units), np.uint8)
    names = _codes(shares)
    drawn[order] = np.array([names[name] for name in shares], np.uint8)[
        _assign_parts(shares, len(units))
    ]
    splits = Splits(drawn[of_episode], names)
    records = split_records(splits, parent.episodes("length"))
    arguments = {"parts": dict(shares), "seed": seed, "stratify": stratify}
    history = lineage("split", [parent], arguments)
    facts = {
        "version": next_version(parent.manifest.version, "minor"),
        "splits": {name: record.model_dump() for name, record in records.items()},
        "lineage": [step.model_dump(mode="json") for step in history],
    }
    arrays = {"episodes/split": splits.codes}
    options = {"resume": resume, "overwrite": overwrite}
    return rewrite_metadata(parent, root, facts, arrays, observers=observers, **options)


def parse_parts(text: str) -> dict[str, float]:
    """Return the shares of a text such as ``train:0.8,val:0.1,test:0.1``.

    Raises
    ------
    UsageError
        It is not written like that.
    """
    try:
        pairs = [part.split(":") for part in text.split(",")]
        parts = {name.strip(): float(share) for name, share in pairs}
    except ValueError:
        parts = {}
    if not parts or len(parts) != len(pairs):
        msg = f"{text!r} is not a list of parts: write it as train:0.8,val:0.1,test:0.1"
        raise UsageError(msg)
    return parts


def _shares(heldout: float, parts: Mapping[str, float] | None) -> dict[str, float]:
    if parts is None:
        if not 0 <= heldout < 1:
            msg = f"the held-out share {heldout} must be at least 0 and below 1"
            raise UsageError(msg)
        return {"train": 1 - heldout, "heldout": heldout} if heldout else {"train": 1.0}
    for name, share in parts.items():
        if not _NAME.fullmatch(name) or not 0 < share <= 1:
            msg = (
                f"part {name!r} with share {share}: a name has 1 to 40 small letters, digits, - "
                "or _ and begins with a letter, and a share is above 0 and at most 1"
            )
            raise UsageError(msg)
    total = sum(parts.values())
    if "train" not in parts or abs(total - 1) > _TOLERANCE:
        msg = (
            f"the parts {dict(parts)} add up to {total:g}: give shares that add up to 1, one of "
            "them for 'train'"
        )
        raise UsageError(msg)
    return dict(parts)


def _codes(shares: Mapping[str, float]) -> dict[str, int]:
    """Return the code of every part; ``train`` and ``heldout`` are always included."""
    others = [name for name in shares if name not in layout.SPLITS]
    first = max(layout.SPLITS.values()) + 1
    return layout.SPLITS | {name: first + k for k, name in enumerate(others)}


def _seed_groups(parent: ExpertBuffer) -> tuple[IntArray, IntArray]:
    """Return the first episode of every group with one seed, and each episode's group."""
    if not parent.has("episodes/seed"):
        every = np.arange(parent.n_episodes)
        return every, every
    _, first, unit = np.unique(parent.episodes("seed"), return_index=True, return_inverse=True)
    return first, unit


def _strata(parent: ExpertBuffer, by: str) -> Array:
    """Return a label for each episode that sorts and groups episodes by ``by``."""
    if by not in STRATA:
        raise UnknownNameError(what="stratification", got=by, allowed=STRATA)
    column = STRATA[by]
    if not column:
        return np.zeros(parent.n_episodes, np.int64)
    if not parent.has(f"episodes/{column}"):
        msg = f"the dataset at {parent.where!r} has no episodes/{column} to stratify by"
        raise MissingArrayError(msg, Remedy("choose another or none with", stratify=...))
    values = parent.episodes(column)
    if by != "return":
        return values
    edges = np.quantile(values, np.arange(1, _RETURN_BINS) / _RETURN_BINS)
    return np.searchsorted(edges, values, side="right")


def _assign_parts(shares: Mapping[str, float], count: int) -> IntArray:
    """Return the part (index into ``shares``) of ``count`` groups in a row, int64 [count].

    The numbers of each part are exact up to rounding, at least 1. They are also exact to about 1
    in any stretch of the row, so that every stratum is divided evenly.
    """
    wanted = np.array(list(shares.values())) * count
    numbers = np.maximum(1, np.floor(wanted)).astype(np.int64)
    if numbers.sum() > count:
        numbers[np.argmax(numbers)] -= numbers.sum() - count
    if numbers.min() < 1:
        msg = (
            f"{count} episodes with different seeds are too few for the parts {', '.join(shares)}: "
            "give fewer parts"
        )
        raise UsageError(msg)
    most_missed = np.argsort(-(wanted - numbers), kind="stable")
    for k in range(int(count - numbers.sum())):
        numbers[most_missed[k % len(numbers)]] += 1
    # The k-th of n groups of a part is placed at (k + 1/2) / n of the row.
    due = np.concatenate([(np.arange(n) + 0.5) / n for n in numbers])
    return np.repeat(np.arange(len(numbers)), numbers)[np.argsort(due, kind="stable")]
