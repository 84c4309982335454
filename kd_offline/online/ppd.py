"""Proximal policy distillation: train students by PPO with a pull towards the expert.

Each seed's students are the actors of a training by reinforcement learning (Spigler, 2024, arXiv
2407.15134), whose critic stays behind. What they have become is written as an ordinary run.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kd_offline.errors import StorageError
from kd_offline.evaluation.evaluate import Plan
from kd_offline.experts import checkpoint, curve
from kd_offline.experts.card import ExpertCard
from kd_offline.experts.recipe import train_recipe
from kd_offline.experts.team import ActorCritic
from kd_offline.experts.train import train
from kd_offline.file_locks import only_writer
from kd_offline.files import make_subfolder
from kd_offline.online.task import NOTHING, Allowed, Task
from kd_offline.runs.complete import CompleteRun, complete_run
from kd_offline.runs.folder import RUN, RunFolder, check_free, create_run
from kd_offline.runs.provenance import provenance
from kd_offline.runs.start import start_settings
from kd_offline.schemas.expert import TrainRecipe
from kd_offline.schemas.run import RunManifest, SeedResult, Timing
from kd_offline.students import policy as students
from kd_offline.students.networks import StudentTeam
from kd_offline.students.policy import StudentPolicy
from kd_offline.tracking.base import Observer, Operation, observed
from kd_offline.user_code import close_all

TRAINING = "training"
"""Folder of the trainings, one for each seed: actors, critic, learning curve."""


def ppd(
    run: str | Path,
    output: str | Path,
    *,
    frames: int = 500_000,
    settings: Mapping[str, Any] | None = None,
    allowed: Allowed = NOTHING,
    threads: int = 2,
    resume: bool = False,
    overwrite: bool = False,
    command: str = "",
    observers: Sequence[Observer] = (),
) -> RunManifest:
    """Let the students of a run go on by proximal policy distillation, and write them as a run.

    The students of each seed act under their mask, and learn from reward and from the expert, which
    is asked along what they play and sees what it always sees. Critics are those of MAPPO; none of
    them is in the run that comes out, whose folder ``training`` holds them.

    Parameters
    ----------
    run : path
        A complete run.
    output : path
        Run folder to make.
    frames : int
        Joint steps that the students of each seed play.
    settings : mapping, optional
        Other settings of the trainings, by dotted path, such as ``{"kickstart.weight": 0.5}``.
    allowed : Allowed
        What the user allows to run, and the expert.
    threads : int
        Threads of each training; part of what decides the bits.
    resume
        Continue trainings that were interrupted.
    command
        Kept in ``run.json``.
    observers
        They receive the events of every training, and of the operation itself.

    Returns
    -------
    RunManifest
        What ``run.json`` says; ``training`` has the recipe of each seed's training.

    Raises
    ------
    UsageError, MismatchError, CheckpointError, StorageError
        See the message. Finished batches are kept for ``resume``.
    """
    began = complete_run(run)
    task = Task.of(began.manifest, f"the run in {str(run)!r}", allowed, Plan())
    close_all([task.environment])
    given = {
        "kickstart.teacher": task.expert.reference,
        "kickstart.form": "proximal",
        "frames": frames,
        **dict(settings or {}),
    }
    recipes = [
        train_recipe(
            start=start_settings(run, seed, environment=allowed.environment),
            settings={"seed": seed, **given},
        )
        for seed in began.manifest.seeds
    ]
    started = time.perf_counter()
    if Path(output).resolve() == began.path.resolve():
        msg = f"the run in {str(output)!r} is what the students start from: choose another folder"
        raise StorageError(msg)
    folder, before = _open(began, Path(output), recipes, resume, overwrite, command)
    if before.status == "complete":
        return before
    asked = {"run": str(run), "frames": frames, "settings": dict(settings or {})}
    with (
        only_writer(folder.path, "training"),
        observed(Operation("ppd", asked, folder.path), observers) as observer,
    ):
        make_subfolder(folder.path, TRAINING)
        teams, results = [], []
        former = {result.seed: result for result in began.manifest.results}
        for number, (recipe, student) in enumerate(zip(recipes, began.teams, strict=True), 1):
            place = folder.path / TRAINING / f"seed-{student.seed}"
            card = train(
                *(recipe, place),
                resume=True,
                threads=threads,
                observers=observers,
                score_episodes=0,
            )
            teams.append(_taken_over(student, checkpoint.load(place, str(place)).team.actors))
            batches = sum(1 for _ in curve.read(place / checkpoint.CURVE))
            results.append(_result(former[student.seed], teams[-1], card, batches))
            observer.progress(number, len(recipes), "seeds")
        students.save(folder.students, began.students.card, teams)
        spent = round(before.timing.seconds + time.perf_counter() - started, 2)
        timing = before.timing.model_copy(update={"seconds": spent})
        done = {"status": "complete", "results": tuple(results), "timing": timing}
        observer.result = manifest = before.model_copy(update=done)
        folder.write_manifest(manifest)
    return manifest


def _open(
    began: CompleteRun,
    output: Path,
    recipes: Sequence[TrainRecipe],
    resume: bool,
    overwrite: bool,
    command: str,
) -> tuple[RunFolder, RunManifest]:
    """Make the run folder, or open the one that is to be continued."""
    stated = tuple(recipe.model_dump(mode="json") for recipe in recipes)
    if resume and (output / RUN).is_file():
        folder = RunFolder(output)
        before = folder.manifest()
        if before.training != stated:
            msg = (
                f"the run in {str(output)!r} was begun with other students or settings: repeat its "
                "options, as its run.json states them, or choose another folder"
            )
            raise StorageError(msg)
        return folder, before
    check_free(output, overwrite=overwrite)
    update = {
        "status": "running",
        "training": stated,
        "results": (),
        "metrics": None,
        "judged_by": None,
        "provenance": provenance(),
        "timing": Timing(started=datetime.now(UTC).isoformat(timespec="seconds"), seconds=0.0),
        "command": command,
    }
    manifest = began.manifest.model_copy(update=update)
    return create_run(output, manifest, overwrite=overwrite), manifest


@torch.no_grad()
def _taken_over(student: StudentPolicy, trained: ActorCritic) -> StudentTeam:
    """Return a team like the student's with the weights of trained actors.

    What :func:`kd_offline.experts.start.begin` folded into first matrices stays there: aligners
    pass on what they get, and bits of a fixed mask, which are part of a bias, have no weight.
    """
    card, team = student.card, student.team
    fresh = students.build(card, None, card.widths_of(student.seed))
    fresh.load_state_dict(team.state_dict())
    for i, actor in enumerate(trained.actors):
        weights = actor.state_dict()
        first = next(iter(weights))
        if team.inputs.mask:
            width, narrow = team.spec.obs_widths[i], weights[first]
            bits = narrow.new_zeros(len(narrow), width)
            weights[first] = torch.cat([narrow[:, :width], bits, narrow[:, width:]], 1)
        fresh.network(i).load_state_dict(weights)
        aligner = fresh.aligners[i]
        if isinstance(aligner, nn.Linear):
            nn.init.eye_(aligner.weight)
            nn.init.zeros_(aligner.bias)
    return fresh


def _result(before: SeedResult, team: StudentTeam, card: ExpertCard, batches: int) -> SeedResult:
    """Return the result of a seed after some batches, whose networks are as large as before."""
    return SeedResult(
        seed=before.seed,
        digest=students.digest(team),
        layers=before.layers,
        updates=batches,
        seconds=round(card.seconds, 2),
    )
