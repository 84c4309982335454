"""A distillation in progress: its run folder, and all that is fixed before the first step."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from kd_offline.datasets import ExpertBuffer
from kd_offline.datasets.reading.held_out import held_out
from kd_offline.distillation.design import StudentDesign, design_students
from kd_offline.distillation.episode_targets import (
    EpisodeTargets,
    ValidationEpisodes,
    fit,
    in_file_order,
    make_targets,
)
from kd_offline.distillation.own_episodes import own_episodes
from kd_offline.distillation.recipe import built, completed
from kd_offline.distillation.targets import TargetContext, TargetStore
from kd_offline.distillation.terms import TERMS
from kd_offline.distillation.terms.active import ActiveTerms
from kd_offline.errors import DatasetError, StorageError, UsageError
from kd_offline.files import remove_tree
from kd_offline.networks.accelerator import device_named
from kd_offline.runs.folder import RUN, RunFolder, check_free, create_run, open_run
from kd_offline.runs.provenance import provenance
from kd_offline.schemas.parts import PartRecord
from kd_offline.schemas.recipes import DistillRecipe
from kd_offline.schemas.run import DatasetReference, JudgedBy, RunManifest, StudentRecord, Timing
from kd_offline.schemas.student import StudentCard
from kd_offline.students.cost_bounds import device_of
from kd_offline.students.families import FAMILIES
from kd_offline.students.networks import StudentTeam

_LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class Run:
    """A run in progress: the data that were read once, and the results so far."""

    folder: RunFolder
    manifest: RunManifest
    design: StudentDesign
    terms: ActiveTerms
    train: EpisodeTargets
    validation: ValidationEpisodes | None
    device: torch.device
    began: float
    teams: list[StudentTeam] = field(default_factory=list)

    @property
    def recipe(self) -> DistillRecipe:
        """The recipe of the run."""
        return self.design.recipe


def prepare(
    buffer: ExpertBuffer,
    output: Path,
    recipe: DistillRecipe,
    path: str,
    command: str,
    resume: bool,
    overwrite: bool,
) -> Run:
    """Design the students and compute the targets, and only then make or reopen the run folder."""
    began = time.perf_counter()
    if recipe.budget is not None:
        device_of(recipe.budget)  # refused before anything is read
    device = _device(recipe)
    again = resume and (output / RUN).is_file()
    if not again:
        check_free(output, overwrite=overwrite)
    terms = ActiveTerms.of(recipe)
    design, train, validation = _designed(buffer, terms, path)
    if recipe.batched_seeds:
        _require_together(design, train)
    train = train.to(device)
    manifest = _manifest(buffer, design, path, command, device)
    if validation is not None:
        validation = replace(validation, episodes=validation.episodes.to(device))
        judged = JudgedBy(part=validation.part, episodes=len(validation.episodes))
        manifest = manifest.model_copy(update={"judged_by": judged})
    if again:
        folder = _same_run(output, recipe, buffer)
        before = folder.manifest()
        update = {"results": before.results, "metrics": before.metrics}
        manifest = manifest.model_copy(update=update)
    else:
        folder = create_run(output, manifest, overwrite=overwrite)
    return Run(folder, manifest, design, terms, train, validation, device, began)


def _device(recipe: DistillRecipe) -> torch.device:
    """Return what is trained on.

    Raises
    ------
    UsageError
        It is not there, or cannot compute what the recipe asks for.
    """
    device = device_named(recipe.accelerator)
    if device.type == "mps" and recipe.optimisation.first_rounded is not None:
        msg = (
            "int8 weights are rounded in double precision, which the accelerator 'mps' lacks: "
            "choose the accelerator cpu, or train without them"
        )
        raise UsageError(msg)
    return device


def _require_together(design: StudentDesign, train: EpisodeTargets) -> None:
    """Raise a ``UsageError`` where several seeds cannot be computed at once."""
    if not type(design.team(0).network(0)).is_stackable():
        name = design.recipe.student.family
        msg = (
            f"networks of the student family {name!r} of {FAMILIES.origin(name)} cannot be trained "
            "with all seeds at once: set batched_seeds to false, or choose the student "
            f"{' or '.join(FAMILIES.built_in)}"
        )
        raise UsageError(msg)
    if not isinstance(train, TargetStore):
        msg = (
            "seeds that are computed at once need the data in memory, and memory_mb is too small "
            "for that: leave it out, or set batched_seeds to false"
        )
        raise UsageError(msg)


def _require_own_episodes(recipe: DistillRecipe, count: int) -> None:
    """Raise a ``UsageError`` where each seed is to draw episodes of its own, and would draw all."""
    batch, share = min(recipe.optimisation.batch_episodes, count), recipe.diverse
    if share is not None and share < 1 and len(own_episodes(count, batch, 0, share)) == count:
        msg = (
            f"each seed would learn from all {count:,} training episodes, since it draws no fewer "
            f"than a batch holds: set optimisation.batch_episodes below {count:,}, or leave out "
            "diverse"
        )
        raise UsageError(msg)


def _designed(
    buffer: ExpertBuffer, terms: ActiveTerms, path: str
) -> tuple[StudentDesign, EpisodeTargets, ValidationEpisodes | None]:
    """Read the dataset: return the students to be, and the targets of what they learn from."""
    recipe = terms.recipe
    train, unseen = buffer.split("train"), held_out(buffer, recipe.judge_by)
    if not len(train):
        msg = f"the dataset at {path!r} has no episode to train on: record more episodes"
        raise DatasetError(msg)
    _require_own_episodes(recipe, len(train))
    loader = in_file_order(buffer, train, terms)
    statistics = fit(loader, terms)
    design = design_students(buffer, recipe, statistics.scale)
    context = TargetContext.of(buffer, terms, statistics, design.team(recipe.seeds[0]))
    learned = make_targets(loader, context)
    del loader
    if unseen is None:
        return design, learned, None
    judging = make_targets(in_file_order(buffer, unseen.episodes, terms), context)
    return design, learned, ValidationEpisodes(unseen.part, judging)


def with_layers(run: Run) -> tuple[StudentCard, RunManifest]:
    """Return card and run with the layer widths that phases have chosen for every team."""
    manifest, card = run.manifest, run.design.card
    of_seed = {r.seed: r.layers for r in manifest.results if r.layers is not None}
    if not of_seed:
        return card, manifest
    card = card.model_copy(update={"layers": tuple(of_seed[s] for s in card.seeds)})
    every = run.design.allocations(list(of_seed.values()))
    costliest = max(range(len(every)), key=lambda k: every[k].team["macs"], default=0)
    chosen = every[costliest] if every else manifest.allocation
    layers = list(of_seed.values())[costliest]
    students = tuple(
        StudentRecord(agent=agent, hidden=own.widest, parameters=count)
        for agent, own, count in zip(
            card.environment.agents, layers, run.teams[costliest].parameters_per_agent, strict=True
        )
    )
    return card, manifest.model_copy(update={"students": students, "allocation": chosen})


def _manifest(
    buffer: ExpertBuffer, design: StudentDesign, path: str, command: str, device: torch.device
) -> RunManifest:
    recipe, card = design.recipe, design.card
    parameters = design.team(recipe.seeds[0]).parameters_per_agent
    agents = zip(card.environment.agents, card.widths, parameters, strict=True)
    expert = buffer.manifest.sole_expert
    return RunManifest(
        status="running",
        method=recipe.method,
        mask=recipe.mask,
        recipe=recipe.model_dump(mode="json"),
        dataset=DatasetReference(id=buffer.id, name=buffer.manifest.name, path=path),
        environment=buffer.spec.id,
        environment_kwargs=buffer.spec.kwargs,
        expert=(expert.digest or "") if expert else "",
        expert_reference=expert.reference if expert else "",
        seeds=recipe.seeds,
        students=tuple(StudentRecord(agent=a, hidden=h, parameters=p) for a, h, p in agents),
        allocation=design.allocation,
        parts=(
            *TERMS.records(name for name, weight in recipe.weights.items() if weight),
            *FAMILIES.records([recipe.student.family]),
            *buffer.manifest.environment_parts,
        ),
        provenance=provenance(device=device.type),
        timing=Timing(started=datetime.now(UTC).isoformat(timespec="seconds"), seconds=0.0),
        command=command,
    )


def complete(output: Path, recipe: DistillRecipe, buffer: ExpertBuffer) -> RunManifest | None:
    """Return the ``run.json`` of the same run if it is already complete, else None."""
    if not (output / RUN).is_file():
        return None
    folder = _same_run(output, recipe, buffer)
    manifest = folder.manifest()
    if manifest.status != "complete":
        return None
    _LOG.warning("%s is complete already: nothing was done", output)
    remove_tree(folder.resume_state)  # a kill may have left it
    return manifest


def require_versions(parts: Sequence[PartRecord], asked_by: str) -> None:
    """Raise where a part that a run states is not here, or is of another version."""
    for registry in (TERMS, FAMILIES):
        registry.require_versions(parts, asked_by=asked_by)


def require_distilled(manifest: RunManifest, path: str | Path) -> None:
    """Raise a ``UsageError`` where the students of a run were trained on with an environment."""
    if manifest.training is not None:
        msg = (
            f"the students in {str(path)!r} were trained on with their environment (ppd), which no "
            "distillation repeats: repeat the command that run.json states"
        )
        raise UsageError(msg)


def _same_run(output: Path, recipe: DistillRecipe, buffer: ExpertBuffer) -> RunFolder:
    """Open the run to continue, unless it was begun differently."""
    folder = open_run(output)
    before = folder.manifest()
    require_distilled(before, output)
    said = f"the run in {str(output)!r}"
    require_versions(before.parts, said)
    # The number of threads changes no bits, so it may be another one than before.
    begun = built([before.recipe, {"threads": recipe.threads}], said)
    begun = completed(begun, said, before.parts)
    if (begun, before.dataset.id) != (recipe, buffer.id):
        msg = (
            f"the run in {str(output)!r} was begun with another recipe or dataset: repeat its "
            "options, as its run.json states them, or choose another folder"
        )
        raise StorageError(msg)
    return folder
