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
from kd_offline.experts.algorithms.ddn import LocalDistillation, Novelty
from kd_offline.experts.guided_learner import Moments, NetworkOutputs, RandomDistillation, losses
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


LEGAL = torch.tensor([[True, True, False]])


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


def drawn(*size, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(size)).float()


def novelty(**settings):
    given = {"coefficient": 0.01, "width": 8} | settings
    return RandomDistillation(5, Novelty(**given), np.random.default_rng(0))


def test_moments_in_parts_are_those_of_everything():
    rows = 3 * drawn(50, 4) + 7
    moments = Moments(4)
    for part in rows.split([1, 20, 0, 29]):
        moments.add(part)
    np.testing.assert_allclose(moments.mean, rows.double().mean(0), rtol=1e-9)
    wanted = (rows - rows.mean(0)) / rows.std(0, unbiased=False)
    torch.testing.assert_close(moments.standardised(rows), wanted, atol=1e-4, rtol=1e-4)


def test_a_number_that_never_changes_is_standardised_to_zero():
    moments = Moments(1)
    moments.add(torch.full((10, 1), 3.0))
    assert moments.standardised(torch.tensor([[3.0]])).item() == 0


def test_the_error_is_that_of_both_networks_and_falls_with_learning():
    model, states = novelty(), drawn(64, 5)
    model.states.add(states)
    x = model.states.standardised(states).clamp(-5, 5)
    by_hand = (model.learned(x) - model.fixed(x)).square().mean(-1)
    torch.testing.assert_close(model.error(states), by_hand)
    first, optimiser = (
        model.error(states).mean().item(),
        torch.optim.Adam(model.learned.parameters(), 1e-2),
    )
    fixed = [p.clone() for p in model.fixed.parameters()]
    for _ in range(50):
        optimiser.zero_grad()
        model.error(states).mean().backward()
        optimiser.step()
    assert model.error(states).mean().item() < 0.2 * first
    assert all(map(torch.equal, fixed, model.fixed.parameters()))
    far = model.error(states + 3).mean().item()
    assert far > 2 * model.error(states).mean().item()


def test_the_scale_of_states_does_not_matter_where_they_are_standardised():
    for standardise, same in ((True, True), (False, False)):
        errors = []
        for scale in (1.0, 30.0):
            model = novelty(standardise_state=standardise)
            model.states.add(scale * drawn(64, 5))
            errors.append(model.error(scale * drawn(64, 5)))
        assert torch.allclose(errors[0], errors[1], rtol=1e-3) is same


def test_the_bonus_is_standardised_scaled_and_fades():
    model = novelty(keep=1.0, frames=100)
    error = torch.tensor([1.0, 2.0, 3.0])
    model.errors.add(error.unsqueeze(-1))
    deviation = float(np.std([1, 2, 3]))
    wanted = 0.01 * np.array([-1, 0, 1]) / deviation
    rng = np.random.default_rng(0)
    np.testing.assert_allclose(model.bonus(error, 0, rng), wanted, atol=1e-6)
    np.testing.assert_allclose(model.bonus(error, 50, rng), wanted / 2, atol=1e-6)
    assert not model.bonus(error, 100, rng).any()
    assert not model.bonus(error, 1000, rng).any()
    raw = novelty(keep=1.0, standardise_bonus=False, frames=100)
    np.testing.assert_allclose(raw.bonus(error, 0, rng), 0.01 * error)


def test_a_bernoulli_mask_keeps_the_stated_share():
    model = novelty(keep=0.25, standardise_bonus=False)
    bonus = model.bonus(torch.ones(4000), 0, np.random.default_rng(1))
    assert len(set(bonus.tolist())) == 2
    assert bonus.max().item() == pytest.approx(0.01)
    assert (bonus > 0).float().mean().item() == pytest.approx(0.25, abs=0.03)


def said(values, s_hat=((0.0,),), feature=((0.0, 0.0),)):
    return NetworkOutputs(*(torch.tensor(x) for x in (values, s_hat, feature)))


def found(guiding, local, legal=LEGAL, **settings):
    return losses(guiding, local, legal, LocalDistillation(**settings))


def test_the_block_loss_is_the_mean_squared_difference():
    one = said([[0.0] * 3] * 2, [[0.0, 0.0], [1.0, 1.0]], [[0.0, 0.0]] * 2)
    other = said([[0.0] * 3] * 2, [[1.0, 0.0], [1.0, 3.0]], [[0.0, 0.0]] * 2)
    assert float(found(one, other, LEGAL.expand(2, 3)).block) == pytest.approx((1 + 4) / 4)


