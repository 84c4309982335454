"""Several trainings in parallel, each an ordinary one in its own folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from kd_offline.errors import Remedy, StorageError, UsageError
from kd_offline.execution import executor_on
from kd_offline.execution.base import Resources
from kd_offline.execution.processes import OPTIMISING
from kd_offline.experts import checkpoint, curve
from kd_offline.experts.card import ExpertCard
from kd_offline.experts.train import train
from kd_offline.files import make_folder
from kd_offline.schemas.expert import TrainRecipe
from kd_offline.tracking.base import Observer, Operation, observed


class _Training(NamedTuple):
    name: str
    recipe: TrainRecipe


def train_all(
    recipes: Mapping[str, TrainRecipe],
    output: str | Path,
    *,
    on: str = "serial",
    resume: bool = False,
    threads: int = 2,
    observers: Sequence[Observer] = (),
    score_episodes: int = 4000,
) -> dict[str, ExpertCard]:
    """Train several experts, such as one recipe with several seeds, and return their cards.

    Parameters
    ----------
    recipes
        By name; each expert is trained into ``OUTPUT/NAME`` as :func:`train` does it, to the same
        bits.
    output
        A folder, which may be there already.
    on
        Run trainings in parallel: ``processes:4``, ``ray`` or ``ray://HOST:PORT``, see
        :func:`kd_offline.execution.executor_on`.
    resume
        Continue what was begun, and begin the rest; finished experts are left as they are.
    threads, score_episodes
        As for :func:`train`.
    observers
        They receive the number of joint steps of all trainings when one ends, and then the lines of
        its learning curve, as a series of its name.

    Raises
    ------
    UsageError
        There is nothing to train, or a name is no name of a folder.
    StorageError
        One of the folders holds an expert already.
    UnknownNameError, MismatchError, CheckpointError
        As for :func:`train`. Finished experts, and checkpoints of the others, are kept.
    """
    trainings = [_Training(name, recipe) for name, recipe in recipes.items()]
    folder = Path(output).expanduser().absolute()
    _check(trainings, folder, resume=resume)
    needs = Resources.of(threads, _accelerator(trainings))
    settings = {name: recipe.model_dump(mode="json") for name, recipe in trainings}
    total = sum(recipe.frames for _, recipe in trainings)
    cards: dict[str, ExpertCard] = {}
    done = 0
    make_folder(folder)
    with (
        observed(Operation("train", settings, Path(output)), observers) as observer,
        executor_on(
            on,
            needs=needs,
            folders=(folder,),
            files=_files(trainings),
            logs=folder,
            modules=(OPTIMISING, __name__),
        ) as workers,
    ):
        observer.progress(done, total, "steps")
        task = partial(_train, str(folder), threads, score_episodes)
        for training, card in zip(trainings, workers.map(task, trainings), strict=True):
            cards[training.name] = card
            for progress in curve.read(folder / training.name / checkpoint.CURVE):
                names = curve.metric_names(progress)
                observer.metrics(progress.frames, names, series=training.name)
            done += training.recipe.frames
            observer.progress(done, total, "steps")
        observer.result = cards
    return cards


def _train(folder: str, threads: int, score_episodes: int, training: _Training) -> ExpertCard:
    """Train an expert in a worker, or what is missing of it.

    That there was nothing was checked, so a checkpoint is that of a worker that died.
    """
    return train(
        training.recipe,
        Path(folder) / training.name,
        resume=True,
        threads=threads,
        score_episodes=score_episodes,
    )


def _check(trainings: Sequence[_Training], folder: Path, *, resume: bool) -> None:
    """Raise what would be raised by the first or the last training, before any begins."""
    if not trainings:
        msg = "there is nothing to train: give one recipe or more"
        raise UsageError(msg)
    for name, _ in trainings:
        if Path(name).name != name or name in ("", ".", ".."):
            msg = f"{name!r} is no name of a folder: give a name without slashes"
            raise UsageError(msg)
        if (folder / name / checkpoint.CARD).is_file() and not resume:
            msg = f"{str(folder / name)!r} holds an expert already"
            go_on = Remedy("continue all trainings with", resume=True)
            raise StorageError(msg, go_on, Remedy("choose another folder"))


def _accelerator(trainings: Sequence[_Training]) -> str:
    return "cuda" if any(recipe.accelerator == "cuda" for _, recipe in trainings) else "cpu"


def _files(trainings: Sequence[_Training]) -> list[Path]:
    """Return the files and folders that recipes name, as far as they are there."""
    named: list[Any] = []
    for _, recipe in trainings:
        kickstart = getattr(recipe, "kickstart", None)
        named += [
            recipe.mask,
            recipe.opponents,
            getattr(kickstart, "teacher", None),
            None if recipe.start is None else recipe.start.run,
        ]
    return [Path(name) for name in named if isinstance(name, str) and Path(name).exists()]
