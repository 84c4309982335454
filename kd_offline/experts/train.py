"""Training an expert by MAPPO or IPPO (Yu et al., 2022), resumable at any moment."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kd_offline import environments
from kd_offline.environments.protocol import BatchedEnvironment
from kd_offline.errors import StorageError, UnknownNameError, UsageError
from kd_offline.experts import checkpoint, ppo
from kd_offline.experts.expert import NetworkPolicy
from kd_offline.experts.load import AnyExpert, load
from kd_offline.experts.score import greedy_score
from kd_offline.experts.team import ActorCritic
from kd_offline.files import make_folder, write_file
from kd_offline.policies import MixedTeam
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.expert import ExpertCard, TrainProgress, TrainRecipe
from kd_offline.seeding import episode_seeds, generator
from kd_offline.students.masks import resolve
from kd_offline.trajectories import Trajectories, collect, sampled
from kd_offline.types import BoolArray, PolicyOutput, SeedArray, TeamPolicy, View

Report = Callable[[TrainProgress], None]
SAVE_EVERY_S = 30.0


@dataclass(slots=True)
class _Run:
    """What one training run carries from batch to batch."""

    card: ExpertCard
    model: ActorCritic
    norm: ppo.ValueNorm
    optimiser: torch.optim.Optimizer
    iteration: int = 0


def train(
    recipe: TrainRecipe,
    output: Path,
    *,
    resume: bool = False,
    threads: int = 2,
    report: Report | None = None,
    score_episodes: int = 4000,
) -> ExpertCard:
    """Train an expert, save it in ``output`` and score its greedy play.

    Parameters
    ----------
    recipe
        All that decides the result; with one thread count a rerun gives the same weights.
    output
        A new folder, or with ``resume`` one that a stopped training left behind.
    report
        Called with each line of the learning curve.
    score_episodes
        Episodes of greedy play at the end, on seeds that training does not use; 0 for none.

    Raises
    ------
    StorageError
        The folder holds an expert already.
    UnknownNameError, UsageError, MismatchError, CheckpointError
        The recipe names something that does not exist or does not fit.
    """
    torch.set_num_threads(threads)
    environment = environments.load(recipe.environment, **recipe.environment_kwargs)
    run = _start(recipe, environment.spec, output, resume=resume, threads=threads)
    opponents = _opponents(recipe, environment.spec)
    batches = -(-recipe.frames // (recipe.episodes_per_batch * environment.spec.episode_limit))
    began = time.perf_counter() - run.card.seconds
    saved = time.perf_counter()
    before = _state(run)
    try:
        while run.iteration < batches:
            before = _state(run)
            progress = _iterate(run, environment, opponents, batches, began)
            _append(output / checkpoint.CURVE, progress)
            if report is not None:
                report(progress)
            if time.perf_counter() - saved > SAVE_EVERY_S:
                _save(run, output, began)
                saved = time.perf_counter()
        before = _state(run)
        score = None
        if score_episodes:
            against = "itself" if opponents is None else opponents.digest
            score = greedy_score(environment, _policy(run, opponents), score_episodes, against)
    except KeyboardInterrupt:
        # It may have come in the middle of an update; only whole iterations can be continued.
        _rewind(run, before)
        _save(run, output, began)
        raise
    run.card = run.card.model_copy(update={"finished": True, "greedy": score})
    _save(run, output, began)
    return run.card


def _start(
    recipe: TrainRecipe, spec: EnvironmentSpec, output: Path, *, resume: bool, threads: int
) -> _Run:
    """Begin a run, or continue the one in ``output``."""
    there = (output / checkpoint.CARD).is_file()
    if there and not resume:
        msg = f"{str(output)!r} holds an expert already: add --resume, or choose another folder"
        raise StorageError(msg)
    unknown = set(recipe.learn or ()) - set(spec.sides)
    if unknown:
        raise UnknownNameError(what="side", got=min(unknown), allowed=spec.sides)
    if there:
        card = checkpoint.read_card(output)
        if card.recipe != recipe:
            msg = (
                f"the expert in {str(output)!r} was begun with another recipe: repeat its options, "
                "as its expert.json states them, or choose another folder"
            )
            raise StorageError(msg)
    else:
        mask = _mask(recipe, spec)
        card = ExpertCard(
            environment=spec,
            recipe=recipe,
            agents=spec.agents,
            parameters={},
            mask=None if mask is None else tuple(tuple(map(bool, row)) for row in mask),
            frames=0,
            seconds=0.0,
            threads=threads,
            finished=False,
            software={"torch": torch.__version__, "numpy": np.__version__},
        )
    model, norm = checkpoint.build(card)
    card = card.model_copy(update={"parameters": model.parameter_counts()})
    optimiser = torch.optim.Adam(model.parameters(), recipe.learning_rate, eps=1e-5)
    run = _Run(card, model, norm, optimiser)
    if there:
        _restore(run, output)
    make_folder(output)
    _truncate(output / checkpoint.CURVE, run.iteration)
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
        expert = checkpoint.load(output, str(output))
        run.model.load_state_dict(expert.model.state_dict())
        run.norm.moments = expert.norm.moments
        run.iteration = run.card.frames // _frames(run, 1)
    else:
        _rewind(run, checkpoint.read_tensors(output / checkpoint.TRAINING))


def _state(run: _Run) -> dict[str, torch.Tensor]:
    return checkpoint.training_state(run.model, run.norm, run.optimiser, run.iteration)


def _rewind(run: _Run, state: dict[str, torch.Tensor]) -> None:
    run.iteration = checkpoint.restore_training(run.model, run.norm, run.optimiser, state)
    run.card = run.card.model_copy(update={"frames": _frames(run, run.iteration)})


def _frames(run: _Run, iterations: int) -> int:
    """Return how many joint steps ``iterations`` take."""
    per_batch = run.card.recipe.episodes_per_batch * run.card.environment.episode_limit
    return iterations * per_batch


def _iterate(
    run: _Run,
    environment: BatchedEnvironment,
    opponents: AnyExpert | None,
    batches: int,
    began: float,
) -> TrainProgress:
    """Play one batch of episodes and learn from it."""
    recipe, spec = run.card.recipe, environment.spec
    n = recipe.episodes_per_batch
    seeds = episode_seeds(recipe.seed, run.iteration * n, n, "train")
    policy = _policy(run, opponents)
    played = collect(environment, policy, seeds, sampled(seeds))
    learning = torch.tensor([float(_learns(recipe, side)) for side in _sides(spec)])
    batch, explained = ppo.make_batch(played, recipe, run.norm, run.model.side_of, learning)
    for group in run.optimiser.param_groups:
        group["lr"] = recipe.learning_rate * (1 - run.iteration / batches)
    rng = generator(recipe.seed, "minibatches", run.iteration)
    statistics = ppo.update(run.model, run.optimiser, batch, recipe, rng)
    run.iteration += 1
    seconds = time.perf_counter() - began
    frames = run.iteration * n * spec.episode_limit
    run.card = run.card.model_copy(update={"frames": frames, "seconds": seconds})
    return TrainProgress(
        iteration=run.iteration,
        frames=frames,
        seconds=round(seconds, 2),
        returns=_returns(played, spec),
        entropy=statistics.entropy,
        approximate_kl=statistics.approximate_kl,
        clip_fraction=statistics.clip_fraction,
        value_loss=statistics.value_loss,
        explained_variance=explained,
    )


def _policy(run: _Run, opponents: AnyExpert | None) -> TeamPolicy:
    own = NetworkPolicy(run.model, run.norm)
    if opponents is None:
        return own
    recipe = run.card.recipe
    owner = tuple(int(not _learns(recipe, side)) for side in _sides(run.card.environment))
    return _WithValue(MixedTeam((own, opponents), owner), own)


class _WithValue:
    """A mixed team that keeps the learner's values, which a mixture leaves out."""

    def __init__(self, team: MixedTeam, learner: NetworkPolicy) -> None:
        self._team, self._learner = team, learner

    def start(self, seeds: SeedArray) -> tuple[object, ...]:
        return self._team.start(seeds)

    def act(
        self, view: View, memory: tuple[object, ...]
    ) -> tuple[PolicyOutput, tuple[object, ...]]:
        mixed, after = self._team.act(view, memory)
        value = self._learner.act(view, memory[0])[0].value  # type: ignore[arg-type]
        return PolicyOutput(mixed.logits, None, value), after


