"""``relabel-masks``: further student masks for a dataset that is recorded already."""

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
    """Make a dataset of the same episodes with further student masks; data files are copied.

    Parameters
    ----------
    masks
        Names of student masks, or files, as for recording; a mask that is drawn for each episode
        follows from the episodes' seeds and is the one that recording would have stored.
    observers
        Told how many bytes are done.

    Raises
    ------
    UsageError, UnknownNameError, MismatchError
        No mask is given, there is none of that name, it does not fit, or it is there already.
    MissingArrayError
        The mask is drawn for each episode, and the dataset has no seeds.
    DatasetError, StorageError
        The dataset cannot be read or the result not be written.
    """
    parent = open_parent(dataset)
    root = check_output(output, [parent])
    chosen = {mask.name: mask for mask in (resolve(x, parent.spec) for x in masks)}
    _check(parent, chosen, masks)
    arrays = {f"masks/{name}": _visible(parent, mask) for name, mask in chosen.items()}
    new = {
        name: MaskRecord(description=mask.description, random_k=mask.random_k)
        for name, mask in chosen.items()
    }
    history = lineage("relabel-masks", [parent], {"masks": list(chosen)})
    everything = parent.manifest.masks | new
    facts = {
        "version": next_version(parent.manifest.version, "minor"),
        "masks": {name: record.model_dump(mode="json") for name, record in everything.items()},
        "lineage": [step.model_dump(mode="json") for step in history],
    }
    options = {"resume": resume, "overwrite": overwrite}
    return rewrite_metadata(parent, root, facts, arrays, observers=observers, **options)


def _check(parent: ExpertBuffer, chosen: dict[str, Mask], given: Sequence[str]) -> None:
    if not chosen:
        msg = "no mask is given"
        raise UsageError(msg, Remedy("name at least one with", masks=...))
    if len(chosen) < len(given):
        msg = f"the masks {', '.join(given)} do not all have different names: rename one"
        raise UsageError(msg)
    if there := sorted(chosen.keys() & set(parent.mask_names)):
        msg = (
            f"the dataset at {parent.where!r} has the mask {there[0]!r} already: leave it out, or "
            "give yours another name in its file"
        )
        raise UsageError(msg)


def _visible(parent: ExpertBuffer, mask: Mask) -> BoolArray:
    """Return the mask, bool [N, O] or [E, N, O]."""
    if mask.static is not None:
        return mask.static
    if not parent.has("episodes/seed"):
        msg = (
            f"mask {mask.name!r} is drawn from every episode's seed, and the dataset at "
            f"{parent.where!r} has no episodes/seed: choose a mask that is the same in all episodes"
        )
        raise MissingArrayError(msg)
    return mask.for_episodes(parent.episodes("seed"))
