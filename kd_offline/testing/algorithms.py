"""Conformance check for algorithms: run it on your own before you train with it.

::

    from kd_offline.testing.algorithms import check_algorithm

    check_algorithm("mine")
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd_offline.environments.protocol import BatchedEnvironment
from kd_offline.experts.algorithms import ALGORITHMS
from kd_offline.experts.algorithms.base import Algorithm, Figures, Learner, Moment, Team
from kd_offline.experts.recipe import recipe_from
from kd_offline.rollout.collect import Trajectories, collect, collect_sampled
from kd_offline.rollout.play import sampled
from kd_offline.schemas.expert import TrainRecipe
from kd_offline.seeding import episode_seeds
from kd_offline.testing.conformance import require
from kd_offline.testing.targets import TargetsEnvironment

_BATCHES, _EPISODES = 4, 12


def check_algorithm(
    name: str,
    settings: Mapping[str, Any] | None = None,
    *,
    environment: BatchedEnvironment | None = None,
) -> None:
    """Raise ``ConformanceError`` unless an algorithm keeps every promise of the protocol.

    Parameters
    ----------
    name
        That the algorithm is registered by.
    settings
        Of its recipe, where they are not the defaults; a replay or a warm-up has to be short enough
        that something is learned from four batches of twelve episodes.
    environment
        Where it learns; None: a game of two agents with one reward.

    Notes
    -----
    The rules, by the name an error begins with: ``declaration``, ``learning``, ``figures``,
    ``state``, ``restored state``, ``weights``, ``recording``, ``cost``.
    """
    world = TargetsEnvironment() if environment is None else environment
    algorithm = ALGORITHMS.load(name)
    small = {"trunk": (8,), "gru": 8}
    given = {"environment": world.spec.id, "algorithm": name, "episodes_per_batch": _EPISODES}
    longest = _BATCHES * _EPISODES * world.spec.episode_limit
    recipe = recipe_from({**given, "frames": longest, "architecture": small, **(settings or {})})
    one_line = algorithm.description and "\n" not in algorithm.description
    require(one_line, "declaration", "description has to be one line")
    typed = issubclass(algorithm.recipe, TrainRecipe)
    require(typed, "declaration", "recipe is no subclass of TrainRecipe")
    run = _Run(algorithm, recipe, world)
    first = _copies(run.team.weights())
    figures = [run.batch() for _ in range(_BATCHES)]
    _check_learning(algorithm, first, run, figures)
    _check_restored(algorithm, recipe, world, run)
    _check_weights(algorithm, recipe, world, run)


class _Run:
    """A training that plays and learns batch by batch."""

    def __init__(
        self, algorithm: Algorithm, recipe: TrainRecipe, world: BatchedEnvironment
    ) -> None:
        rng = np.random.Generator(np.random.Philox(recipe.seed))
        self.recipe, self.world = recipe, world
        self.team: Team = algorithm.team(world.spec, recipe, None, rng)
        self.learner: Learner = algorithm.learner(self.team, world.spec, recipe)
        self.moment = Moment()

    def batch(self) -> Figures:
        now, n = self.moment, self.recipe.episodes_per_batch
        seeds = episode_seeds(self.recipe.seed, now.iteration * n, n, "train")
        played = collect_sampled(self.world, self.learner.policy(now), seeds, ("embedding",))
        figures = self.learner.learn(played, now)
        frames = now.frames + int(played.length.sum())
        self.moment = Moment(now.iteration + 1, frames, 1 - frames / self.recipe.frames)
        return figures


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: values.detach().clone() for name, values in tensors.items()}


def _check_learning(
    algorithm: Algorithm, first: dict[str, Tensor], run: _Run, figures: list[Figures]
) -> None:
    last = run.team.weights()
    require(first.keys() == last.keys(), "learning", "other weights than before")
    changed = [name for name in first if not torch.equal(first[name], last[name])]
    require(changed, "learning", "no weight changes in four batches")
    odd = {name for batch in figures for name in batch} - set(algorithm.figures)
    require(not odd, "figures", f"{', '.join(sorted(odd))} is not declared")
    numbers = [value for batch in figures for value in batch.values()]
    require(np.isfinite(numbers).all(), "figures", "they are not finite")


def _check_restored(
    algorithm: Algorithm, recipe: TrainRecipe, world: BatchedEnvironment, whole: _Run
) -> None:
    """Require that a training which is saved and restored goes on to the same bits."""
    begun = _Run(algorithm, recipe, world)
    for _ in range(_BATCHES // 2):
        begun.batch()
    moment, state = begun.moment, begun.learner.state()
    tensors, plain = _copies(state.every_tensor()), json.loads(json.dumps(state.plain))
    begun.batch()
    for name, values in state.every_tensor().items():
        detail = f"{name!r} changed after it was taken: give copies"
        require(torch.equal(values, tensors[name]), "state", detail)
    resumed = _Run(algorithm, recipe, world)
    resumed.moment = moment
    try:
        resumed.learner.restore({}, {})
    except (KeyError, ValueError, RuntimeError):
        refused = True
    else:
        refused = False
    require(refused, "restored state", "the state of another training is taken over in silence")
    resumed.learner.restore(tensors, plain)
    while resumed.moment.iteration < _BATCHES:
        resumed.batch()
    pairs = [(whole.team.weights(), resumed.team.weights())]
    pairs += [tuple(x.learner.state().every_tensor() for x in (whole, resumed))]  # type: ignore[list-item]
    for one, other in pairs:
        require(one.keys() == other.keys(), "restored state", "other tensors than before")
        for name, values in one.items():
            detail = f"{name!r} differs: the state lacks something that learning depends on"
            require(torch.equal(values, other[name]), "restored state", detail)
    same = whole.learner.state().plain == resumed.learner.state().plain
    require(same, "restored state", "what is plain differs")


def _check_weights(
    algorithm: Algorithm, recipe: TrainRecipe, world: BatchedEnvironment, run: _Run
) -> None:
    """Require that saved weights are the whole expert, and say what they record and cost."""
    loaded = algorithm.team(world.spec, recipe, None, None)
    loaded.load(_copies(run.team.weights()))
    one, other = (_recording(team, world) for team in (run.team, loaded))
    require(one.steps.keys() == other.steps.keys(), "weights", "loaded, it gives other outputs")
    for name, values in one.steps.items():
        detail = f"loaded, steps/{name} is another one"
        require(np.array_equal(values, other.steps[name]), "weights", detail)
    recorded = algorithm.recorded(recipe)
    output = recorded.capture.output
    stored = {"logits", "q_values"} & one.steps.keys()
    require(stored == {output}, "recording", f"it gives {stored}, its capture says {output}")
    valued = "value" in one.steps
    detail = "value_of and the values that the policy gives do not agree"
    require(valued == bool(recorded.value_of), "recording", detail)
    counts = loaded.parameter_counts()
    actors = sum(p.numel() for p in loaded.actors.actors.parameters())
    detail = f"actor {counts.get('actor')} where the actors have {actors} parameters"
    require(counts.get("actor") == actors, "cost", detail)
    rest = sum(counts.values()) - actors
    parts = sum(part.cost.parameters for part in loaded.value_parts())
    detail = f"value_parts have {parts} parameters, parameter_counts says {rest}"
    require(parts == rest, "cost", detail)


def _recording(team: Team, world: BatchedEnvironment) -> Trajectories:
    seeds = episode_seeds(1, 0, _EPISODES)
    return collect(world, team.policy(), seeds, sampled(seeds))
