"""Record an expert: roll it out and write an expert buffer, if the disk has room for it."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar, Unpack

import numpy as np

from kd_offline.datasets import DatasetWriter, EpisodeBlock
from kd_offline.datasets.edit.lineage import check_output
from kd_offline.datasets.edit.merge import merge
from kd_offline.datasets.edit.merge_compatibility import capture_conflicts, incomparable_arrays
from kd_offline.datasets.format import layout
from kd_offline.datasets.format.layout import BLOCKS, MANIFEST
from kd_offline.datasets.metadata.summary import format_bytes
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.storage.addresses import is_remote
from kd_offline.datasets.storage.manifest_file import read_manifest
from kd_offline.datasets.storage.store import Folder
from kd_offline.datasets.writing.destination import check_name, prepare_folder, refuse_occupied
from kd_offline.datasets.writing.writer import finished_dataset
from kd_offline.errors import MismatchError, Remedy, StorageError, UsageError
from kd_offline.execution import executor_on
from kd_offline.execution.base import Executor, Resources
from kd_offline.execution.parts import parts_folder, parts_of
from kd_offline.experts.protocol import Expert
from kd_offline.experts.score import share_won
from kd_offline.files import make_folder, remove_tree
from kd_offline.networks.threads import computing_with
from kd_offline.recording import noise
from kd_offline.recording.addresses import record_away
from kd_offline.recording.divided import DividedRecording
from kd_offline.recording.recipe import RecordSettings, record_recipe
from kd_offline.recording.setup import RecordingSetup
from kd_offline.schemas.dataset import DatasetManifest, RecordingHeader
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.record_recipe import RecordRecipe
from kd_offline.tracking.base import SILENT, Observer, Observers, Operation, observed
from kd_offline.types import SeedArray

Result = TypeVar("Result")
_MOST_SHARDS = 64  # where nothing else is asked for; finished ones are what a repetition keeps


@computing_with(1)
def record(
    recipe: str | RecordRecipe,
    output: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    on: str | None = None,
    observers: Sequence[Observer] = (),
    **settings: Unpack[RecordSettings],
) -> DatasetManifest:
    """Record an expert buffer and return its manifest.

    Parameters
    ----------
    recipe
        What :func:`~kd_offline.recording.recipe.record_recipe` returns, or only the name of an
        environment, see ``kd_offline.environments.names``.
    output
        Folder of the dataset, usually ``something.zarr``, or an ``s3://``, ``gs://``, ``az://`` or
        ``hf://`` address. For an address it is recorded in a folder ``NAME.*.unsent`` of this
        machine, sent when it is complete, and then deleted here. Its manifest is created last, and
        only where there is none, so of several that record to one address one alone succeeds.
    resume
        Continue an unfinished recording, or start one where there is none. One that was finished
        with the same settings is returned unchanged.
    overwrite
        Replace a dataset that is there.
    on
        Where to play batches side by side: ``processes:4``, ``ray`` or ``ray://HOST:PORT``, see
        :func:`kd_offline.execution.executor_on`. The dataset is that of one process, which may also
        continue what was begun so, and the other way round.
    observers
        They receive the number of finished episodes and their returns; messages tell what an import
        did not find, how values were calibrated, and the largest possible size.
    **settings
        Beside the name of an environment, any field of
        :class:`~kd_offline.schemas.record_recipe.RecordRecipe`: ``expert``, ``episodes``, ``seed``,
        ``noise_mixture``, ``partner``, ``masks``, ``batch``, ``environment_kwargs`` and others.
        Episode ``k`` depends on (seed, k) alone, so a longer recording starts like a shorter one,
        and ``shard="3/64"`` records one of 64 shares, see :func:`~kd_offline.datasets.merge`.
        Of several experts each plays an equal part of the episodes: the first with the recipe's
        seed, the second with the next one, and so on, as in a merge of their recordings.

    Returns
    -------
    DatasetManifest
        As committed, with the dataset's id.

    Raises
    ------
    UsageError, UnknownNameError, MismatchError, CheckpointError, StorageError, UserCodeError
        See the error's message. Episodes recorded before a failure are kept for ``resume``.
        Settings that a dataset cannot hold are refused before the first episode.
    """
    if settings and not isinstance(recipe, str):
        msg = f"{', '.join(settings)} given beside a whole recipe: make them part of the recipe"
        raise UsageError(msg)
    complete_recipe = record_recipe(recipe, **settings) if isinstance(recipe, str) else recipe
    check_name(complete_recipe.name)
    if resume and overwrite:
        msg = "resume and overwrite exclude each other: give one of them"
        raise UsageError(msg)
    if is_remote(str(output)):
        away = partial(record, resume=resume, overwrite=overwrite, on=on, observers=observers)
        return record_away(
            *(complete_recipe, str(output), away),
            resume=resume,
            overwrite=overwrite,
            observers=observers,
        )
    if len(complete_recipe.expert) > 1:
        return _record_each(
            *(complete_recipe, Path(output), on),
            resume=resume,
            overwrite=overwrite,
            observers=observers,
        )
    operation = Operation("record", complete_recipe.model_dump(mode="json"), Path(output))
    with observed(operation, observers) as observer, ExitStack() as stack:
        setup = RecordingSetup(complete_recipe, stack)
        header = setup.load_expert(observer)
        if resume:
            finished_manifest = finished_dataset(output, header, len(setup.seeds))
            if finished_manifest is not None:
                return finished_manifest
        root = check_output(output, ())
        refuse_occupied(root, resume=resume, overwrite=overwrite)
        observer.result = _write(setup, header, root, on, observer, resume, overwrite)
        return observer.result


def _write(
    setup: RecordingSetup,
    header: RecordingHeader,
    root: Path,
    on: str | None,
    observer: Observer,
    resume: bool,
    overwrite: bool,
) -> DatasetManifest:
    """Play all episodes that are not stored yet, here or in workers, and commit the dataset."""
    recipe, batch, seeds = setup.recipe, setup.batch, setup.seeds
    episodes = len(seeds)
    plan = check_space(
        *(root, setup.actor, setup.spec, episodes, recipe.embedding_dtype), resume=resume
    )
    began, played = time.perf_counter(), root / BLOCKS
    with ExitStack() as stack:
        divided = None
        if on is not None:
            workers = stack.enter_context(_workers(on, recipe, root))
            divided = DividedRecording(setup, header, workers, played)
        writer = stack.enter_context(
            DatasetWriter.create(root, header, resume=resume, overwrite=overwrite)
        )
        remove_tree(played)  # of a command that was killed
        observer.message(plan)
        observer.progress(writer.episodes_done, episodes, "episodes")
        # An interrupted batch is played again from its start, because batches are played whole.
        first = writer.episodes_done - writer.episodes_done % batch
        for block in (divided or setup).blocks(first):
            writer.append(_without_first(block, writer.episodes_done - first))
            first += len(block.lengths)
            observer.metrics(writer.episodes_done, _figures(block, setup.spec))
            observer.progress(writer.episodes_done, episodes, "episodes")
        remove_tree(played)
        return writer.commit(
            {mask.name: mask.for_episodes(seeds) for mask in setup.masks},
            seconds=time.perf_counter() - began,
            splits=setup.splits(header.heldout),
            recording=None if divided is None else divided.recording,
        )


def _workers(on: str, recipe: RecordRecipe, root: Path) -> Executor:
    """Return the executor of a place, whose machines see the output and what is read."""
    inputs = [*recipe.expert, recipe.partner, recipe.expert_recipe, *(recipe.masks or ())]
    files = [Path(name) for name in inputs if name is not None and Path(name).exists()]
    folder = root if root.exists() else root.absolute().parent
    make_folder(folder)
    needs = Resources.of(recipe.threads)
    return executor_on(
        on,
        needs=needs,
        folders=(folder,),
        files=files,
        logs=root / BLOCKS,
        modules=(__name__,),
    )


def _figures(block: EpisodeBlock, spec: EnvironmentSpec) -> dict[str, float]:
    """Return length, returns and wins of a batch's episodes by the names of metrics."""
    n, side_of = len(block.lengths), np.array(spec.side_of)
    figures = {"record/length": float(block.lengths.mean())}
    for k, side in enumerate(spec.sides):
        gained = block.steps["reward"][:, side_of == k].sum(dtype=np.float64)
        figures[f"record/return/{side}"] = float(gained) / n
    won = share_won(block.episodes["won"])
    return figures if won is None else figures | {"record/won": won}


