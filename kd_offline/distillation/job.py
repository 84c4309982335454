"""What a distillation needs before its first step: everything read once, and the run folder."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from kd_offline.datasets import ExpertBuffer
from kd_offline.datasets.held_out import HeldOut, held_out
from kd_offline.distillation.lessons import (
    Episodes,
    Judges,
    first_critic,
    measured,
    ordered,
    taught,
)
from kd_offline.distillation.projections import Projections
from kd_offline.distillation.resources import Resources
from kd_offline.distillation.roles import RoleModel, fit_roles
from kd_offline.distillation.targets import Lesson
from kd_offline.distillation.worth import worths
from kd_offline.errors import DatasetError, StorageError
from kd_offline.files import remove_tree
from kd_offline.runs.folder import RUN, RunFolder, check_free, create_run, open_run
from kd_offline.runs.provenance import provenance
from kd_offline.schemas.budget import Allocation
from kd_offline.schemas.recipes import DistillRecipe
from kd_offline.schemas.run import DatasetReference, JudgedBy, RunManifest, StudentRecord, Timing
from kd_offline.schemas.student import StudentCard
from kd_offline.seeding import generator
from kd_offline.students import policy as students
from kd_offline.students.budgets import allocate_budget, allocation
from kd_offline.students.gates import Gates
from kd_offline.students.limits import Bounds, device_of
from kd_offline.students.networks import InputScale, StudentTeam
from kd_offline.students.widths import allocate
from kd_offline.types import BoolArray, FloatArray

_LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class Job:
    """A run being made: what was read once, and what came out so far."""

    folder: RunFolder
    manifest: RunManifest
    recipe: DistillRecipe
    card: StudentCard
    scale: InputScale
    roles: RoleModel | None
    train: Episodes
    judges: Judges | None
    began: float
    teams: list[StudentTeam] = field(default_factory=list)


def prepare(
    buffer: ExpertBuffer,
    output: Path,
    recipe: DistillRecipe,
    path: str,
    command: str,
    resume: bool,
    overwrite: bool,
) -> Job:
    """Read the dataset, compute its targets, and only then make or reopen the run folder."""
    began = time.perf_counter()
    if recipe.budget is not None:
        device_of(recipe.budget)  # refused before anything is read
    again = resume and (output / RUN).is_file()
    if not again:
        check_free(output, overwrite=overwrite)
    train, unseen = buffer.split("train"), held_out(buffer, recipe.judge_by)
    if not len(train):
        msg = f"the dataset at {path!r} has no episode to train on: record more episodes"
        raise DatasetError(msg)
    mask = buffer.mask(recipe.mask)
    loader = ordered(buffer, train, recipe)
    measures = measured(loader, recipe)
    scale = measures.scale
    card = _card(buffer, recipe, mask, scale.std)
    card, narrowed = _within_budget(buffer, recipe, card, mask)
    roles = fit_roles(buffer, train, recipe.switches) if recipe.weights.role else None
    team = fresh_team(card, recipe.seeds[0], scale)
    lesson = Lesson(buffer.spec, first_critic(buffer), recipe, measures, team, roles)
    learned = taught(loader, lesson)
    del loader
    judges = None
    if unseen is not None:
        judges = Judges(unseen.part, taught(ordered(buffer, unseen.episodes, recipe), lesson))
    manifest = _manifest(buffer, recipe, card, team, path, command, unseen)
    manifest = manifest.model_copy(update={"allocation": narrowed})
    if again:
        folder = _same_run(output, recipe, buffer)
        before = folder.manifest()
        update = {"results": before.results, "metrics": before.metrics}
        manifest = manifest.model_copy(update=update)
    else:
        folder = create_run(output, manifest, overwrite=overwrite)
    return Job(
        folder=folder,
        manifest=manifest,
        recipe=recipe,
        card=card,
        scale=scale,
        roles=roles,
        train=learned,
        judges=judges,
        began=began,
    )


def _card(
    buffer: ExpertBuffer, recipe: DistillRecipe, mask: BoolArray, deviation: FloatArray
) -> StudentCard:
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


def _within_budget(
    buffer: ExpertBuffer, recipe: DistillRecipe, card: StudentCard, mask: BoolArray
) -> tuple[StudentCard, Allocation | None]:
    """Narrow the students to the recipe's budget, by what their blocks are worth.

    Gates narrow them later, if there is a team that fits.
    """
    if recipe.budget is None:
        return card, None
    if recipe.first_settled is not None:
        Bounds.of(card, recipe.budget).require_possible()
        return card, None
    seen: BoolArray = mask if mask.ndim == 2 else np.any(mask, axis=0)
    found = allocate_budget(card, worths(buffer, seen, motion=card.motion), recipe.budget)
    widths = tuple(agent.hidden for agent in found.agents)
    return card.model_copy(update={"widths": widths}), found


def fresh_team(card: StudentCard, seed: int, scale: InputScale) -> StudentTeam:
    """Return the team of a seed before its first step."""
    team = students.build(card, generator(seed, "student weights"))
    team.scale_inputs(scale)
    return team


def fresh_projections(job: Job, seed: int, team: StudentTeam) -> Projections:
    """Return the projections of a seed before its first step, of what a team embeds.

    Gates leave embeddings of unequal widths, which have no cosine, so these begin with projectors.
    """
    switches = job.recipe.switches
    if job.recipe.first_settled is not None and switches.relation == "auto":
        switches = switches.model_copy(update={"relation": "linear"})
    return Projections(
        tuple(shape.embedding for shape in team.shapes),
        job.roles.roles if job.roles else 0,
        switches,
        generator(seed, "projection weights"),
        dueling=job.recipe.student.dueling,
        side_of=job.card.environment.side_of,
    )


def gated(job: Job, team: StudentTeam) -> Resources | None:
    """Return the gates on a team's units and what they may cost; None where widths are fixed."""
    recipe = job.recipe
    if recipe.budget is None or recipe.first_settled is None:
        return None
    gates = Gates(team.shapes, recipe.gates.start)
    return Resources(gates, Bounds.of(job.card, recipe.budget), recipe.gates)


