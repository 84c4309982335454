"""``merge`` and ``append``: make one dataset of several whose arrays have the same meaning."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kd_offline.datasets.edit import merge_compatibility
from kd_offline.datasets.edit.duplicates import episode_labels, repeated_episodes
from kd_offline.datasets.edit.filter import remaining_arrays
from kd_offline.datasets.edit.lineage import check_output, lineage, next_version, open_parent
from kd_offline.datasets.edit.merged_metadata import merge_experts, merge_recordings
from kd_offline.datasets.edit.rewrite import (
    EpisodeSelection,
    RewritePlan,
    copied_arrays,
    full_names,
    rewrite,
)
from kd_offline.datasets.edit.shards import WholeRecording, whole_recording
from kd_offline.datasets.format import layout
from kd_offline.datasets.format.manifest import recording_header
from kd_offline.datasets.format.shards import shard_of
from kd_offline.datasets.format.splits import Splits
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.writing.destination import check_name
from kd_offline.errors import MismatchError, Remedy, UnknownNameError, UsageError
from kd_offline.schemas.dataset import (
    DatasetManifest,
    ExpertRecord,
    LineageRecord,
    RecordingHeader,
)
from kd_offline.tracking.base import Observer
from kd_offline.types import Array, BoolArray, IntArray

ARRAYS = ("all", "common")
DUPLICATES = ("refuse", "keep", "drop")


@dataclass(frozen=True, slots=True)
class MergeOptions:
    """Rules for arrays, duplicates and licences that differ."""

    arrays: str = "all"
    without: tuple[str, ...] = ()
    duplicates: str = "refuse"
    licence: str | None = None

    def __post_init__(self) -> None:
        for option, value, allowed in (
            ("choice of arrays", self.arrays, ARRAYS),
            ("choice of duplicates", self.duplicates, DUPLICATES),
        ):
            if value not in allowed:
                raise UnknownNameError(what=option, got=value, allowed=allowed)


def merge(
    datasets: Sequence[str | Path],
    output: str | Path,
    *,
    arrays: str = "all",
    without: Collection[str] = (),
    duplicates: str = "refuse",
    licence: str | None = None,
    name: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    observers: Sequence[Observer] = (),
) -> DatasetManifest:
    """Make one dataset of the episodes of several, one dataset after the other.

    Seeds, noise levels, splits and masks of every episode stay; experts are renumbered. Shards of
    one recording are put in their order, whatever the order they are given in, and the result has
    the id of the undivided recording; episodes that it has twice stay. One dataset alone may be
    given if it lists shards: the result is the same dataset, with its id, in one folder.

    Parameters
    ----------
    arrays
        ``all``: every dataset must have the same arrays. ``common``: those that all have.
    without
        Arrays to leave out in any case, such as ``embedding`` (of ``steps``) or ``final/value``.
    duplicates
        ``refuse``, ``keep``, or ``drop`` episodes that are there twice: same seed, expert, noise
        and actions.
    licence
        Of the result; needed where the licences differ.
    observers
        They receive the number of finished episodes.

    Raises
    ------
    MismatchError
        The datasets do not fit each other; the message has every reason. Or they are shards of one
        recording, and one is missing or there twice.
    UsageError, UnknownNameError
        Fewer than two datasets, or an impossible choice.
    DatasetError, StorageError
        A dataset cannot be read or the result not be written.
    """
    options = MergeOptions(arrays, tuple(sorted(without)), duplicates, licence)
    parents = open_parents(datasets)
    root = check_output(output, parents)
    plan = merge_plan(parents, options, name)
    return rewrite(plan, root, resume=resume, overwrite=overwrite, observers=observers)


def merge_plan(
    parents: Sequence[ExpertBuffer], options: MergeOptions, name: str | None
) -> RewritePlan:
    """Return the plan of what :func:`merge` would write; raises the same errors."""
    check_name(name)
    if len(parents) == 1 and parents[0].manifest.shards and options == MergeOptions() and not name:
        return _copy_plan(parents[0])
    whole = whole_recording(parents)
    if whole is not None:
        parents = whole.parents
    manifests = [parent.manifest for parent in parents]
    facts = {
        "name": name or "+".join(dict.fromkeys(m.name for m in manifests)),
        "description": _distinct_texts(m.description for m in manifests),
        "citation": _distinct_texts(m.citation for m in manifests),
    }
    return _plan("merge", list(parents), options, facts, whole)


def _copy_plan(parent: ExpertBuffer) -> RewritePlan:
    """Return the plan of a dataset that holds what a dataset of shards lists; the id stays."""
    names = {name: split.code for name, split in parent.manifest.splits.items()}
    return RewritePlan(
        recording_header(parent.manifest),
        (EpisodeSelection(parent, np.arange(parent.n_episodes)),),
        copied_arrays(parent),
        parent.mask_names,
        Splits(parent.episodes("split"), names),
    )


def append(
    dataset: str | Path,
    more: Sequence[str | Path],
    output: str | Path,
    *,
    arrays: str = "all",
    without: Collection[str] = (),
    duplicates: str = "refuse",
    licence: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    observers: Sequence[Observer] = (),
) -> DatasetManifest:
    """Make a dataset that continues ``dataset`` with the episodes of ``more``.

    Like :func:`merge`, but the result is the next version of the first: it has its name and
    description, and the minor number of its version is raised. The first dataset stays as it is.
    """
    options = MergeOptions(arrays, tuple(sorted(without)), duplicates, licence)
    parents = open_parents([dataset, *more])
    root = check_output(output, parents)
    first = parents[0].manifest
    facts = {
        "name": first.name,
        "version": next_version(first.version, "minor"),
        "description": first.description,
        "citation": _distinct_texts(parent.manifest.citation for parent in parents),
    }
    plan = _plan("append", parents, options, facts)
    return rewrite(plan, root, resume=resume, overwrite=overwrite, observers=observers)


def open_parents(datasets: Sequence[str | Path]) -> list[ExpertBuffer]:
    """Open the datasets of a merge; UsageError if one is given that stands for itself."""
    parents = [open_parent(dataset) for dataset in datasets]
    alone = len(parents) < len(("one", "other"))
    if alone and not any(p.manifest.shards or shard_of(p.where, p.manifest) for p in parents):
        msg = "one dataset alone cannot be put together: give at least two"
        raise UsageError(msg)
    return parents


def _plan(
    operation: str,
    parents: list[ExpertBuffer],
    options: MergeOptions,
    description: Mapping[str, Any],
    whole: WholeRecording | None = None,
) -> RewritePlan:
    """Return the plan of the merged dataset, after checking that it is possible."""
    names, left_out = _merged_names(parents, options)
    experts, ids = merge_experts(parents)
    _require_mergeable(parents, experts, names, left_out, options)
    policy = "keep" if whole and options.duplicates == "refuse" else options.duplicates
    duplicates = _duplicates_to_drop(parents, ids, policy)
    chosen = [np.flatnonzero(~twice) for twice in duplicates]
    known = len(experts) > 1 or any(parent.has("episodes/expert_id") for parent in parents)
    parts = tuple(
        EpisodeSelection(parent, episodes, {"expert_id": expert_ids[episodes]} if known else {})
        for parent, episodes, expert_ids in zip(parents, chosen, ids, strict=True)
        if len(episodes)
    )
    masks = tuple(n.removeprefix("masks/") for n in names if n.startswith("masks/"))
    pairs = list(zip(parents, chosen, strict=True))
    arguments = _arguments(parents, options, left_out, duplicates)
    first = parents[0].manifest
    header = RecordingHeader(
        **description,
        environment=layout.described(first.environment, names),
        experts=experts if any(parent.manifest.experts for parent in parents) else (),
        recording=whole.recording if whole else merge_recordings(pairs),
        masks={mask: first.masks[mask] for mask in masks if mask in first.masks},
        licence=first.licence if options.licence is None else options.licence,
        lineage=_whole_lineage(parents, arguments)
        if whole
        else lineage(operation, parents, arguments),
    )
    steps = tuple(name for name in names if not name.startswith("masks/"))
    arrays = (*steps, "episodes/expert_id") if known else steps
    return RewritePlan(header, parts, arrays, masks, _splits(pairs, ids))


def _merged_names(
    parents: Sequence[ExpertBuffer], options: MergeOptions
) -> tuple[list[str], list[str]]:
    """Return the arrays of the result, in the first parent's order, and those left out."""
    unshared = (
        set(merge_compatibility.unshared_arrays(parents)) if options.arrays == "common" else set()
    )
    all_names = sorted({name for parent in parents for name in parent.names})
    without = full_names(options.without, all_names)
    for parent in parents:  # raises for arrays that the format requires
        remaining_arrays(parent, [name for name in without if parent.has(name)])
    left_out = unshared | set(without)
    mergeable = merge_compatibility.mergeable_arrays(parents[0])
    return [n for n in parents[0].names if n in mergeable - left_out], sorted(left_out)