def _without_first(block: EpisodeBlock, episodes: int) -> EpisodeBlock:
    """Return a block without its first ``episodes``, which are already stored."""
    if not episodes:
        return block
    skip = int(block.lengths[:episodes].sum())
    return EpisodeBlock(
        {name: values[skip:] for name, values in block.steps.items()},
        {name: values[episodes:] for name, values in block.final.items()},
        {name: values[episodes:] for name, values in block.episodes.items()},
    )


_USUAL_WIDTH = 128  # assumed width of embeddings where the expert does not state it


def step_bytes(spec: EnvironmentSpec, layer_width: int, number_bytes: int) -> int:
    """Return the uncompressed bytes of one joint step, an upper bound of its stored size.

    Parameters
    ----------
    spec
        With full observations where they are stored.
    layer_width, number_bytes
        Widths of embedding and taps added up, and bytes of one of their numbers.
    """
    sizes = layout.axis_sizes(spec, 1, 1) | {"H": layer_width}
    total = 0
    for name, rule in layout.RULES.items():
        there = name.startswith("steps/") and sizes.keys() >= set(rule.axes)
        # An expert has logits or Q-values, and a state may be the observations.
        if there and name != "steps/q_values" and not ("S" in rule.axes and spec.state_is_obs):
            one = number_bytes if "H" in rule.axes else np.dtype(rule.dtypes[0]).itemsize
            total += one * math.prod(sizes[axis] for axis in rule.axes)
    return total


