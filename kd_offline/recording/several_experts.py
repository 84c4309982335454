"""Recordings of several experts: a part with each, put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from kd_offline.datasets.edit.merge import merge
from kd_offline.datasets.format.layout import MANIFEST
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.storage.manifest_file import read_manifest
from kd_offline.datasets.storage.store import Folder
from kd_offline.datasets.writing.destination import refuse_existing
from kd_offline.datasets.writing.writer import finished_dataset
from kd_offline.errors import MismatchError, Remedy, UsageError
from kd_offline.files import make_folder, remove_tree
from kd_offline.recording import noise
from kd_offline.recording.setup import RecordingSetup
from kd_offline.schemas.dataset import DatasetManifest
from kd_offline.schemas.recipes import RecordRecipe
from kd_offline.tracking.base import SILENT, Observer


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
    target = output.expanduser().absolute()
    folder = target.with_name(f"{target.name}.parts")
    if resume and not overwrite and (done := _finished_parts(parts, target)):
        return done
    if overwrite:
        remove_tree(folder)
    else:
        refuse_existing(target, resume=resume)
    make_folder(folder)
    paths = [folder / f"{number}.zarr" for number in range(1, len(parts) + 1)]
    for part, path in zip(parts, paths, strict=True):
        record(part, path)
    manifest = merge(
        paths, target, name=recipe.name, resume=resume, overwrite=overwrite, observers=observers
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


def _finished_parts(parts: Sequence[RecordRecipe], output: Path) -> DatasetManifest | None:
    """Return the manifest of a finished dataset of all parts, None if there is none."""
    files = Folder(output)
    if not files.exists(MANIFEST):
        return None
    found = read_manifest(files)
    with ExitStack() as stack:
        setups = [RecordingSetup(part, stack) for part in parts]
        headers = [setup.load_expert(SILENT) for setup in setups]
    noise_found = {"noise": found.recording.noise, "noise_rule": found.recording.noise_rule}
    expected = headers[0].model_copy(
        update={
            "name": parts[0].name or "+".join(dict.fromkeys(header.name for header in headers)),
            "experts": tuple(
                header.experts[0].model_copy(update={"id": number})
                for number, header in enumerate(headers)
            ),
            "recording": headers[0].recording.model_copy(update=noise_found),
            "lineage": found.lineage,
        }
    )
    seeds = np.concatenate([setup.seeds for setup in setups])
    manifest = finished_dataset(output, expected, len(seeds))
    levels = noise.episode_levels(seeds, parts[0].noise_mixture)
    stored = ExpertBuffer.open(output)
    for name, wanted in (("seed", seeds), ("noise_level", levels)):
        if not np.array_equal(stored.episodes(name), wanted):
            msg = f"the finished dataset at {str(output)!r} holds other episodes ({name})"
            again = Remedy("choose another path"), Remedy("give", overwrite=True)
            raise MismatchError(msg, *again)
    return manifest
