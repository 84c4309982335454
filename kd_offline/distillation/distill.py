"""Stage 2: students from a file alone, with no environment, no expert and no rollout."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from kd_offline.datasets import ExpertBuffer
from kd_offline.distillation.auxiliary_heads import AUXILIARY, read_all_auxiliary, write_auxiliary
from kd_offline.distillation.phases import phases_of
from kd_offline.distillation.recipe import completed
from kd_offline.distillation.run import Run, complete, prepare, with_layers
from kd_offline.distillation.terms.active import check_arrays
from kd_offline.distillation.train import Best, Row, Training, finish, train_team
from kd_offline.errors import CheckpointError, MismatchError, Remedy, StorageError, UsageError
from kd_offline.execution import executor_on
from kd_offline.execution.base import Resources
from kd_offline.execution.parts import parts_folder, parts_of, refuse_parts
from kd_offline.execution.processes import OPTIMISING
from kd_offline.file_locks import only_writer
from kd_offline.files import make_subfolder, remove_tree
from kd_offline.networks.files import read_tensors, tensors_digest, write_tensors
from kd_offline.networks.threads import computing_with
from kd_offline.runs.complete import CompleteRun, complete_run
from kd_offline.runs.folder import METRICS, RUN, RunFolder, check_free, create_run, emptied
from kd_offline.schemas.document import Document, LinesRecord
from kd_offline.schemas.environment import Strict
from kd_offline.schemas.layers import LayerWidths
from kd_offline.schemas.recipes import DistillRecipe
from kd_offline.schemas.run import RunManifest, SeedResult, Timing
from kd_offline.sealed_json import canonical_json, read_document, write_document
from kd_offline.sealed_json import digest as digest_of
from kd_offline.students.networks import StudentTeam
from kd_offline.students.policy import digest, save
from kd_offline.students.policy import save as save_students
from kd_offline.tracking.base import Observer, Operation, observed
from kd_offline.tracking.jsonl import JsonLines, Line, json_line

if TYPE_CHECKING:
    from torch import Tensor

_LOG = logging.getLogger(__name__)

SAVE_EVERY_S = 15.0
_AGAIN = "distil again and overwrite the run"

_PLACE = ("seed", "epoch", "split")


class SavedBest(Strict):
    """The best epoch of a seed so far, see :class:`~kd_offline.distillation.train.Best`."""

    epoch: int | None
    figures: dict[str, float]


class ResumeState(Document):
    """``state.json``: the part of an unfinished run's state that is not tensors."""

    SEALED_SINCE: ClassVar[tuple[int, int]] = (1, 1)

    version: tuple[int, int] = (1, 5)
    begun: str = Field(default="", description="digest of the run's recipe and dataset")
    tensors: str = Field(default="", description="digest of state-<epoch>.safetensors")
    metrics: LinesRecord | None = Field(default=None, description="of metrics.jsonl")
    seed: int
    epoch: int
    best_epoch: int | None
    best: dict[str, float] = Field(default_factory=dict)
    layers: tuple[LayerWidths, ...] | None = None  # once a phase has changed them
    others: tuple[SavedBest, ...] = ()  # of the seeds behind the first that are trained with it


