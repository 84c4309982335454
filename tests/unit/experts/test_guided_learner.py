"""DDN online: the guiding network, the local one that learns from it, and what is left."""

import numpy as np
import pytest
import torch

from kd_offline.environments import load as environment
from kd_offline.errors import UsageError
from kd_offline.evaluation.rollout import rollout
from kd_offline.experts import checkpoint
from kd_offline.experts.algorithms import ALGORITHMS
from kd_offline.experts.algorithms.base import Moment
from kd_offline.experts.load import load
from kd_offline.experts.recipe import recipe_from, train_recipe
from kd_offline.experts.train import train
from kd_offline.exports.compact import compact_expert
from kd_offline.recording.record import record
from kd_offline.rollout.collect import collect_sampled
from kd_offline.schemas.expert import TrainRecipe
from kd_offline.seeding import episode_seeds
from kd_offline.testing.algorithms import check_algorithm
from kd_offline.testing.factories import environment_spec
from kd_offline.testing.targets import TargetsEnvironment

SHORT = {"buffer_episodes": 30, "batch_episodes": 8, "target_every": 3, "epsilon_frames": 100}
SHORT["updates_per_batch"] = 4
SMALL = {"trunk": (8,), "gru": 8, "block_width": 5, "block_hidden": 4}
BOARD = "grid/predator_prey"
KWARGS = {"size": 4, "n_predators": 2, "n_prey": 2, "view": 3, "episode_limit": 10}


def recipe(**settings):
    given = {"algorithm": "ddn", "architecture": SMALL, "q_learning": SHORT, **settings}
    return recipe_from({"environment": "targets", "frames": 400, "episodes_per_batch": 8, **given})


def trained(batches=2, **settings):
    """Return the learner after some batches of play, and the figures of the last."""
    made, game = recipe(**settings), TargetsEnvironment()
    algorithm = ALGORITHMS.load(made.algorithm)
    team = algorithm.team(game.spec, made, None, np.random.Generator(np.random.Philox(0)))
    learner, figures = algorithm.learner(team, game.spec, made), {}
    for k in range(batches):
        moment = Moment(k, 40 * k, 1 - 0.1 * k)
        seeds = episode_seeds(0, 8 * k, 8, "train")
        played = collect_sampled(game, learner.policy(moment), seeds, ("embedding",))
        figures = learner.learn(played, moment)
    return learner, figures


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def test_distillation_leaves_the_guiding_network_what_its_algorithm_makes_of_it():
    plain, _ = trained(algorithm="vdn", architecture={**SMALL, "view": "personalised"})
    guiding, figures = trained(mixer="vdn")
    assert same(plain.team.weights(), guiding.team.weights())
    assert 0 <= figures["agreement"] <= 1
    assert figures["bonus"] == 0
    assert min(figures[x] for x in ("block_loss", "value_distillation", "feature_loss")) > 0


@pytest.mark.parametrize("mixer", ["qmix", "qatten", "qplex", "wqmix"])
def test_every_mixer_is_that_of_its_algorithm(mixer):
    plain, _ = trained(algorithm=mixer, architecture={**SMALL, "view": "personalised"})
    guiding, _ = trained(mixer=mixer)
    assert same(plain.team.weights(), guiding.team.weights())


def test_the_local_network_follows_the_guiding_one():
    often = {**SHORT, "updates_per_batch": 16}
    weights = dict.fromkeys(("block_weight", "value_weight", "feature_weight"), 0)
    _, alone = trained(batches=6, q_learning=often, distillation=weights)
    _, taught = trained(batches=6, q_learning=often)
    for name in ("block_loss", "value_distillation", "feature_loss"):
        assert taught[name] < 0.9 * alone[name], name
    assert taught["agreement"] > alone["agreement"]


def test_a_weight_of_zero_leaves_its_part_alone():
    without = {"block_weight": 0, "value_weight": 0, "feature_weight": 0}
    start, _ = trained(batches=0)
    learner, _ = trained(distillation=without)
    moments = {"value_norm": start.team.norm.moments}
    assert same(start.local.weights(), learner.local.weights() | moments)