def _opponents(recipe: TrainRecipe, spec: EnvironmentSpec) -> AnyExpert | None:
    if recipe.learn is None or set(recipe.learn) == set(spec.sides):
        return None
    return load(recipe.opponents or "bundled", spec)


def _learns(recipe: TrainRecipe, side: str) -> bool:
    return recipe.learn is None or side in recipe.learn


def _sides(spec: EnvironmentSpec) -> list[str]:
    """Return the name of each agent's side."""
    names = list(spec.sides)
    return [names[k] for k in spec.side_of]


def _returns(played: Trajectories, spec: EnvironmentSpec) -> dict[str, float]:
    total = (played.steps["reward"] * played.valid[..., None]).sum(0).mean(0)
    return {
        side: float(sum(total[spec.agents.index(agent)] for agent in agents))
        for side, agents in spec.sides.items()
    }


def _save(run: _Run, output: Path, began: float) -> None:
    seconds = time.perf_counter() - began
    run.card = run.card.model_copy(update={"seconds": round(seconds, 1)})
    checkpoint.save(output, run.card, run.model, run.norm, _state(run))


def _append(path: Path, progress: TrainProgress) -> None:
    with path.open("a", encoding="utf-8") as lines:
        lines.write(progress.model_dump_json() + "\n")


def _truncate(path: Path, iterations: int) -> None:
    """Drop the lines that were written after the checkpoint that training continues from."""
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [x for x in lines if x.endswith("\n") and json.loads(x)["iteration"] <= iterations]
        write_file(path, "".join(kept))