# Inside an operation threads cost more than they bring at the widths of students, and they would
# change bits; recipe.threads runs whole agents side by side.
@computing_with(1)
def distill(
    dataset: str | Path | ExpertBuffer,
    output: str | Path,
    recipe: DistillRecipe | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    on: str | None = None,
    command: str = "",
    observers: Sequence[Observer] = (),
) -> RunManifest:
    """Train one student team for each seed of ``recipe``, purely from a dataset.

    Parameters
    ----------
    dataset
        An expert buffer: its address, or opened.
    output
        Run folder to make, or with ``resume`` one that was interrupted.
    recipe
        See :class:`~kd_offline.schemas.recipes.DistillRecipe`; None for the default.
    on
        Train seeds in parallel: ``processes:4``, ``ray`` or ``ray://HOST:PORT``, see
        :func:`kd_offline.execution.executor_on`. The students and metrics are the same; the runs
        of single seeds lie beside the run, in ``OUTPUT.seeds``, until it is complete.
    command
        Kept in ``run.json``.
    observers
        They receive the number of finished epochs, and the values of each row of ``metrics.jsonl``.

    Returns
    -------
    RunManifest
        What ``run.json`` says. With the same file, recipe and kind of processor a rerun gives
        bit-identical weights, whatever ``threads`` is.

    Raises
    ------
    DatasetError, MissingArrayError, UsageError, StorageError
        See the message. Finished seeds and epochs are kept for ``resume``.
    """
    if resume and overwrite:
        msg = "resume and overwrite exclude each other: give one of them"
        raise UsageError(msg)
    recipe = completed(recipe or DistillRecipe())
    if recipe.start is not None and Path(output).resolve() == Path(recipe.start.run).resolve():
        msg = f"the run in {str(output)!r} is what the students start from: choose another folder"
        raise UsageError(msg)
    buffer = dataset if isinstance(dataset, ExpertBuffer) else ExpertBuffer.open(dataset)
    path = buffer.where if isinstance(dataset, ExpertBuffer) else str(dataset)
    check_arrays(recipe, list(buffer.names))
    if resume and (before := complete(Path(output), recipe, buffer)) is not None:
        remove_tree(parts_of(Path(output), "seeds"))  # of a command that was killed
        return before
    asked = {"dataset": buffer.id, "recipe": recipe.model_dump(mode="json")}
    operation = Operation("distill", asked, Path(output))
    if on is not None:
        with observed(operation, observers) as observer:
            made = _distill_by_seed(
                *(path, buffer.id, Path(output), recipe, on, observer),
                resume=resume,
                overwrite=overwrite,
                command=command,
            )
            observer.result = made
        return made
    if resume and not (Path(output) / RUN).is_file():
        refuse_parts(Path(output), "seeds", "distillation")
    run = prepare(buffer, Path(output), recipe, path, command, resume, overwrite)
    part = "" if run.validation is None else run.validation.part
    lines = JsonLines(run.folder.path / METRICS, row_line(part))
    with (
        only_writer(run.folder.path, "distilling"),
        observed(operation, observers, [lines]) as observer,
    ):
        try:
            together = [recipe.seeds] if recipe.batched_seeds else [(s,) for s in recipe.seeds]
            for seeds in together:
                _train(run, seeds, observer)
        except KeyboardInterrupt:
            _write(run, "interrupted")
            raise
        _write(run, "complete")
        observer.result = run.manifest
    return run.manifest


