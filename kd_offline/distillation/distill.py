"""Stage 2: students from a file alone, with no environment, no expert and no rollout."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import torch
from pydantic import Field
from safetensors.torch import load_file

from kd_offline.datasets import ExpertBuffer
from kd_offline.distillation.methods import check_arrays
from kd_offline.distillation.projections import Projections
from kd_offline.distillation.roles import RoleModel, fit_roles
from kd_offline.distillation.targets import Targets, build_targets, input_scale
from kd_offline.distillation.train import Row, Training, finish, train_team
from kd_offline.errors import DatasetError, StorageError
from kd_offline.networks.files import write_file, write_tensors
from kd_offline.runs.folder import RUN, RunFolder, check_free, create_run, open_run
from kd_offline.runs.provenance import provenance
from kd_offline.schemas.environment import Strict
from kd_offline.schemas.recipes import DistillRecipe
from kd_offline.schemas.run import DatasetReference, RunManifest, SeedResult, StudentRecord, Timing
from kd_offline.schemas.student import StudentCard
from kd_offline.seeding import generator
from kd_offline.students import policy as students
from kd_offline.students.networks import InputScale, StudentTeam
from kd_offline.students.widths import allocate
from kd_offline.types import BoolArray, FloatArray

Report = Callable[[Row], None]
SAVE_EVERY_S = 15.0


class ResumeState(Strict):
    """What is not a tensor in the state of an unfinished run."""

    seed: int
    epoch: int
    best_epoch: int | None
    best: dict[str, float] = Field(default_factory=dict)


@dataclass(slots=True)
class _Job:
    """A run being made: what was read once, and what came out so far."""

    folder: RunFolder
    manifest: RunManifest
    recipe: DistillRecipe
    card: StudentCard
    scale: InputScale
    roles: RoleModel | None
    train: Targets
    heldout: Targets
    report: Report | None
    began: float
    teams: list[StudentTeam] = field(default_factory=list)


def distill(
    dataset: str | Path,
    output: str | Path,
    recipe: DistillRecipe | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    command: str = "",
    report: Report | None = None,
) -> RunManifest:
    """Train one student team for each seed of ``recipe``, purely from a dataset.

    Parameters
    ----------
    dataset
        An expert buffer.
    output
        Run folder to make, or with ``resume`` one that was interrupted.
    recipe
        See :class:`~kd_offline.schemas.recipes.DistillRecipe`; None for the default.
    command
        Kept in ``run.json``.
    report
        Called with every row of ``metrics.jsonl``.

    Returns
    -------
    RunManifest
        What ``run.json`` says. With the same file, recipe, thread count and kind of processor a
        rerun gives bit-identical weights.

    Raises
    ------
    DatasetError, MissingArrayError, UsageError, StorageError
        See the message. Finished seeds and epochs are kept for ``resume``.
    """
    recipe = recipe or DistillRecipe()
    torch.set_num_threads(recipe.threads)
    buffer = ExpertBuffer.open(dataset)
    check_arrays(recipe, list(buffer.names))
    if resume and (before := _complete(Path(output), recipe, buffer)) is not None:
        return before
    job = _prepare(buffer, Path(output), recipe, str(dataset), command, report, resume, overwrite)
    try:
        for seed in recipe.seeds:
            _one_seed(job, seed)
    except KeyboardInterrupt:
        _write(job, "interrupted")
        raise
    _write(job, "complete")
    return job.manifest


def _prepare(
    buffer: ExpertBuffer,
    output: Path,
    recipe: DistillRecipe,
    path: str,
    command: str,
    report: Report | None,
    resume: bool,
    overwrite: bool,
) -> _Job:
    began = time.perf_counter()
    again = resume and (output / RUN).is_file()
    if not again:
        check_free(output, overwrite=overwrite)
    train, heldout = buffer.split("train"), buffer.split("heldout")
    if not len(train):
        msg = f"the dataset at {path!r} has no episode to train on: record more episodes"
        raise DatasetError(msg)
    scale = input_scale(buffer, train)
    card = _card(buffer, recipe, scale.std)
    roles = fit_roles(buffer, train, recipe.switches) if recipe.weights.role else None
    team = _team(card, recipe.seeds[0], scale)
    held = heldout if len(heldout) else train
    targets = [build_targets(buffer, part, recipe, team, roles) for part in (train, held)]
    # Only now: a dataset that this recipe cannot use leaves no folder behind.
    manifest = _manifest(buffer, recipe, card, team, path, command)
    if again:
        folder = _same_run(output, recipe, buffer)
        manifest = manifest.model_copy(update={"results": folder.manifest().results})
    else:
        folder = create_run(output, manifest, overwrite=overwrite)
    return _Job(
        folder=folder,
        manifest=manifest,
        recipe=recipe,
        card=card,
        scale=scale,
        roles=roles,
        train=targets[0],
        heldout=targets[1],
        report=report,
        began=began,
    )


def _card(buffer: ExpertBuffer, recipe: DistillRecipe, deviation: FloatArray) -> StudentCard:
    mask: BoolArray = buffer.mask(recipe.mask)
    fixed = mask.ndim == 2
    seen = mask if fixed else mask.any(0)
    widths = allocate(recipe.student, buffer.spec, seen & (deviation > 1e-6))
    asked = recipe.student
    hides = not fixed or bool((~seen & (deviation > 1e-6)).any())
    motion = hides if asked.motion is None else asked.motion
    return StudentCard(
        environment=buffer.spec,
        architecture=recipe.student,
        widths=widths,
        mask=recipe.mask,
        mask_features=tuple(tuple(map(bool, row)) for row in mask) if fixed else None,
        random_k=buffer.manifest.masks[recipe.mask].random_k,
        mask_as_input=(not fixed) if asked.mask_as_input is None else asked.mask_as_input,
        motion=motion,
        last_action=motion if asked.last_action is None else asked.last_action,
        method=recipe.method,
        dataset=buffer.id,
        seeds=recipe.seeds,
    )


def _team(card: StudentCard, seed: int, scale: InputScale) -> StudentTeam:
    team = students.build(card, generator(seed, "student weights"))
    team.scale_inputs(scale)
    return team


def _manifest(
    buffer: ExpertBuffer,
    recipe: DistillRecipe,
    card: StudentCard,
    team: StudentTeam,
    path: str,
    command: str,
) -> RunManifest:
    agents = zip(card.environment.agents, card.widths, team.parameters_per_agent, strict=True)
    experts = buffer.manifest.experts
    return RunManifest(
        status="running",
        method=recipe.method,
        mask=recipe.mask,
        recipe=recipe.model_dump(mode="json"),
        dataset=DatasetReference(id=buffer.id, name=buffer.manifest.name, path=path),
        environment=buffer.spec.id,
        environment_kwargs=buffer.spec.kwargs,
        expert=(experts[0].digest or "") if experts else "",
        expert_reference=experts[0].reference if experts else "",
        seeds=recipe.seeds,
        students=tuple(StudentRecord(agent=a, hidden=h, parameters=p) for a, h, p in agents),
        provenance=provenance(),
        timing=Timing(started=datetime.now(UTC).isoformat(timespec="seconds"), seconds=0.0),
        command=command,
    )


def _complete(output: Path, recipe: DistillRecipe, buffer: ExpertBuffer) -> RunManifest | None:
    """Return what ``run.json`` says where the same run is there already and complete."""
    if not (output / RUN).is_file():
        return None
    manifest = _same_run(output, recipe, buffer).manifest()
    return manifest if manifest.status == "complete" else None


def _same_run(output: Path, recipe: DistillRecipe, buffer: ExpertBuffer) -> RunFolder:
    """Open the run to continue, unless it was begun differently."""
    folder = open_run(output)
    before = folder.manifest()
    if (before.recipe, before.dataset.id) != (recipe.model_dump(mode="json"), buffer.id):
        msg = (
            f"the run in {str(output)!r} was begun with another recipe or dataset: repeat its "
            "options, as its run.json states them, or choose another folder"
        )
        raise StorageError(msg)
    return folder


def _one_seed(job: _Job, seed: int) -> None:
    """Train, continue, or merely load the team of one seed."""
    done = {result.seed for result in job.manifest.results}
    saved = job.folder.resume_state
    team = _team(job.card, seed, job.scale)
    if seed in done:
        team.load_state_dict(load_file(saved / f"seed-{seed}.safetensors"))
        job.teams.append(team)
        return
    rng = generator(seed, "projection weights")
    roles = job.roles.roles if job.roles else 0
    targets = {"embedding": job.train.embedding, "belief": job.train.whole}
    probes = {name: t.shape[-1] for name, t in targets.items() if t is not None}
    projections = Projections(job.card.widths, roles, probes, job.recipe.switches, rng)
    state = Training.begin(team, projections, job.recipe.optimisation)
    _restore(job, state, seed)
    began = last = time.perf_counter()
    for rows in train_team(state, job.train, job.heldout, job.recipe, seed):
        job.folder.append_metrics(rows)
        for row in rows if job.report else ():
            job.report(row)  # type: ignore[misc]
        if time.perf_counter() - last > SAVE_EVERY_S:
            _save(job, state, seed)
            last = time.perf_counter()
    team = finish(state)
    job.teams.append(team)
    result = SeedResult(
        seed=seed,
        digest=_digest(team),
        updates=state.epoch * (len(job.train) // _batch(job)),
        best_epoch=state.best_epoch,
        held_out=state.best,
        seconds=round(time.perf_counter() - began, 2),
    )
    job.manifest = job.manifest.model_copy(update={"results": (*job.manifest.results, result)})
    saved.mkdir(exist_ok=True)
    write_tensors(saved / f"seed-{seed}.safetensors", team.state_dict())
    _write(job, "running")


def _batch(job: _Job) -> int:
    return min(job.recipe.optimisation.batch_episodes, len(job.train))


def _restore(job: _Job, state: Training, seed: int) -> None:
    """Continue from the saved state of this seed, if there is one."""
    file = job.folder.resume_state / "state.json"
    saved = ResumeState.model_validate_json(file.read_bytes()) if file.is_file() else None
    if saved is None or saved.seed != seed:
        job.folder.keep_metrics(lambda row: row["seed"] != seed)
        return
    state.restore(load_file(job.folder.resume_state / f"state-{saved.epoch}.safetensors"))
    state.epoch, state.best_epoch, state.best = saved.epoch, saved.best_epoch, dict(saved.best)
    job.folder.keep_metrics(lambda row: row["seed"] != seed or row["epoch"] <= saved.epoch)


def _save(job: _Job, state: Training, seed: int) -> None:
    """Save tensors under the epoch's name, then point to them, then drop the older ones."""
    folder = job.folder.resume_state
    folder.mkdir(exist_ok=True)
    current = folder / f"state-{state.epoch}.safetensors"
    write_tensors(current, state.tensors())
    saved = ResumeState(seed=seed, epoch=state.epoch, best_epoch=state.best_epoch, best=state.best)
    write_file(folder / "state.json", saved.model_dump_json().encode())
    for old in folder.glob("state-*.safetensors"):
        if old != current:
            old.unlink()


def _write(job: _Job, status: str) -> None:
    """Bring the run folder up to date; the students' file comes before the manifest."""
    timing = job.manifest.timing.model_copy(
        update={"seconds": round(time.perf_counter() - job.began, 2)}
    )
    job.manifest = job.manifest.model_copy(update={"status": status, "timing": timing})
    if status == "complete":
        students.save(job.folder.students, job.card, job.teams)
    job.folder.write_manifest(job.manifest)
    if status == "complete" and job.folder.resume_state.is_dir():
        for file in job.folder.resume_state.iterdir():
            file.unlink()
        job.folder.resume_state.rmdir()


def _digest(team: StudentTeam) -> str:
    """Return a digest of names, shapes and bits of a team's weights."""
    sha = hashlib.sha256()
    for name, value in sorted(team.state_dict().items()):
        sha.update(json.dumps([name, list(value.shape)]).encode())
        sha.update(value.contiguous().numpy().tobytes())
    return "sha256:" + sha.hexdigest()
