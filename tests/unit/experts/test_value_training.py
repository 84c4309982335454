"""VDN and QMIX from recipe to expert, in the small game of ``kd_offline.testing.targets``."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from kd_offline import environments
from kd_offline.errors import CheckpointError, UsageError
from kd_offline.experts import checkpoint
from kd_offline.experts.algorithms.clipped_policy import PolicyRecipe
from kd_offline.experts.algorithms.mixed_values import ValueRecipe
from kd_offline.experts.card import ExpertCard
from kd_offline.experts.load import load
from kd_offline.experts.recipe import recipe_from, train_recipe
from kd_offline.experts.score import greedy_score
from kd_offline.experts.train import train
from kd_offline.experts.value_team import ValueTeam
from kd_offline.experts.views import Seen
from kd_offline.networks.files import read_tensors, write_tensors
from kd_offline.rollout.collect import collect
from kd_offline.rollout.play import sampled
from kd_offline.rollout.policies import RandomPolicy
from kd_offline.seeding import episode_seeds
from kd_offline.testing.targets import TargetsEnvironment
from kd_offline.tracking.base import FunctionObserver

NAME = "test/targets"
SHORT = {
    "epsilon_frames": 300,
    "buffer_episodes": 40,
    "batch_episodes": 8,
    "updates_per_batch": 4,
    "target_every": 3,
}


@pytest.fixture(autouse=True)
def game(monkeypatch):
    place = "kd_offline.testing.targets:TargetsEnvironment"
    monkeypatch.setitem(environments.ENVIRONMENTS.built_in, NAME, place)


def recipe(algorithm="qmix", batches=6, settings=None, **changes):
    return ValueRecipe(
        environment=NAME,
        algorithm=algorithm,
        architecture={"trunk": (16,), "gru": 16},
        episodes_per_batch=16,
        frames=batches * 16 * 6,
        q_learning=SHORT | (settings or {}),
        **changes,
    )


@pytest.mark.parametrize("algorithm", ["vdn", "qmix"])
def test_it_learns_the_game(tmp_path, algorithm):
    """Random play presses every third or fourth button right; the best team all of them."""
    game = TargetsEnvironment()
    faster = {"epsilon_frames": 2000, "updates_per_batch": 2, "target_every": 5}
    chosen = recipe(algorithm, 40, learning_rate=5e-3, settings=faster)
    card = train(chosen, tmp_path / "a", threads=1, score_episodes=300)
    random = greedy_score(game, RandomPolicy(drawn=True), 300, "itself")
    assert random.returns["team"] < 0.6
    assert random.won is not None
    assert random.won < 0.05
    assert card.greedy is not None
    assert card.greedy.returns["team"] > 4
    assert card.greedy.won is not None
    assert card.greedy.won > 0.15


@pytest.mark.parametrize("stop_after", [1, 4])
def test_an_interrupted_training_resumes_to_the_same_weights(tmp_path, stop_after):
    def stop(step, values, series):
        if values["train/iteration"] == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            recipe(),
            tmp_path / "a",
            threads=1,
            observers=[FunctionObserver(metrics=stop)],
            score_episodes=0,
        )
    kept = read_tensors(tmp_path / "a" / checkpoint.TRAINING, "").tensors()
    assert len(kept["replay.length"]) == min(40, 16 * (stop_after - 1))
    train(recipe(), tmp_path / "a", threads=1, resume=True, score_episodes=0)
    train(recipe(), tmp_path / "b", threads=1, score_episodes=0)
    assert checkpoint.digest(tmp_path / "a") == checkpoint.digest(tmp_path / "b")
    assert not (tmp_path / "a" / checkpoint.TRAINING).exists()
    rows = [(tmp_path / x / checkpoint.CURVE).read_text().splitlines() for x in "ab"]
    without_time = [[json.loads(r) | {"seconds": 0} for r in each] for each in rows]
    assert without_time[0] == without_time[1]
    assert without_time[0][0]["epsilon"] == 1.0
    assert without_time[0][-1]["epsilon"] == pytest.approx(0.05)
    assert {"td_loss", "q_tot", "target", "won"} <= without_time[0][0].keys()
    assert "entropy" not in without_time[0][0]


def test_a_finished_training_is_not_trained_again(tmp_path):
    first = train(recipe(), tmp_path / "a", threads=1, score_episodes=0)
    before = checkpoint.digest(tmp_path / "a")
    again = train(recipe(), tmp_path / "a", threads=1, resume=True, score_episodes=10)
    assert checkpoint.digest(tmp_path / "a") == before
    assert again == first


def test_a_training_of_another_kind_is_not_continued(tmp_path):
    def stop(step, values, series):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            recipe(),
            tmp_path / "a",
            threads=1,
            observers=[FunctionObserver(metrics=stop)],
            score_episodes=0,
        )
    other = read_tensors(tmp_path / "a" / checkpoint.TRAINING, "").tensors()
    kept = {name: v for name, v in other.items() if not name.startswith("replay.")}
    write_tensors(tmp_path / "a" / checkpoint.TRAINING, kept)
    with pytest.raises(CheckpointError, match="another folder"):
        train(recipe(), tmp_path / "a", resume=True)


def test_what_an_expert_says_adds_up(tmp_path):
    card = train(recipe("vdn", 3), tmp_path / "a", threads=1, score_episodes=0)
    expert = load(tmp_path / "a", card.environment)
    assert expert.describe().capture.output == "q_values"
    assert expert.describe().architecture["mixer"] == "vdn"
    seeds = episode_seeds(0, 0, 30)
    played = collect(TargetsEnvironment(), expert, seeds, sampled(seeds))
    steps = played.steps
    assert "logits" not in steps
    taken = np.take_along_axis(steps["q_values"], steps["actions"][..., None], -1)[..., 0]
    total = (taken * steps["alive"]).sum(-1)
    np.testing.assert_allclose(steps["q_tot"], total, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(steps["mixer_credit"], steps["alive"])
    np.testing.assert_array_equal(steps["value"][..., 0], steps["q_tot_max"])
    assert (steps["q_tot"] <= steps["q_tot_max"] + 1e-5).all()
    assert not steps["alive"].all()
    np.testing.assert_array_equal(played.final["value"][:, 0], played.final["q_tot_max"])


def test_the_last_value_depends_on_the_episode_alone(tmp_path):
    card = train(recipe("qmix", 2), tmp_path / "a", threads=1, score_episodes=0)
    expert = load(tmp_path / "a", card.environment)
    seeds = episode_seeds(0, 0, 12)
    together = collect(TargetsEnvironment(), expert, seeds, sampled(seeds)).final["q_tot_max"]
    for b in range(12):
        one = seeds[b : b + 1]
        alone = collect(TargetsEnvironment(), expert, one, sampled(one)).final["q_tot_max"]
        np.testing.assert_allclose(alone, together[b], rtol=1e-4, atol=1e-5)


def test_without_values_it_acts_the_same_and_mixes_nothing(tmp_path):
    card = train(recipe("qmix", 2), tmp_path / "a", threads=1, score_episodes=0)
    whole, bare = (load(tmp_path / "a", card.environment, with_value=w) for w in (True, False))
    game = TargetsEnvironment()
    view = game.reset(episode_seeds(0, 0, 4))
    said, other = (e.act(view, e.start(np.zeros(4, np.uint64)))[0] for e in (whole, bare))
    np.testing.assert_array_equal(said.logits, other.logits)
    np.testing.assert_array_equal(said.q_values, other.q_values)
    assert (other.mix, other.value, other.q_tot_max) == (None, None, None)
    assert said.mix is not None


def test_its_logits_are_epsilon_greedy(tmp_path):
    card = train(recipe("vdn", 2), tmp_path / "a", threads=1, score_episodes=0)
    expert = load(tmp_path / "a", card.environment)
    view = TargetsEnvironment().reset(episode_seeds(0, 0, 4))
    output, _ = expert.act(view, expert.start(np.zeros(4, np.uint64)))
    legal = view.available_actions
    likely = np.exp(output.logits)
    best = np.where(legal, output.q_values, -np.inf).argmax(-1)
    share = 0.05 / legal.sum(-1)
    chosen = np.take_along_axis(likely, best[..., None], -1)[..., 0]
    np.testing.assert_allclose(chosen, 0.95 + share, rtol=1e-5)
    np.testing.assert_allclose((likely * legal).sum(-1), 1, rtol=1e-5)


def test_last_actions_and_memory_are_threaded_as_in_training(tmp_path):
    """One step at a time, the agents say what they say of the whole episode at once."""
    card = train(recipe("qmix", 2), tmp_path / "a", threads=1, score_episodes=0)
    expert = load(tmp_path / "a", card.environment)
    seeds = episode_seeds(0, 0, 8)
    played = collect(TargetsEnvironment(), expert, seeds, sampled(seeds))
    obs = torch.from_numpy(np.ascontiguousarray(played.steps["obs"]))
    actions = torch.from_numpy(np.ascontiguousarray(played.steps["actions"])).long()
    before = torch.cat([torch.full_like(actions[:1], -1), actions[:-1]])
    alive = torch.ones(actions.shape, dtype=torch.bool)
    assert isinstance(expert.team, ValueTeam)
    unit = expert.team.norm.statistics(torch.zeros(1, dtype=torch.int64))[1]
    seen = Seen(obs, torch.from_numpy(np.ascontiguousarray(played.steps["state"])))
    got = expert.team.model.values(seen, before, alive) * unit
    valid = played.valid
    np.testing.assert_allclose(
        got.numpy()[valid], played.steps["q_values"][valid], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"entropy": 0.1}, "entropy means nothing to qmix"),
        ({"opponents": "bundled"}, "opponents is 'bundled', which should be None"),
        ({"architecture.critic": "central"}, "critic is 'central', which should be 'none'"),
        ({"q_learning.td_lambda": 2}, "q_learning.td_lambda is 2"),
        ({"q_learning.lamda": 0.5}, "unknown setting of the recipe, q_learning 'lamda'"),
    ],
)
def test_bad_settings_are_one_sentence(settings, text):
    with pytest.raises(UsageError, match=text):
        train_recipe("mpe/simple_spread_v3", algorithm="qmix", settings=settings)


def test_settings_of_the_other_kind_are_refused():
    with pytest.raises(
        UsageError, match="q_learning means nothing to mappo, it is a setting of vdn and qmix"
    ):
        train_recipe("mpe/simple_spread_v3", settings={"q_learning.td_lambda": 0.5})
    with pytest.raises(UsageError, match="critic is 'none', which should be 'central' or 'local'"):
        train_recipe("mpe/simple_spread_v3", settings={"architecture.critic": "none"})


def test_a_recipe_has_the_defaults_of_its_kind_unless_it_says_otherwise():
    plain = train_recipe("mpe/simple_spread_v3", algorithm="vdn")
    assert plain.bootstrap_on_truncation
    assert plain.architecture.last_action
    assert plain.architecture.gru == 64
    assert isinstance(plain, ValueRecipe)
    assert plain.q_learning.td_lambda == 0.6
    other = train_recipe(
        "mpe/simple_spread_v3", algorithm="vdn", hidden=32, settings={"learning_rate": 0.1}
    )
    assert (other.architecture.gru, other.architecture.trunk) == (32, (32, 32))
    assert (other.learning_rate, other.architecture.last_action) == (0.1, True)
    assert "q_learning" not in train_recipe("mpe/simple_spread_v3").model_dump()
    assert recipe_from(other.model_dump()) == other


def test_sides_with_interests_of_their_own_are_refused(tmp_path):
    chosen = train_recipe("mpe/simple_adversary_v3", algorithm="qmix")
    with pytest.raises(UsageError, match="needs a team with one reward"):
        train(chosen, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_cards_from_before_are_read(tmp_path):
    card = train(recipe("vdn", 2), tmp_path / "a", threads=1, score_episodes=0)
    old = json.loads(card.model_dump_json())
    old["recipe"] = {"environment": NAME, "algorithm": "mappo", "q_learning": None}
    read = ExpertCard.model_validate(old).recipe
    assert isinstance(read, PolicyRecipe)
    assert read.epochs == 3
    written: dict[str, Any] = {
        "epochs": 3,
        "minibatches": 6,
        "entropy": 0.003,
        "clip": 0.2,
        "gae_lambda": 0.95,
    }
    written |= {"huber_delta": 10.0, "kickstart": None, "learn": None, "opponents": None}
    old["recipe"] = card.recipe.model_dump(mode="json") | written
    assert ExpertCard.model_validate(old).recipe == card.recipe


def test_a_mask_hides_from_the_agents(tmp_path):
    card = train(recipe("vdn", 2), tmp_path / "a", threads=1, score_episodes=0)
    hidden = card.model_copy(update={"mask": ((False,) * 5,) * 2})
    team = checkpoint.build(hidden)
    assert isinstance(team, ValueTeam)
    model = team.model
    views = [torch.rand(3, 2, 2, 5) for _ in range(2)]
    before, alive = torch.zeros(3, 2, 2, dtype=torch.int64), torch.ones(3, 2, 2, dtype=torch.bool)
    seen = [Seen(view, torch.zeros(3, 2, 1)) for view in views]
    first, second = (model.values(each, before, alive) for each in seen)
    torch.testing.assert_close(first, second)