def _train(run: Run, seeds: tuple[int, ...], observer: Observer) -> None:
    """Train, continue, or merely load the team of a seed, or those of seeds that go together."""
    epochs = run.recipe.optimisation.epochs
    done, total = epochs * len(run.teams), epochs * len(run.recipe.seeds)
    finished = {result.seed: result for result in run.manifest.results}
    if all(seed in finished for seed in seeds):
        run.teams += [_finished(run, finished[seed]) for seed in seeds]
        observer.progress(done + epochs * len(seeds), total, "epochs")
        return
    state = _begin(run, seeds)
    _restore(run, state, seeds)
    began = last = time.perf_counter()
    for rows in train_team(state, run.train, run.validation, run.terms, *seeds):
        for row in rows:
            _require_finite(row)
            observer.metrics(row["epoch"], metric_names(row), series=series_of(row["seed"]))
        observer.progress(done + state.epoch * len(seeds), total, "epochs")
        if time.perf_counter() - last > SAVE_EVERY_S:
            _save(run, state, seeds)
            last = time.perf_counter()
    teams, seconds = finish(state), time.perf_counter() - began
    run.teams += teams
    saved = run.folder.resume_state
    make_subfolder(saved.parent, saved.name)
    results = list(run.manifest.results)
    for k, (seed, team, best) in enumerate(zip(seeds, teams, state.best, strict=True)):
        if kept := run.terms.saved(state.heads.of_seed(k)):
            write_tensors(_auxiliary(run, seed), kept)
        write_tensors(saved / f"seed-{seed}.safetensors", team.state_dict())
        result = SeedResult(
            seed=seed,
            digest=digest(team),
            layers=state.layers,
            updates=state.epoch * (len(run.train) // _batch(run)),
            best_epoch=best.epoch,
            held_out=dict(best.figures),
            seconds=round(seconds / len(seeds), 2),
        )
        results.append(result)
    update = {"results": tuple(results), "metrics": run.folder.metrics_record()}
    run.manifest = run.manifest.model_copy(update=update)
    _write(run, "running")


def _auxiliary(run: Run, seed: int) -> Path:
    """Return where the auxiliary networks of a finished seed wait for the others."""
    return run.folder.resume_state / f"seed-{seed}.{AUXILIARY}"


def _write_auxiliary(run: Run) -> None:
    """Keep the auxiliary networks of all seeds, where a term asks for it."""
    if not any(term.saves_heads for term in run.terms.terms.values()):
        return
    files = {seed: read_tensors(_auxiliary(run, seed), _AGAIN) for seed in run.recipe.seeds}
    tensors = {seed: file.tensors() for seed, file in files.items()}
    students = {result.seed: result.digest for result in run.manifest.results}
    write_auxiliary(run.folder.path, tensors, students)


def _begin(run: Run, seeds: tuple[int, ...]) -> Training:
    """Return the state of a seed, or of seeds that go together, before the first step."""
    teams = [run.design.team(seed) for seed in seeds]
    pairs = zip(seeds, teams, strict=True)
    heads = [run.design.heads(seed, team, run.terms).to(run.device) for seed, team in pairs]
    teams = [team.to(run.device) for team in teams]
    schedule = run.recipe.optimisation
    if run.recipe.batched_seeds:
        return Training.begin_together(teams, heads, run.terms)
    (team,), (own,) = teams, heads
    return Training.begin(team, own, schedule, phases_of(run.design, team))


def _require_finite(row: Row) -> None:
    """Refuse to go on, and to save what came of it, once the loss is no number."""
    if not math.isfinite(row.get("loss", 0.0)):
        msg = (
            f"the loss of seed {row['seed']} is {row['loss']} in epoch {row['epoch']}, so nothing "
            "is learned any more: set a smaller optimisation.learning_rate, or scale what the "
            "environment gives where the dataset's values are very large"
        )
        raise UsageError(msg)


def _batch(run: Run) -> int:
    return min(run.recipe.optimisation.batch_episodes, len(run.train))


def _finished(run: Run, result: SeedResult) -> StudentTeam:
    """Return the team of a seed that was finished before.

    Raises
    ------
    CheckpointError, StorageError
        Its weights are missing, or are not those that came out.
    """
    place = run.folder.resume_state / f"seed-{result.seed}.safetensors"
    file = read_tensors(place, _AGAIN, required=False)
    if file.weights_digest() != result.digest:
        msg = f"{str(place)!r} does not hold the students that run.json states; {_AGAIN}"
        raise CheckpointError(msg)
    team = run.design.narrowed_team(result.layers)
    team.load_state_dict(file.tensors())
    return team


def _restore(run: Run, state: Training, seeds: tuple[int, ...]) -> None:
    """Continue from the saved state of these seeds, if there is one.

    Raises
    ------
    CheckpointError, StorageError
        It was altered, or is the state of another run.
    """
    file = run.folder.resume_state / "state.json"
    saved = read_document(ResumeState, file, _AGAIN) if file.is_file() else None
    since = (1, 5) if run.recipe.batched_seeds else (1, 4)  # stacked weights have other names
    if saved is not None and saved.version < since:
        _LOG.warning("seed %d begins again: another version saved its state", seeds[0])
        saved = None  # settings or auxiliary networks have other names; the bits will be the same
    if saved is None or saved.seed != seeds[0]:
        run.folder.resume_metrics(lambda row: row["seed"] not in seeds)
        return
    place = run.folder.resume_state / f"state-{saved.epoch}.safetensors"
    stored = read_tensors(place, _AGAIN)
    if (saved.begun, saved.tensors) != (_begun(run), stored.weights_digest()):
        msg = f"{str(file)!r} is not the state of this run; {_AGAIN}"
        raise CheckpointError(msg)
    try:
        state.restore(saved.epoch, stored.tensors(), saved.layers)
    except (KeyError, RuntimeError) as error:
        msg = f"{str(place)!r} is not the state of this run; {_AGAIN}"
        raise CheckpointError(msg) from error
    first = SavedBest(epoch=saved.best_epoch, figures=saved.best)
    state.best = [Best(best.epoch, best.figures) for best in (first, *saved.others)]
    run.folder.resume_metrics(
        lambda row: row["seed"] not in seeds or row["epoch"] <= saved.epoch, saved.metrics
    )


def _begun(run: Run) -> str:
    """Return a digest of what decides a run's bits: its recipe, but for threads, and dataset.

    Loss terms without weight and settings that are not used are left out, so that the state of a
    run does not depend on which other terms are installed.
    """
    recipe = run.recipe.model_dump(mode="json", exclude={"threads"}, exclude_none=True)
    used = {name: weight for name, weight in recipe["weights"].items() if weight}
    terms = {name: values for name, values in recipe["terms"].items() if name in used}
    recipe |= {"weights": used, "terms": terms}
    return digest_of(canonical_json({"recipe": recipe, "dataset": run.design.card.dataset}))


def _save(run: Run, state: Training, seeds: tuple[int, ...]) -> None:
    """Save tensors under the epoch's name, then point to them, then drop the older ones."""
    folder = run.folder.resume_state
    make_subfolder(folder.parent, folder.name)
    current = folder / f"state-{state.epoch}.safetensors"
    tensors = state.tensors()
    write_tensors(current, tensors)
    best, *others = state.best
    saved = ResumeState(
        begun=_begun(run),
        tensors=tensors_digest(tensors),
        metrics=run.folder.metrics_record(),
        seed=seeds[0],
        epoch=state.epoch,
        best_epoch=best.epoch,
        best=dict(best.figures),
        layers=state.layers,
        others=tuple(SavedBest(epoch=b.epoch, figures=dict(b.figures)) for b in others),
    )
    write_document(folder / "state.json", saved)
    for old in folder.glob("state-*.safetensors"):
        if old != current:
            remove_tree(old)


def _write(run: Run, status: str) -> None:
    """Bring the run folder up to date; the students' file comes before the manifest."""
    timing = run.manifest.timing.model_copy(
        update={"seconds": round(time.perf_counter() - run.began, 2)}
    )
    run.manifest = run.manifest.model_copy(update={"status": status, "timing": timing})
    if status == "complete":
        card, run.manifest = with_layers(run)
        save_students(run.folder.students, card, run.teams)
        _write_auxiliary(run)
        update = {"metrics": run.folder.metrics_record()}
        run.manifest = run.manifest.model_copy(update=update)
    run.folder.write_manifest(run.manifest)
    if status == "complete":
        remove_tree(run.folder.resume_state)


def _distill_by_seed(
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

    Runs of single seeds lie in ``OUTPUT.seeds`` until all are complete. ``identity`` is the
    dataset's id.

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
    start = None if recipe.start is None else recipe.start.run
    files = [Path(name) for name in (dataset, start) if name is not None and Path(name).exists()]
    needs = Resources.of(recipe.threads, recipe.accelerator)
    epochs, total = recipe.optimisation.epochs, recipe.optimisation.epochs * len(recipe.seeds)
    observer.progress(0, total, "epochs")
    with parts_folder(
        output, "seeds", "distillation", resume=resume, overwrite=overwrite
    ) as folder:
        with executor_on(
            on,
            needs=needs,
            folders=(folder,),
            files=files,
            logs=folder,
            modules=(OPTIMISING, __name__),
            check=partial(ExpertBuffer.open, dataset),
        ) as workers:
            if overwrite:  # now, as in one process: then resuming does not find another run
                emptied(output, overwrite=True)
            task = partial(_distill_seed, dataset, str(folder), recipe)
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
        return _put_together(runs, output, recipe, timing, command)


def _require_free(output: Path, *, resume: bool, overwrite: bool) -> None:
    check_free(output, overwrite=overwrite or resume)
    if resume and (output / RUN).is_file() and not parts_of(output, "seeds").exists():
        msg = f"the run in {str(output)!r} was begun in one process"
        instead = Remedy("replace it with", overwrite=True)
        raise StorageError(msg, "continue it there, without a place", instead)


def _run_of(folder: Path, seed: int) -> Path:
    return folder / f"seed-{seed}"


def _distill_seed(dataset: str, folder: str, recipe: DistillRecipe, seed: int) -> int:
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


def metric_names(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a row by name: ``train/kl``, or ``validation/kl`` of any other part."""
    head = "train" if row["split"] == "train" else "validation"
    numbers = {name: value for name, value in row.items() if name not in _PLACE}
    return {f"{head}/{name}": math.nan if x is None else x for name, x in numbers.items()}


def series_of(seed: int) -> str:
    """Return the series that a seed's metrics belong to."""
    return f"seed {seed}"


def row_line(part: str) -> Line:
    """Return a formatter of metrics as lines of ``metrics.jsonl``; ``part`` is held out."""

    def line(step: int, values: Mapping[str, float], series: str) -> str:
        head = next(iter(values), "validation").partition("/")[0]
        place = (int(series.removeprefix("seed ")), step, "train" if head == "train" else part)
        named = {name.partition("/")[2]: value for name, value in values.items()}
        return json_line(dict(zip(_PLACE, place, strict=True)) | named)

    return line
