"""Conformance check for algorithms: run it on your own algorithm before training with it.

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
    """Raise ``ConformanceError`` unless an algorithm follows every rule of the protocol.

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
    game = TargetsEnvironment() if environment is None else environment
    algorithm = ALGORITHMS.load(name)
    small = {"trunk": (8,), "gru": 8}
    defaults = {"environment": game.spec.id, "algorithm": name, "episodes_per_batch": _EPISODES}
    longest = _BATCHES * _EPISODES * game.spec.episode_limit
    recipe = recipe_from({**defaults, "frames": longest, "architecture": small, **(settings or {})})
    has_one_line = algorithm.description and "\n" not in algorithm.description
    require(has_one_line, "declaration", "description has to be one line")
    typed = issubclass(algorithm.recipe, TrainRecipe)
    require(typed, "declaration", "recipe is no subclass of TrainRecipe")
    run = _Run(algorithm, recipe, game)
    first = _copies(run.team.weights())
    figures = [run.batch() for _ in range(_BATCHES)]
    _check_learning(algorithm, first, run, figures)
    _check_restored(algorithm, recipe, game, run)
    _check_weights(algorithm, recipe, game, run)


class _Run:
    """A training that plays and learns batch by batch."""

    def __init__(
        self, algorithm: Algorithm, recipe: TrainRecipe, environment: BatchedEnvironment
    ) -> None:
        rng = np.random.Generator(np.random.Philox(recipe.seed))
        self.recipe, self.environment = recipe, environment
        self.team: Team = algorithm.team(environment.spec, recipe, None, rng)
        self.learner: Learner = algorithm.learner(self.team, environment.spec, recipe)
        self.moment = Moment()

    def batch(self) -> Figures:
        moment, n = self.moment, self.recipe.episodes_per_batch
        seeds = episode_seeds(self.recipe.seed, moment.iteration * n, n, "train")
        trajectories = collect_sampled(
            self.environment, self.learner.policy(moment), seeds, ("embedding",)
        )
        figures = self.learner.learn(trajectories, moment)
        frames = moment.frames + int(trajectories.length.sum())
        self.moment = Moment(moment.iteration + 1, frames, 1 - frames / self.recipe.frames)
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
    undeclared = {name for batch in figures for name in batch} - set(algorithm.figures)
    require(not undeclared, "figures", f"{', '.join(sorted(undeclared))} is not declared")
    numbers = [value for batch in figures for value in batch.values()]
    require(np.isfinite(numbers).all(), "figures", "they are not finite")


def _check_restored(
    algorithm: Algorithm, recipe: TrainRecipe, environment: BatchedEnvironment, uninterrupted: _Run
) -> None:
    """Require that a training that is saved and restored continues with the same bits."""
    interrupted = _Run(algorithm, recipe, environment)
    for _ in range(_BATCHES // 2):
        interrupted.batch()
    moment, state = interrupted.moment, interrupted.learner.state()
    tensors, plain = _copies(state.every_tensor()), json.loads(json.dumps(state.plain))
    interrupted.batch()
    for name, values in state.every_tensor().items():
        detail = f"{name!r} changed after it was taken: give copies"
        require(torch.equal(values, tensors[name]), "state", detail)
    resumed = _Run(algorithm, recipe, environment)
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
    pairs = [(uninterrupted.team.weights(), resumed.team.weights())]
    pairs += [tuple(x.learner.state().every_tensor() for x in (uninterrupted, resumed))]  # type: ignore[list-item]
    for one, other in pairs:
        require(one.keys() == other.keys(), "restored state", "other tensors than before")
        for name, values in one.items():
            detail = f"{name!r} differs: the state lacks something that learning depends on"
            require(torch.equal(values, other[name]), "restored state", detail)
    equal_plain = uninterrupted.learner.state().plain == resumed.learner.state().plain
    require(equal_plain, "restored state", "what is plain differs")


def _check_weights(
    algorithm: Algorithm, recipe: TrainRecipe, environment: BatchedEnvironment, run: _Run
) -> None:
    """Require that saved weights determine the expert, and that its record and cost match them."""
    loaded = algorithm.team(environment.spec, recipe, None, None)
    loaded.load(_copies(run.team.weights()))
    one, other = (_recording(team, environment) for team in (run.team, loaded))
    require(one.steps.keys() == other.steps.keys(), "weights", "loaded, it gives other outputs")
    for name, values in one.steps.items():
        detail = f"loaded, steps/{name} is another one"
        require(np.array_equal(values, other.steps[name]), "weights", detail)
    recorded = algorithm.recorded(recipe)
    output = recorded.capture.output
    stored = {"logits", "q_values"} & one.steps.keys()
    require(stored == {output}, "recording", f"it gives {stored}, its capture says {output}")
    has_values = "value" in one.steps
    detail = "value_of and the values that the policy gives do not agree"
    require(has_values == bool(recorded.value_of), "recording", detail)
    counts = loaded.parameter_counts()
    actors = sum(p.numel() for p in loaded.actors.actors.parameters())
    detail = f"actor {counts.get('actor')} where the actors have {actors} parameters"
    require(counts.get("actor") == actors, "cost", detail)
    other_parameters = sum(counts.values()) - actors
    parts = sum(part.cost.parameters for part in loaded.value_parts())
    detail = f"value_parts have {parts} parameters, parameter_counts says {other_parameters}"
    require(parts == other_parameters, "cost", detail)


def _recording(team: Team, environment: BatchedEnvironment) -> Trajectories:
    seeds = episode_seeds(1, 0, _EPISODES)
    return collect(environment, team.policy(), seeds, sampled(seeds))