def _require_mergeable(
    parents: Sequence[ExpertBuffer],
    experts: Sequence[ExpertRecord],
    names: Collection[str],
    left_out: Collection[str],
    options: MergeOptions,
) -> None:
    """Refuse datasets that do not fit, with all reasons in one sentence."""
    reasons = merge_compatibility.environment_conflicts(parents)
    unshared: list[str] = []
    if not reasons:  # arrays of different environments are not compared
        unshared = [
            name for name in merge_compatibility.unshared_arrays(parents) if name not in left_out
        ]
        if unshared:
            reasons.append(f"only some have {', '.join(unshared)}")
        shared = [name for name in names if name not in unshared]
        masks = [name.removeprefix("masks/") for name in shared if name.startswith("masks/")]
        reasons += merge_compatibility.array_conflicts(parents, shared)
        reasons += merge_compatibility.capture_conflicts(experts, shared)
        reasons += merge_compatibility.mask_conflicts(parents, masks)
    if options.licence is None:
        reasons += merge_compatibility.licence_conflicts(parents)
    if reasons:
        msg = f"these datasets cannot be one: {'; '.join(reasons)}"
        fitting = Remedy("leave out what does not fit with", without=...)
        common = Remedy("take what all have with", arrays="common")
        raise MismatchError(msg, fitting, *([common] if unshared else []), Remedy("take others"))