@pytest.mark.parametrize("illegal", [0.0, 9.0, -9.0])
def test_the_value_loss_is_the_divergence_of_softmaxes_over_legal_actions(illegal):
    # softmax of (ln 3, 0) is (3/4, 1/4), of (0, 0) it is (1/2, 1/2)
    guiding = said([[2 * float(np.log(3)), 0.0, illegal]])
    local = said([[0.0, 0.0, -illegal]])
    wanted = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    assert float(found(guiding, local, temperature=2.0).value) == pytest.approx(wanted, rel=1e-5)


def test_a_shift_of_all_values_costs_nothing_unless_values_themselves_are_compared():
    guiding, local = said([[1.0, 3.0, 0.0]]), said([[5.0, 7.0, 0.0]])
    assert float(found(guiding, local).value) == pytest.approx(0, abs=1e-5)
    assert float(found(guiding, local, value_loss="mse").value) == 0
    raw = found(guiding, local, value_loss="mse", centred=False)
    assert float(raw.value) == 16


def test_the_squared_value_loss_is_a_mean_over_legal_actions():
    guiding, local = said([[1.0, 3.0, 8.0]]), said([[5.0, 5.0, 0.0]])
    assert float(found(guiding, local, value_loss="mse", centred=False).value) == (16 + 4) / 2
    # less their mean 3 the differences 4 and 2 are 1 and -1
    assert float(found(guiding, local, value_loss="mse").value) == 1


def test_the_feature_loss_is_a_divergence_or_a_squared_difference():
    guiding = said([[0.0] * 3], feature=[[float(np.log(3)), 0.0]])
    local = said([[0.0] * 3], feature=[[0.0, 0.0]])
    wanted = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    assert float(found(guiding, local).feature) == pytest.approx(wanted, rel=1e-5)
    squared = found(guiding, local, feature_loss="mse")
    assert float(squared.feature) == pytest.approx(np.log(3) ** 2 / 2, rel=1e-5)


def test_agreement_counts_greedy_legal_actions():
    guiding = said([[0.0, 1.0, 9.0], [1.0, 0.0, 0.0]], [[0.0]] * 2, [[0.0]] * 2)
    local = said([[0.0, 2.0, 0.0], [0.0, 1.0, 0.0]], [[0.0]] * 2, [[0.0]] * 2)
    assert float(found(guiding, local, LEGAL.expand(2, 3)).agreement) == 0.5


def test_the_total_is_the_weighted_sum():
    guiding = said([[1.0, 3.0, 8.0]], [[1.0]], [[1.0, 0.0]])
    local = said([[5.0, 5.0, 0.0]], [[3.0]], [[0.0, 0.0]])
    settings = LocalDistillation(
        block_weight=2, value_weight=3, feature_weight=5, value_loss="mse", feature_loss="mse"
    )
    total = losses(guiding, local, LEGAL, settings).total(settings)
    assert float(total) == 2 * 4 + 3 * 1 + 5 * 0.5


@pytest.mark.parametrize("loss", ["kl", "mse"])
def test_gradients_are_those_of_a_plain_implementation(loss):
    rng = np.random.default_rng(0)
    rows, actions, tau = 7, 4, 0.3
    legal = rng.random((rows, actions)) < 0.6
    legal[:, 1] = True
    drawn = {
        who: [rng.standard_normal((rows, width)) for width in (actions, 3, 5)]
        for who in ("guiding", "local")
    }
    local = [torch.tensor(x, requires_grad=True) for x in drawn["local"]]
    guiding = NetworkOutputs(*map(torch.tensor, drawn["guiding"]))
    settings = LocalDistillation(value_loss=loss, feature_loss=loss, temperature=tau)
    result = losses(guiding, NetworkOutputs(*local), torch.tensor(legal), settings)
    result.total(settings).backward()

    def softmax(x, where):
        e = np.where(where, np.exp(x - x.max()), 0)
        return e / e.sum()

    wanted = [np.zeros_like(x) for x in drawn["local"]]
    wanted[1] = 2 * (drawn["local"][1] - drawn["guiding"][1]) / (rows * 3)
    for r in range(rows):
        teacher, student = (drawn[who][0][r] for who in ("guiding", "local"))
        features = [drawn[who][2][r] for who in ("guiding", "local")]
        if loss == "kl":
            p, q = softmax(teacher / tau, legal[r]), softmax(student / tau, legal[r])
            wanted[0][r] = (q - p) / tau / rows
            p, q = (softmax(x, np.ones(5, bool)) for x in features)
            wanted[2][r] = (q - p) / rows
        else:
            gap = np.where(legal[r], student - teacher, 0)
            gap = np.where(legal[r], gap - gap.sum() / legal[r].sum(), 0)
            wanted[0][r] = 2 * gap / legal[r].sum() / rows
            wanted[2][r] = 2 * (features[1] - features[0]) / (rows * 5)
    for part, gradient in zip(local, wanted, strict=True):
        np.testing.assert_allclose(part.grad.numpy(), gradient, atol=1e-12)
