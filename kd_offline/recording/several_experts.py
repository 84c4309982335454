"""Recordings of several experts: a part with each, put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kd_offline.datasets.edit.lineage import check_output
from kd_offline.datasets.edit.merge import merge
from kd_offline.datasets.edit.merge_compatibility import capture_conflicts, incomparable_arrays
from kd_offline.datasets.format.layout import MANIFEST
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.storage.manifest_file import read_manifest
from kd_offline.datasets.storage.store import Folder
from kd_offline.datasets.writing.destination import prepare_folder, refuse_occupied
from kd_offline.datasets.writing.writer import finished_dataset
from kd_offline.errors import MismatchError, Remedy, UsageError
from kd_offline.execution.parts import parts_folder
from kd_offline.files import remove_tree
from kd_offline.recording import noise
from kd_offline.recording.setup import RecordingSetup
from kd_offline.schemas.dataset import DatasetManifest, RecordingHeader
from kd_offline.schemas.recipes import RecordRecipe
from kd_offline.tracking.base import SILENT, Observer, Observers
from kd_offline.types import SeedArray


def record_each(
    recipe: RecordRecipe,
    output: Path,
    record: Callable[[RecordRecipe, Path], object],
    *,
    resume: bool,
    overwrite: bool,
    observers: Sequence[Observer],
) -> DatasetManifest:
    """Record a part with each of several experts, merge the parts, and delete them.

    The first expert plays with the recipe's seed, the second with the next one, and so on, as if
    each had been recorded alone. ``record`` makes what is missing of a part. Parts lie beside the
    dataset, in ``OUTPUT.parts``, until it is complete.
    """
    parts = _parts_of_experts(recipe)
    described = _described(parts)
    target = output.expanduser().absolute()
    if resume and (done := _finished(described, target)):
        return done
    refuse_occupied(check_output(target, ()), resume=resume, overwrite=overwrite)
    folder = parts_folder(target, "parts", "recording", resume=resume, overwrite=overwrite)
    if overwrite:  # now, as with one expert: then resuming does not find another recording
        prepare_folder(target, resume=False, overwrite=True)
    paths = [folder / f"{number}.zarr" for number in range(1, len(parts) + 1)]
    for part, path in zip(parts, paths, strict=True):
        record(part, path)
    left_out = incomparable_arrays([ExpertBuffer.open(path) for path in paths])
    if left_out:
        Observers(observers).message(
            f"left out {', '.join(left_out)}: not every expert gives it, or not in one form"
        )
    manifest = merge(
        *(paths, target),
        without=left_out,
        name=recipe.name,
        resume=resume,
        overwrite=overwrite,
        observers=observers,
    )
    remove_tree(folder)
    return manifest


def _parts_of_experts(recipe: RecordRecipe) -> list[RecordRecipe]:
    """Return the recipe of each expert's part of a recording of several.

    Raises
    ------
    UsageError
        There are fewer episodes than experts, or only a shard is asked for.
    """
    count = len(recipe.expert)
    if recipe.shard is not None:
        msg = f"a shard of a recording of {count} experts: record the shards of each expert alone"
        raise UsageError(msg)
    if recipe.episodes < count:
        msg = f"{recipe.episodes} episodes for {count} experts: give at least one to each"
        raise UsageError(msg)
    share, more = divmod(recipe.episodes, count)
    return [
        recipe.model_copy(
            update={
                "expert": (expert,),
                "episodes": share + (number < more),
                "seed": recipe.seed + number,
            }
        )
        for number, expert in enumerate(recipe.expert)
    ]


@dataclass(frozen=True, slots=True)
class _Described:
    """What a part states of itself before it is recorded."""

    recipe: RecordRecipe
    header: RecordingHeader
    seeds: SeedArray


def _described(parts: Sequence[RecordRecipe]) -> list[_Described]:
    """Return what all parts state, if all experts put out the same kind of thing."""
    described = []
    for part in parts:
        with ExitStack() as stack:
            setup = RecordingSetup(part, stack)
            described.append(_Described(part, setup.load_expert(SILENT), setup.seeds))
    experts = [each.header.experts[0] for each in described]
    if reasons := capture_conflicts(experts, ["steps/logits"]):
        msg = f"these experts cannot share a dataset: {reasons[0]}"
        raise MismatchError(msg, Remedy("record each into a dataset of its own"))
    return described


def _finished(parts: Sequence[_Described], output: Path) -> DatasetManifest | None:
    """Return the manifest of a finished dataset of all parts, None if there is none."""
    files = Folder(output)
    if not files.exists(MANIFEST):
        return None
    found, first = read_manifest(files), parts[0]
    noise_found = {"noise": found.recording.noise, "noise_rule": found.recording.noise_rule}
    names = dict.fromkeys(part.header.name for part in parts)
    expected = first.header.model_copy(
        update={
            "name": first.recipe.name or "+".join(names),
            "experts": tuple(
                part.header.experts[0].model_copy(update={"id": number})
                for number, part in enumerate(parts)
            ),
            "recording": first.header.recording.model_copy(update=noise_found),
            "lineage": found.lineage,
        }
    )
    seeds = np.concatenate([part.seeds for part in parts])
    manifest = finished_dataset(output, expected, len(seeds))
    levels = noise.episode_levels(seeds, first.recipe.noise_mixture)
    stored = ExpertBuffer.open(output)
    for name, wanted in (("seed", seeds), ("noise_level", levels)):
        if not np.array_equal(stored.episodes(name), wanted):
            msg = f"the finished dataset at {str(output)!r} holds other episodes ({name})"
            again = Remedy("choose another path"), Remedy("give", overwrite=True)
            raise MismatchError(msg, *again)
    return manifest
