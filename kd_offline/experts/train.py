"""Train an expert by any algorithm; a training can be resumed after every iteration."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd_offline import environments
from kd_offline.environments import stepping
from kd_offline.environments.protocol import BatchedEnvironment
from kd_offline.errors import (
    CheckpointError,
    KdOfflineError,
    Remedy,
    StorageError,
    UnknownNameError,
    UsageError,
    UserCodeError,
)
from kd_offline.experts import checkpoint, curve, start
from kd_offline.experts.algorithms import ALGORITHMS, guarded
from kd_offline.experts.algorithms.base import Figures, Learner, Moment, State, Teaching
from kd_offline.experts.card import ExpertCard
from kd_offline.experts.recipe import recipe_from
from kd_offline.experts.score import greedy_score, share_won, side_returns
from kd_offline.file_locks import only_writer
from kd_offline.files import make_folder
from kd_offline.networks.accelerator import device_named, moved
from kd_offline.networks.threads import computing_with
from kd_offline.rollout.collect import Trajectories, collect_sampled
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.expert import TrainProgress, TrainRecipe
from kd_offline.seeding import episode_seeds
from kd_offline.students.masks import resolve
from kd_offline.tracking.base import Observer, Operation, observed
from kd_offline.tracking.jsonl import JsonLines
from kd_offline.types import BoolArray
from kd_offline.user_code import close_all

_LOG = logging.getLogger(__name__)

SAVE_EVERY_S = 30.0
# Saving takes at most about a twentieth of the time, as a replay can be large.
_SAVE_SHARE = 20


@dataclass(slots=True)
class _Run:
    """The state of a training between two batches."""

    card: ExpertCard
    learner: Learner
    iteration: int = 0

    @property
    def moment(self) -> Moment:
        """Progress of the training before the next batch."""
        return Moment(self.iteration, self.card.frames, _remaining(self.card))


def train(
    recipe: TrainRecipe,
    output: str | Path,
    *,
    resume: bool = False,
    threads: int = 2,
    observers: Sequence[Observer] = (),
    score_episodes: int = 4000,
) -> ExpertCard:
    """Train an expert, save it in ``output`` and evaluate its greedy play.

    Parameters
    ----------
    recipe
        All that decides the result; with one thread count a rerun gives the same weights.
    output
        A new folder, or with ``resume`` one that a stopped training left behind. An expert that
        was finished by the same recipe is returned as it is.
    observers
        They receive the number of joint steps, and the values of each line of the learning curve.
    score_episodes
        Episodes of greedy play at the end, on seeds that training does not use; 0 for none.

    Raises
    ------
    StorageError
        The folder holds an expert already, or another process is training there.
    UnknownNameError, UsageError, MismatchError, CheckpointError
        The recipe names something that does not exist or does not fit, such as an accelerator.
    """
    recipe = recipe_from(recipe)
    with computing_with(threads), ExitStack() as stack:
        device = device_named(recipe.accelerator)
        environment = environments.load(recipe.environment, **recipe.environment_kwargs)
        stack.callback(close_all, [environment])
        output = Path(output)
        exists = output.is_dir()
        if exists:  # before anything is read there that another process may be about to replace
            stack.enter_context(only_writer(output, "training"))
        spec = environment.spec
        if recipe.architecture.view == "full":
            spec = stepping.full_spec(environment)
        run = _start(recipe, spec, output, device, resume=resume, threads=threads)
        if run.card.finished:
            _LOG.warning("%s is complete already: nothing was done", output)
            return run.card
        if not exists:
            make_folder(output)
            stack.enter_context(only_writer(output, "training"))
        curve.truncate(output / checkpoint.CURVE, run.iteration, run.card.curve)
        settings = recipe.model_dump(mode="json")
        lines = JsonLines(output / checkpoint.CURVE, curve.line)
        with observed(Operation("train", settings, output), observers, [lines]) as observer:
            observer.result = card = _finish_training(
                run, environment, output, observer, score_episodes
            )
        return card


def _finish_training(
    run: _Run,
    environment: BatchedEnvironment,
    output: Path,
    observer: Observer,
    score_episodes: int,
) -> ExpertCard:
    """Run the remaining training, evaluate the expert and save it."""
    began = time.perf_counter() - run.card.seconds
    save_at = time.perf_counter() + SAVE_EVERY_S
    snapshot = _state(run)
    try:
        while run.card.frames < run.card.recipe.frames:
            snapshot = _state(run)
            progress = _iterate(run, environment, began)
            observer.metrics(progress.frames, curve.metric_names(progress))
            observer.progress(progress.frames, run.card.recipe.frames, "steps")
            if (now := time.perf_counter()) > save_at:
                _save(run, output, began)
                saving_seconds = time.perf_counter() - now
                save_at = now + saving_seconds + max(SAVE_EVERY_S, _SAVE_SHARE * saving_seconds)
        snapshot, score = _state(run), None
        if score_episodes:
            policy = run.learner.policy(run.moment)
            score = greedy_score(environment, policy, score_episodes, run.learner.against)
        _save_students(run, environment, output, score_episodes)
    except (KeyboardInterrupt, UserCodeError) as error:
        # The error may interrupt an update; only complete iterations can be resumed.
        _rewind(run, snapshot)
        if run.iteration or isinstance(error, KeyboardInterrupt):
            _save(run, output, began)
        raise
    run.card = run.card.model_copy(update={"finished": True, "greedy": score})
    _save(run, output, began)
    return checkpoint.read_card(output)  # with the digests that only the file states


def _start(
    recipe: TrainRecipe,
    spec: EnvironmentSpec,
    output: Path,
    device: torch.device,
    *,
    resume: bool,
    threads: int,
) -> _Run:
    """Start a training, or load the one in ``output``."""
    exists = (output / checkpoint.CARD).is_file()
    if exists and not resume:
        msg = f"{str(output)!r} holds an expert already"
        go_on = Remedy("continue its training with", resume=True)
        raise StorageError(msg, go_on, Remedy("choose another folder"))
    unknown = set(recipe.learn or ()) - set(spec.sides)
    if unknown:
        raise UnknownNameError(what="side", got=min(unknown), allowed=spec.sides)
    if exists:
        card = checkpoint.read_card(output)
        for registry in (ALGORITHMS, environments.ENVIRONMENTS):
            registry.require_versions(card.parts, asked_by=f"the training in {str(output)!r}")
        if card.recipe != recipe:
            msg = (
                f"the expert in {str(output)!r} was begun with another recipe: repeat its options, "
                "as its expert.json states them, or choose another folder"
            )
            raise StorageError(msg)
    else:
        students = None if recipe.start is None else start.load(recipe, spec)
        mask = _mask(recipe, spec) if students is None else students.mask.static
        card = ExpertCard(
            environment=spec,
            recipe=recipe,
            agents=spec.agents,
            parameters={},
            parts=(
                *ALGORITHMS.records([recipe.algorithm]),
                *environments.ENVIRONMENTS.records([recipe.environment]),
            ),
            mask=None if mask is None else tuple(tuple(map(bool, row)) for row in mask),
            frames=0,
            seconds=0.0,
            threads=threads,
            finished=False,
            software={"torch": torch.__version__, "numpy": np.__version__},
            device=device.type,
        )
    team = checkpoint.build(card)
    if not exists and students is not None:
        start.begin(team.actors, students)
    if not moved(team, device):
        msg = f"experts of {recipe.algorithm} are trained on the processor alone"
        raise UsageError(msg, Remedy("leave out or give", settings={"accelerator": "cpu"}))
    card = card.model_copy(update={"parameters": team.parameter_counts()})
    with guarded(recipe.algorithm, "learner"):
        run = _Run(card, ALGORITHMS.load(recipe.algorithm).learner(team, spec, recipe))
    if exists:
        _restore(run, output)
    return run


def _mask(recipe: TrainRecipe, spec: EnvironmentSpec) -> BoolArray | None:
    if recipe.mask is None:
        return None
    mask = resolve(recipe.mask, spec)
    if mask.static is None:
        msg = f"mask {recipe.mask!r} is drawn anew in every episode: train under a fixed one"
        raise UsageError(msg)
    return mask.static


def _restore(run: _Run, output: Path) -> None:
    if run.card.finished:
        checkpoint.load(output, str(output))  # refuses damaged weights
        return
    _resume_from(run, *checkpoint.read_training(output, run.card))


_State = tuple[_Run, State]


def _state(run: _Run) -> _State:
    """Return a snapshot of everything that an iteration changes."""
    return copy(run), run.learner.state()


def _rewind(run: _Run, state: _State) -> None:
    former_run, learner_state = state
    run.card, run.iteration = former_run.card, former_run.iteration
    run.learner.restore(learner_state.every_tensor(), learner_state.plain)


def _resume_from(run: _Run, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    """Restore a training from the content of a checkpoint."""
    try:
        run.iteration = int(tensors.pop("iteration"))
        # Trainings begun by earlier versions counted every episode at its longest.
        longest = torch.tensor(run.iteration * _longest_batch(run.card))
        frames = int(tensors.pop("frames", longest))
        run.learner.restore(tensors, plain)
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        if isinstance(error, KdOfflineError):
            raise
        msg = (
            f"{checkpoint.TRAINING} does not belong to this expert: begin the training in another "
            "folder"
        )
        raise CheckpointError(msg) from error
    run.card = run.card.model_copy(update={"frames": frames})


def _longest_batch(card: ExpertCard) -> int:
    """Return the largest number of joint steps of a batch."""
    return card.recipe.episodes_per_batch * card.environment.episode_limit


def _remaining(card: ExpertCard) -> float:
    """Return the remaining share of the training.

    It is measured in batches of full length, so that batches of equal length take equal shares.
    """
    longest = _longest_batch(card)
    return 1 - card.frames / (-(-card.recipe.frames // longest) * longest)


def _iterate(run: _Run, environment: BatchedEnvironment, began: float) -> TrainProgress:
    """Play one batch of episodes and learn from it."""
    recipe, spec, learner = run.card.recipe, environment.spec, run.learner
    n, moment = recipe.episodes_per_batch, run.moment
    seeds = episode_seeds(recipe.seed, run.iteration * n, n, "train")
    with guarded(recipe.algorithm, "policy"):
        policy = learner.policy(moment)
    trajectories = collect_sampled(environment, policy, seeds, ("embedding",))
    with guarded(recipe.algorithm, "learn", iteration=run.iteration + 1):
        figures = learner.learn(trajectories, moment)
    _require_finite(figures, run.iteration, trajectories)
    run.iteration += 1
    seconds = time.perf_counter() - began
    frames = moment.frames + int(trajectories.length.sum())
    run.card = run.card.model_copy(update={"frames": frames, "seconds": seconds})
    return TrainProgress(
        iteration=run.iteration,
        frames=frames,
        seconds=round(seconds, 2),
        returns={
            side: float(side_return.mean())
            for side, side_return in side_returns(trajectories, spec).items()
        },
        won=share_won(trajectories.won),
        figures=figures,
    )


def _require_finite(figures: Figures, iteration: int, trajectories: Trajectories) -> None:
    """Raise, before anything is saved, if a metric of the learner is not finite."""
    not_finite = {k: v for k, v in figures.items() if isinstance(v, float) and not math.isfinite(v)}
    if not_finite:
        name, value = next(iter(not_finite.items()))
        largest = {x: float(np.abs(trajectories.steps[x]).max()) for x in ("obs", "reward")}
        msg = (
            f"training has no numbers any more in iteration {iteration} ({name} is {value}), with "
            f"observations of up to {largest['obs']:.3g} and rewards of up to "
            f"{largest['reward']:.3g}: scale them in the environment, or set a smaller "
            "learning_rate"
        )
        raise UsageError(msg)


def _save_students(
    run: _Run, environment: BatchedEnvironment, output: Path, score_episodes: int
) -> None:
    """Evaluate and save the further experts that the learner leaves, each in a folder of its own.

    It is done before the training is marked as finished, so that a resumed one repeats it.
    """
    if not isinstance(run.learner, Teaching):
        return
    for name, left in run.learner.students().items():
        score = None
        if score_episodes:
            score = greedy_score(environment, left.policy, score_episodes, "itself")
        changes = {
            "recipe": left.recipe,
            "parameters": left.team.parameter_counts(),
            "finished": True,
            "greedy": score,
        }
        checkpoint.save(output / name, run.card.model_copy(update=changes), left.team, {}, {})


def _save(run: _Run, output: Path, began: float) -> None:
    seconds = time.perf_counter() - began
    run.card = run.card.model_copy(update={"seconds": round(seconds, 1)})
    state = run.learner.state()
    tensors = {} if run.card.finished else state.every_tensor()
    for name, count in (("iteration", run.iteration), ("frames", run.card.frames)):
        tensors[name] = torch.tensor(count)
    checkpoint.save(output, run.card, run.learner.team, tensors, state.plain)
