"""``relabel-masks``: add student masks to a recorded dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kd_offline.datasets.edit.lineage import check_output, lineage, next_version, open_parent
from kd_offline.datasets.edit.rewrite_metadata import rewrite_metadata
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.errors import MissingArrayError, Remedy, UsageError
from kd_offline.schemas.dataset import DatasetManifest, MaskRecord
from kd_offline.students.masks import Mask, resolve
from kd_offline.tracking.base import Observer
from kd_offline.types import BoolArray


def relabel_masks(
    dataset: str | Path,
    output: str | Path,
    masks: Sequence[str],
    *,
    resume: bool = False,
    overwrite: bool = False,
    observers: Sequence[Observer] = (),
) -> DatasetManifest:
    """Write a dataset of the same episodes with additional student masks; data files are copied.

    Parameters
    ----------
    masks
        Names or files of student masks, as for recording. A mask that is drawn for each episode
        follows from the episodes' seeds and equals the one that recording would have stored.
    observers
        They receive the number of bytes that are done.

    Raises
    ------
    UsageError, UnknownNameError, MismatchError
        No mask is given, there is none of that name, it does not fit, or it is there already.
    MissingArrayError
        The mask is drawn for each episode, and the dataset has no seeds.
    DatasetError, StorageError
        The dataset cannot be read or the result cannot be written.
    """
    parent = open_parent(dataset)
    root = check_output(output, [parent])
    chosen = {mask.name: mask for mask in (resolve(x, parent.spec) for x in masks)}
    _check(parent, chosen, masks)
    arrays = {f"masks/{name}": _visible(parent, mask) for name, mask in chosen.items()}
    new_masks = {
        name: MaskRecord(description=mask.description, random_k=mask.random_k)
        for name, mask in chosen.items()
    }
    history = lineage("relabel-masks", [parent], {"masks": list(chosen)})
    all_masks = parent.manifest.masks | new_masks
    changes = {
        "version": next_version(parent.manifest.version, "minor"),
        "masks": {name: record.model_dump(mode="json") for name, record in all_masks.items()},
        "lineage": [step.model_dump(mode="json") for step in history],
    }
    options = {"resume": resume, "overwrite": overwrite}
    return rewrite_metadata(parent, root, changes, arrays, observers=observers, **options)


def _check(parent: ExpertBuffer, chosen: dict[str, Mask], names: Sequence[str]) -> None:
    if not chosen:
        msg = "no mask is given"
        raise UsageError(msg, Remedy("name at least one with", masks=...))
    if len(chosen) < len(names):
        msg = f"the masks {', '.join(names)} do not all have different names: rename one"
        raise UsageError(msg)
    if existing := sorted(chosen.keys() & set(parent.mask_names)):
        msg = (
            f"the dataset at {parent.where!r} has the mask {existing[0]!r} already: leave it out, "
            "or give yours another name in its file"
        )
        raise UsageError(msg)


def _visible(parent: ExpertBuffer, mask: Mask) -> BoolArray:
    """Return the features that a mask shows, bool [N, O] or [E, N, O]."""
    if mask.static is not None:
        return mask.static
    if not parent.has("episodes/seed"):
        msg = (
            f"mask {mask.name!r} is drawn from every episode's seed, and the dataset at "
            f"{parent.where!r} has no episodes/seed: choose a mask that is the same in all episodes"
        )
        raise MissingArrayError(msg)
    return mask.for_episodes(parent.episodes("seed"))