def _duplicates_to_drop(
    parents: Sequence[ExpertBuffer], ids: Sequence[Array], policy: str
) -> list[BoolArray]:
    """Return the episodes to drop; raises if there are duplicates and none may be."""
    if policy == "keep":
        return [np.zeros(parent.n_episodes, bool) for parent in parents]
    duplicates = repeated_episodes(parents, ids)
    if policy == "drop" or not any(twice.any() for twice in duplicates):
        return duplicates
    k = next(k for k, twice in enumerate(duplicates) if twice.any())
    msg = (
        f"{sum(int(twice.sum()) for twice in duplicates)} episodes are there twice, such as "
        f"episode {int(np.argmax(duplicates[k]))} of {parents[k].where!r} (same seed, expert, "
        "noise and actions)"
    )
    drop = Remedy("drop them with", duplicates="drop")
    raise MismatchError(msg, drop, Remedy("keep them with", duplicates="keep"))


def _arguments(
    parents: Sequence[ExpertBuffer],
    options: MergeOptions,
    left_out: Sequence[str],
    duplicates: Sequence[BoolArray],
) -> dict[str, Any]:
    """Return the arguments for the lineage: the options, and each parent's recording."""
    dropped = int(sum(twice.sum() for twice in duplicates))
    recordings = [
        {"name": p.manifest.name, "version": p.manifest.version, "licence": p.manifest.licence}
        | p.manifest.recording.model_dump(mode="json", exclude_defaults=True)
        for p in parents
    ]
    return {
        "left_out": list(left_out),
        "duplicates": options.duplicates if options.duplicates != "refuse" else None,
        "dropped_episodes": dropped or None,
        "licence": options.licence,
        "recordings": recordings,
    }


def _whole_lineage(
    parents: Sequence[ExpertBuffer], arguments: Mapping[str, Any]
) -> tuple[LineageRecord, ...]:
    """Return the lineage of a recording that was put together from its shards."""
    given = {key: value for key, value in arguments.items() if value and key != "recordings"}
    ids = tuple(parent.id for parent in parents)
    return (LineageRecord(operation="merge", parents=ids, arguments=given),)


def _splits(pairs: Sequence[tuple[ExpertBuffer, IntArray]], ids: Sequence[Array]) -> Splits:
    """Return every episode's part by its name; names beyond the usual two get new codes.

    Episodes of one seed, expert and noise level get the part of the first of them.
    """
    names = dict(layout.SPLITS)
    codes = []
    for parent, episodes in pairs:
        code = np.zeros(256, np.uint8)
        for name, record in parent.manifest.splits.items():
            names.setdefault(name, max(names.values()) + 1)
            code[record.code] = names[name]
        codes.append(code[parent.episodes("split")[episodes]])
    joined = np.concatenate(codes)
    parents = [parent for parent, _ in pairs]
    if all(parent.has("episodes/seed") for parent in parents):
        labels = episode_labels(parents, ids, ("seed", "noise_level"))
        chosen = np.concatenate([x[i] for x, (_, i) in zip(labels, pairs, strict=True)])
        _, first, label_index = np.unique(chosen, return_index=True, return_inverse=True)
        joined = joined[first[label_index]]
    return Splits(joined, names)


def _distinct_texts(texts: Any) -> str:
    """Return the distinct texts, separated by blank lines."""
    return "\n\n".join(dict.fromkeys(text for text in texts if text))