def test_who_acts_is_a_setting_and_the_guiding_network_is_evaluated():
    for acts in ("guiding", "local"):
        learner, _ = trained(distillation={"acts": acts})
        own = learner.local if acts == "local" else learner.team
        assert learner.policy(Moment(2, 80, 0.8)).model is own.model
        assert learner.policy(Moment(9, 400, 0.0)).model is learner.team.model


def test_new_states_are_rewarded_where_a_coefficient_says_so():
    plain, _ = trained(mixer="vdn")
    curious, figures = trained(mixer="vdn", novelty={"coefficient": 0.01, "width": 8})
    assert figures["bonus"] != 0
    assert not same(plain.team.weights(), curious.team.weights())


@pytest.mark.parametrize("mixer", ["vdn", "wqmix"])
def test_it_keeps_the_protocol(mixer):
    settings = {"architecture": SMALL, "q_learning": SHORT, "mixer": mixer}
    check_algorithm("ddn", {**settings, "distillation": {"acts": "local", "value_loss": "mse"}})


def board():
    return environment(BOARD, **KWARGS)


def test_a_training_leaves_the_local_network_as_an_expert_of_its_own(tmp_path):
    settings = {"frames": 120, "episodes_per_batch": 4, "architecture": SMALL, "mixer": "vdn"}
    settings |= {"q_learning": SHORT, "environment_kwargs": KWARGS}
    made = train_recipe(BOARD, algorithm="ddn", settings=settings)
    card = train(made, tmp_path / "a", threads=1, score_episodes=8)
    own = checkpoint.read_card(tmp_path / "a" / "local")
    assert (own.finished, own.recipe.architecture.view) == (True, "local")
    assert own.greedy.episodes == card.greedy.episodes == 8
    assert own.frames == card.frames
    local = load(tmp_path / "a" / "local", board().spec)
    seeds = episode_seeds(0, 0, 8, "evaluation")
    played = rollout(board(), local, seeds, greedy=True)
    assert played.returns.sum(1).mean() == pytest.approx(own.greedy.returns["predators"], abs=1e-4)
    record(
        BOARD,
        tmp_path / "d",
        expert=str(tmp_path / "a" / "local"),
        episodes=3,
        environment_kwargs=KWARGS,
    )
    assert len(compact_expert(local)) == 2
    # A finished training is not done again.
    assert train(made, tmp_path / "a", resume=True, threads=1) == card


def test_a_recipe_of_the_local_network_survives_as_a_file(tmp_path):
    learner, _ = trained(batches=0)
    left = learner.students()["local"]
    again = recipe_from(left.recipe.model_dump(mode="json"))
    assert again == left.recipe
    assert again.architecture.view == "local"


def test_the_local_network_is_not_trained_alone():
    made = recipe(architecture={**SMALL, "view": "local"})
    algorithm, spec = ALGORITHMS.load("ddn"), TargetsEnvironment().spec
    team = algorithm.team(spec, made, None, None)
    with pytest.raises(UsageError, match="is written beside it: leave out the view"):
        algorithm.learner(team, spec, made)


def test_what_ddn_cannot_learn_is_said_in_one_sentence():
    algorithm = ALGORITHMS.load("ddn")
    made = recipe()
    sides = environment("mpe/simple_adversary_v3").spec
    with pytest.raises(UsageError, match="ddn needs a team with one reward"):
        algorithm.team(sides, made, None, None)
    blind = environment_spec((3, 3), (2, 2), state_width=1).model_copy(update={"state_width": 0})
    with pytest.raises(UsageError, match=r"reads the state through a block, and .* has none"):
        algorithm.team(blind, made, None, None)
    with pytest.raises(UsageError, match="mixer"):
        train_recipe(BOARD, algorithm="ddn", settings={"mixer": "qtran"})
    assert issubclass(algorithm.recipe, TrainRecipe)