def check_space(
    output: str | Path,
    actor: Expert,
    spec: EnvironmentSpec,
    episodes: int,
    embedding_dtype: str,
    *,
    resume: bool,
) -> str:
    """Return a sentence with the largest possible size; raise if the disk has less space.

    With ``resume`` the existing files count as free space.

    Raises
    ------
    StorageError
        The disk has less space than the recording may need.
    """
    widths = actor.layer_widths
    width = _USUAL_WIDTH if widths is None else sum(widths.values())
    number_bytes = 2 if embedding_dtype == "float16" else 4
    # What is stored once for each episode, such as the last view, takes less than a step.
    episode_bytes = (spec.episode_limit + 1) * step_bytes(spec, width, number_bytes)
    target = Path(output).expanduser().absolute()
    existing = sum(f.stat().st_size for f in target.rglob("*") if f.is_file()) if resume else 0
    existing_folder = next(folder for folder in (target, *target.parents) if folder.exists())
    free_bytes = shutil.disk_usage(existing_folder).free
    total = format_bytes(episode_bytes * episodes)
    if episode_bytes * episodes > free_bytes + existing:
        fitting_episodes = (free_bytes + existing) // episode_bytes
        advice = f" or record {fitting_episodes:,} episodes" if fitting_episodes else ""
        msg = (
            f"{episodes:,} episodes may take {total}, and the disk of "
            f"{str(existing_folder)!r} has {format_bytes(free_bytes)} free: free space, choose "
            f"another folder{advice}"
        )
        raise StorageError(msg)
    return (
        f"recording {episodes:,} episodes of {spec.id} into {output}: {total} "
        "at most; fewer episodes take less room and time"
    )


def _record_each(
    recipe: RecordRecipe,
    output: Path,
    on: str | None,
    *,
    resume: bool,
    overwrite: bool,
    observers: Sequence[Observer],
) -> DatasetManifest:
    """Record a part with each of several experts, merge the parts, and delete them.

    The first expert plays with the recipe's seed, the second with the next one, and so on, as if
    each had been recorded alone. Parts lie beside the dataset, in ``OUTPUT.parts``, until it is
    complete; of each, only what is missing is recorded.
    """
    parts = _parts_of_experts(recipe)
    described = _described(parts)
    target = output.expanduser().absolute()
    if resume and (done := _finished(described, target)):
        remove_tree(parts_of(target, "parts"))  # of a command that was killed
        return done
    refuse_occupied(check_output(target, ()), resume=resume, overwrite=overwrite)
    with parts_folder(target, "parts", "recording", resume=resume, overwrite=overwrite) as folder:
        if overwrite:  # now, as with one expert: then resuming does not find another recording
            prepare_folder(target, resume=False, overwrite=True)
        paths = [folder / f"{number}.zarr" for number in range(1, len(parts) + 1)]
        for part, path in zip(parts, paths, strict=True):
            record(part, path, resume=True, on=on, observers=observers)
        left_out = incomparable_arrays([ExpertBuffer.open(path) for path in paths])
        if left_out:
            Observers(observers).message(
                f"left out {', '.join(left_out)}: not every expert gives it, or not in one form"
            )
        return merge(
            *(paths, target),
            without=left_out,
            name=recipe.name,
            resume=resume,
            overwrite=overwrite,
            observers=observers,
        )


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