def with_layers(job: Job) -> tuple[StudentCard, RunManifest]:
    """Return what the card and the run say once gates have chosen every team's layers."""
    manifest, budget = job.manifest, job.recipe.budget
    if budget is None or job.recipe.first_settled is None:
        return job.card, manifest
    of_seed = {result.seed: result.layers for result in manifest.results}
    card = job.card.model_copy(update={"layers": tuple(of_seed[s] for s in job.card.seeds)})
    bounds = Bounds.of(job.card, budget)
    every = [allocation(bounds, layers) for layers in of_seed.values() if layers is not None]
    costliest = max(range(len(every)), key=lambda k: every[k].team["macs"])
    students = tuple(
        StudentRecord(agent=agent.agent, hidden=agent.hidden, parameters=count)
        for agent, count in zip(
            every[costliest].agents, job.teams[costliest].parameters_per_agent, strict=True
        )
    )
    update = {"students": students, "allocation": every[costliest]}
    return card, manifest.model_copy(update=update)


def _manifest(
    buffer: ExpertBuffer,
    recipe: DistillRecipe,
    card: StudentCard,
    team: StudentTeam,
    path: str,
    command: str,
    unseen: HeldOut | None,
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
        judged_by=None
        if unseen is None
        else JudgedBy(part=unseen.part, episodes=len(unseen.episodes)),
        seeds=recipe.seeds,
        students=tuple(StudentRecord(agent=a, hidden=h, parameters=p) for a, h, p in agents),
        provenance=provenance(),
        timing=Timing(started=datetime.now(UTC).isoformat(timespec="seconds"), seconds=0.0),
        command=command,
    )


def complete(output: Path, recipe: DistillRecipe, buffer: ExpertBuffer) -> RunManifest | None:
    """Return what ``run.json`` says where the same run is there already and complete."""
    if not (output / RUN).is_file():
        return None
    folder = _same_run(output, recipe, buffer)
    manifest = folder.manifest()
    if manifest.status != "complete":
        return None
    _LOG.warning("%s is complete already: nothing was done", output)
    remove_tree(folder.resume_state)  # a kill may have left it
    return manifest


def _same_run(output: Path, recipe: DistillRecipe, buffer: ExpertBuffer) -> RunFolder:
    """Open the run to continue, unless it was begun differently."""
    folder = open_run(output)
    before = folder.manifest()
    # The number of threads changes no bits, so it may be another one than before.
    begun = DistillRecipe.model_validate(before.recipe | {"threads": recipe.threads})
    if (begun, before.dataset.id) != (recipe, buffer.id):
        msg = (
            f"the run in {str(output)!r} was begun with another recipe or dataset: repeat its "
            "options, as its run.json states them, or choose another folder"
        )
        raise StorageError(msg)
    return folder
