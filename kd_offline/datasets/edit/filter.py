"""``filter``: keep the episodes that meet conditions, and leave out arrays."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from kd_offline.datasets.edit.lineage import check_output, lineage, open_parent
from kd_offline.datasets.edit.merged_metadata import experts_of_episodes, noise_mixture
from kd_offline.datasets.edit.query import episodes_where
from kd_offline.datasets.edit.rewrite import (
    EpisodeSelection,
    RewritePlan,
    copied_arrays,
    full_names,
    rewrite,
)
from kd_offline.datasets.format import layout
from kd_offline.datasets.format.splits import Splits
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.writing.destination import check_name
from kd_offline.errors import Remedy, UsageError
from kd_offline.schemas.dataset import DatasetManifest, RecordingHeader
from kd_offline.tracking.base import Observer
from kd_offline.types import BoolArray, IntArray


@dataclass(frozen=True, slots=True)
class Conditions:
    """Conditions on episodes; an episode is kept if it meets all that are given.

    ``where`` is an expression, see :mod:`kd_offline.datasets.edit.query`; ``episodes`` a half-open
    range of indices; ``top`` the share with the highest returns of those that meet the others.
    """

    where: str | None = None
    return_above: float | None = None
    return_below: float | None = None
    won: bool = False
    min_length: int | None = None
    max_length: int | None = None
    noise: float | None = None
    expert: int | None = None
    split: str | None = None
    episodes: tuple[int, int] | None = None
    top: float | None = None

    def expressions(self) -> list[str]:
        """Return the conditions as expressions."""
        ranges = {
            "return >": self.return_above,
            "return <": self.return_below,
            "won ==": 1 if self.won else None,
            "length >=": self.min_length,
            "length <=": self.max_length,
            "noise_level ==": self.noise,
            "expert_id ==": self.expert,
        }
        simple = [f"{text} {value!r}" for text, value in ranges.items() if value is not None]
        return simple + ([self.where] if self.where is not None else [])

    def given(self) -> dict[str, object]:
        """Return the conditions as JSON."""
        return asdict(self) | {"episodes": self.episodes and list(self.episodes)}


def filter(
    dataset: str | Path,
    output: str | Path,
    conditions: Conditions | str = Conditions(),
    *,
    without: Collection[str] = (),
    name: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    observers: Sequence[Observer] = (),
) -> DatasetManifest:
    """Make a dataset of the episodes that meet all ``conditions``, in their order.

    Parameters
    ----------
    conditions
        A text stands for ``Conditions(where=text)``.
    without
        Arrays to leave out, such as ``embedding`` (of ``steps``), ``final/value``, ``masks/paper``.
    name
        Name of the result; by default the parent's with ``-filtered``.
    observers
        They receive the number of finished episodes.

    Raises
    ------
    UsageError, UnknownNameError, MissingArrayError
        A condition cannot be met or is none, nothing is asked for, or nothing is left.
    DatasetError, StorageError
        The dataset cannot be read or the result not be written.
    """
    check_name(name)
    parent = open_parent(dataset)
    root = check_output(output, [parent])
    if isinstance(conditions, str):
        conditions = Conditions(where=conditions)
    if not without and conditions == Conditions():
        msg = "nothing says which episodes to keep: give a condition such as return_above=0"
        raise UsageError(msg)
    without = full_names(without, parent.names)
    arrays, masks = remaining_arrays(parent, without)
    chosen = chosen_episodes(parent, conditions)
    arguments = conditions.given() | {"without": sorted(without)}
    manifest = parent.manifest
    header = RecordingHeader(
        name=name or f"{manifest.name}-filtered",
        description=manifest.description,
        environment=layout.described(manifest.environment, arrays),
        experts=experts_of_episodes(parent, chosen),
        recording=manifest.recording.model_copy(
            update={"noise": noise_mixture([(parent, chosen)])}
        ),
        masks={mask: manifest.masks[mask] for mask in masks if mask in manifest.masks},
        licence=manifest.licence,
        citation=manifest.citation,
        lineage=lineage("filter", [parent], arguments),
    )
    names = {part: record.code for part, record in manifest.splits.items()}
    splits = Splits(parent.episodes("split")[chosen], names)
    plan = RewritePlan(header, (EpisodeSelection(parent, chosen),), arrays, masks, splits)
    return rewrite(plan, root, resume=resume, overwrite=overwrite, observers=observers)


def remaining_arrays(
    parent: ExpertBuffer, without: Collection[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the arrays (full names) and masks (bare names) without those left out.

    Raises
    ------
    UsageError
        The format demands the array.
    """
    needed = {n for group in layout.GROUPS for n in layout.required_arrays(group, derived=True)}
    if len(parent.manifest.experts) > 1:
        needed.add("episodes/expert_id")
    for name in without:
        if name in needed:
            msg = f"{name} cannot be left out: every dataset needs {', '.join(sorted(needed))}"
            raise UsageError(msg)
    masks = tuple(mask for mask in parent.mask_names if f"masks/{mask}" not in without)
    return copied_arrays(parent, frozenset(without)), masks


def chosen_episodes(parent: ExpertBuffer, conditions: Conditions) -> IntArray:
    """Return the indices of the episodes that meet all conditions, ascending."""
    keep = np.ones(parent.n_episodes, bool)
    for expression in conditions.expressions():
        keep &= episodes_where(parent, expression)
    if conditions.split is not None:
        keep[np.setdiff1d(np.arange(len(keep)), parent.split(conditions.split))] = False
    if conditions.episodes is not None:
        keep &= _in_range(conditions.episodes, parent.n_episodes)
    chosen = np.flatnonzero(keep)
    if conditions.top is not None and len(chosen):
        chosen = _highest_returns(parent, chosen, conditions.top)
    if not len(chosen):
        raise _nothing_left_error(parent, conditions)
    return chosen


def _in_range(episodes: tuple[int, int], count: int) -> BoolArray:
    first, stop = episodes
    if not 0 <= first < stop:
        msg = f"the episodes {first}:{stop} are no range: write FIRST:STOP, such as 0:1000"
        raise UsageError(msg)
    index = np.arange(count)
    return (first <= index) & (index < stop)


def _highest_returns(parent: ExpertBuffer, chosen: IntArray, share: float) -> IntArray:
    """Return the ``share`` of the chosen episodes with the highest returns, in their order."""
    if not 0 < share <= 1:
        msg = f"the top share {share} must be above 0 and at most 1"
        raise UsageError(msg)
    count = max(1, round(len(chosen) * share))
    best = np.argsort(-parent.episodes("return")[chosen], kind="stable")[:count]
    return np.sort(chosen[best])


def _nothing_left_error(parent: ExpertBuffer, conditions: Conditions) -> UsageError:
    won = parent.episodes("won") if parent.has("episodes/won") else None
    if conditions.won and won is not None and (won < 0).all():
        msg = f"{parent.spec.id} has no notion of winning"
        return UsageError(msg, Remedy("leave out", won=...))
    figures = parent.manifest.statistics
    return UsageError(
        f"no episode of {parent.where!r} meets the conditions: its {parent.n_episodes} episodes "
        f"have returns from {figures.returns.min:g} to {figures.returns.max:g} and lengths from "
        f"{figures.length.min:g} to {figures.length.max:g}; ask for less"
    )
