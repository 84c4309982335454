"""The seeds of a distillation side by side: a run for each, and one run of them all."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kd_offline.distillation.auxiliary_heads import AUXILIARY, read_all_auxiliary, write_auxiliary
from kd_offline.distillation.metric_rows import metric_names, series_of
from kd_offline.errors import MismatchError, Remedy, StorageError, UsageError
from kd_offline.execution import executor_on
from kd_offline.execution.base import Resources
from kd_offline.execution.parts import parts_folder, parts_of
from kd_offline.files import remove_tree
from kd_offline.runs.complete import CompleteRun, complete_run
from kd_offline.runs.folder import RUN, RunFolder, check_free, create_run
from kd_offline.schemas.recipes import DistillRecipe
from kd_offline.schemas.run import RunManifest, Timing
from kd_offline.students.policy import save
from kd_offline.tracking.base import Observer

if TYPE_CHECKING:
    from torch import Tensor


def distill_by_seed(
    distill: Callable[..., RunManifest],
    dataset: str,
    identity: str,
    output: Path,
    recipe: DistillRecipe,
    on: str,
    observer: Observer,
    *,
    resume: bool,
    overwrite: bool,
    command: str,
) -> RunManifest:
    """Distil every seed where ``on`` says, and make one run of them, with the bits of one process.

    ``distill`` is what does so with a single seed. Runs of single seeds lie in ``OUTPUT.seeds``
    until all are complete.

    ``identity`` is the dataset's id.

    Raises
    ------
    UsageError
        The seeds are to be trained at once.
    StorageError
        There is a run at ``output``, or seeds of an unfinished one.
    MismatchError
        The dataset was replaced meanwhile.
    """
    if recipe.batched_seeds:
        msg = "seeds that are computed at once are one task, which is not divided"
        raise UsageError(msg, "leave out the place, or set batched_seeds to false")
    _require_free(output, resume=resume, overwrite=overwrite)
    began, started = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    folder = parts_folder(output, "seeds", "distillation", resume=resume, overwrite=overwrite)
    start = None if recipe.start is None else recipe.start.run
    files = [Path(name) for name in (dataset, start) if name is not None and Path(name).exists()]
    needs = Resources.of(recipe.threads, recipe.accelerator)
    epochs, total = recipe.optimisation.epochs, recipe.optimisation.epochs * len(recipe.seeds)
    observer.progress(0, total, "epochs")
    with executor_on(on, needs=needs, folders=(folder,), files=files, logs=folder) as workers:
        task = partial(_distill_seed, distill, dataset, str(folder), recipe)
        for number, seed in enumerate(workers.map(task, recipe.seeds), start=1):
            for row in RunFolder(_run_of(folder, seed)).metrics():
                observer.metrics(row["epoch"], metric_names(row), series=series_of(seed))
            observer.progress(number * epochs, total, "epochs")
    runs = [complete_run(_run_of(folder, seed)) for seed in recipe.seeds]
    if changed := {run.manifest.dataset.id for run in runs} - {identity}:
        msg = (
            f"the dataset at {dataset!r} was replaced while seeds were distilled: it was "
            f"{identity[:19]}, and then {changed.pop()[:19]}, so restore it, or delete "
            f"{str(folder)!r} and begin again"
        )
        raise MismatchError(msg)
    timing = Timing(started=started, seconds=round(time.perf_counter() - began, 2))
    manifest = _put_together(runs, output, recipe, timing, command)
    remove_tree(folder)
    return manifest


def _require_free(output: Path, *, resume: bool, overwrite: bool) -> None:
    check_free(output, overwrite=overwrite or resume)
    if resume and (output / RUN).is_file() and not parts_of(output, "seeds").exists():
        msg = f"the run in {str(output)!r} was begun in one process"
        instead = Remedy("replace it with", overwrite=True)
        raise StorageError(msg, "continue it there, without a place", instead)


def _run_of(folder: Path, seed: int) -> Path:
    return folder / f"seed-{seed}"


def _distill_seed(
    distill: Callable[..., RunManifest], dataset: str, folder: str, recipe: DistillRecipe, seed: int
) -> int:
    """Distil a seed in a worker, or what is missing of it; return the seed."""
    own = recipe.model_copy(update={"seeds": (seed,)})
    distill(dataset, _run_of(Path(folder), seed), own, resume=True)
    return seed


def _put_together(
    runs: list[CompleteRun],
    output: Path,
    recipe: DistillRecipe,
    timing: Timing,
    command: str,
) -> RunManifest:
    """Write one run of the runs of single seeds; ``run.json`` is complete last."""
    first = runs[0].manifest
    costliest = max((run.manifest for run in runs), key=_macs)
    manifest = first.model_copy(
        update={
            "status": "running",
            "recipe": recipe.model_dump(mode="json"),
            "seeds": recipe.seeds,
            "students": costliest.students,
            "allocation": costliest.allocation,
            "results": tuple(run.manifest.results[0] for run in runs),
            "metrics": None,
            "timing": timing,
            "command": command,
        }
    )
    folder = create_run(output, manifest, overwrite=True)
    card = runs[0].students.card
    layers = None
    if card.layers is not None:
        cards = (run.students.card.layers or () for run in runs)
        layers = tuple(layers_of_seed for own in cards for layers_of_seed in own)
    card = card.model_copy(update={"seeds": recipe.seeds, "layers": layers})
    save(folder.students, card, [run.teams[0].team for run in runs])
    _keep_auxiliary(runs, folder, manifest)
    for run in runs:
        folder.append_metrics(run.folder.metrics())
    update = {"status": "complete", "metrics": folder.metrics_record()}
    manifest = manifest.model_copy(update=update)
    folder.write_manifest(manifest)
    return manifest


def _macs(manifest: RunManifest) -> float:
    """Return what a team costs, where unit gates chose it; 0 where all teams cost the same."""
    return 0.0 if manifest.allocation is None else float(manifest.allocation.team["macs"])


def _keep_auxiliary(runs: list[CompleteRun], folder: RunFolder, manifest: RunManifest) -> None:
    """Write the auxiliary networks of all seeds, where a term kept them."""
    tensors: dict[int, dict[str, Tensor]] = {}
    for run in runs:
        if (run.path / AUXILIARY).is_file():
            tensors |= read_all_auxiliary(run.path, "distil again")
    digests = {result.seed: result.digest for result in manifest.results}
    write_auxiliary(folder.path, tensors, digests)
