import json
import os

import pytest
import torch

from kd_offline import environments
from kd_offline.errors import (
    CheckpointError,
    MismatchError,
    StorageError,
    UnknownNameError,
    UsageError,
)
from kd_offline.experts import checkpoint
from kd_offline.experts.algorithms.clipped_policy import PolicyRecipe
from kd_offline.experts.load import load
from kd_offline.experts.train import _remaining, train
from kd_offline.file_locks import only_writer
from kd_offline.networks.files import read_tensors, write_tensors
from kd_offline.schemas.expert import ExpertArchitecture
from kd_offline.seeding import episode_seeds, uniforms
from kd_offline.testing.targets import TargetsEnvironment
from kd_offline.tracking.base import FunctionObserver
from tests.sealing import resealed

SMALL = ExpertArchitecture(trunk=(8,), gru=8, critic_trunk=(8,), critic_gru=8)
RECIPE = PolicyRecipe(
    environment="mpe/simple_spread_v3",
    architecture=SMALL,
    frames=4 * 16 * 25,
    episodes_per_batch=16,
    minibatches=2,
    epochs=1,
)


def digest(folder):
    return checkpoint.digest(folder)


def test_training_is_repeatable_and_scored(tmp_path):
    card = train(RECIPE, tmp_path / "a", threads=1, score_episodes=20)
    train(RECIPE, tmp_path / "b", threads=1, score_episodes=0)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert card.finished
    assert card.greedy is not None
    assert card.greedy.episodes == 20
    assert -150 < card.greedy.returns["team"] < -40
    rows = (tmp_path / "a" / checkpoint.CURVE).read_text().splitlines()
    assert [json.loads(row)["iteration"] for row in rows] == [1, 2, 3, 4]
    assert not (tmp_path / "a" / checkpoint.TRAINING).exists()


@pytest.mark.parametrize("stop_after", [1, 3])
def test_an_interrupted_training_resumes_to_the_same_weights(tmp_path, stop_after):
    def stop(step, values, series):
        if values["train/iteration"] == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            RECIPE,
            tmp_path / "a",
            threads=1,
            observers=[FunctionObserver(metrics=stop)],
            score_episodes=0,
        )
    assert not checkpoint.read_card(tmp_path / "a").finished
    train(RECIPE, tmp_path / "a", threads=1, resume=True, score_episodes=0)
    train(RECIPE, tmp_path / "b", threads=1, score_episodes=0)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    rows = (tmp_path / "a" / checkpoint.CURVE).read_text().splitlines()
    assert [json.loads(row)["iteration"] for row in rows] == [1, 2, 3, 4]


@pytest.mark.skipif(os.name == "nt", reason="folders cannot be locked there")
def test_two_trainings_in_one_folder_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    with (
        only_writer(tmp_path / "a", "training"),
        pytest.raises(StorageError, match="another process is training in"),
    ):
        train(RECIPE, tmp_path / "a", resume=True, threads=1, score_episodes=0)


def test_a_learning_step_improves_the_policy(tmp_path):
    """Some 20,000 steps are enough to be clearly better than at the start."""
    recipe = RECIPE.model_copy(
        update={"frames": 24 * 32 * 25, "episodes_per_batch": 32, "epochs": 4, "minibatches": 4}
    )
    seen: list = []
    watching = [FunctionObserver(metrics=lambda step, values, series: seen.append((step, values)))]
    train(recipe, tmp_path / "a", threads=1, observers=watching, score_episodes=0)
    first, last = (
        sum(p["train/return/team"] for _, p in part) / 4 for part in (seen[:4], seen[-4:])
    )
    assert last > first + 3


def test_frames_are_steps_that_were_really_played(tmp_path, monkeypatch):
    """Episodes of the game last 2 to 6 steps; the rate falls with what was played of the plan."""
    monkeypatch.setattr(environments, "load", lambda name, **kwargs: TargetsEnvironment())
    recipe = RECIPE.model_copy(update={"environment": "test/targets", "frames": 500})
    seen: list = []
    watching = [FunctionObserver(metrics=lambda step, values, series: seen.append((step, values)))]
    card = train(recipe, tmp_path / "a", threads=1, observers=watching, score_episodes=8)
    every = episode_seeds(0, 0, 16 * len(seen), "train")
    lengths = 2 + (uniforms(every, 0, (2,), "length")[:, 0] * 5).astype(int)
    played = lengths.reshape(-1, 16).sum(1).cumsum()
    assert [step for step, _ in seen] == played.tolist()
    assert played[-2] < 500 <= played[-1] == card.frames
    assert all("train/won" in values for _, values in seen)
    assert card.greedy is not None
    assert card.greedy.won is not None
    # Planned are 6 batches of 96 steps at the longest.
    assert _remaining(card.model_copy(update={"frames": 144})) == 1 - 144 / 576

    def stop(step, values, series):
        if values["train/iteration"] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            recipe,
            tmp_path / "b",
            threads=1,
            observers=[FunctionObserver(metrics=stop)],
            score_episodes=0,
        )
    assert checkpoint.read_card(tmp_path / "b").frames == played[2]
    train(recipe, tmp_path / "b", threads=1, resume=True, score_episodes=0)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_a_training_that_an_earlier_version_began_goes_on(tmp_path):
    """It did not store how many frames were played: every episode was as long as the limit."""
    path = tmp_path / "a" / checkpoint.TRAINING

    def stop(step, values, series):
        if values["train/iteration"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            RECIPE,
            tmp_path / "a",
            threads=1,
            observers=[FunctionObserver(metrics=stop)],
            score_episodes=0,
        )
    tensors = read_tensors(path, "").tensors()
    assert int(tensors.pop("frames")) == 2 * 16 * 25
    write_tensors(path, tensors)
    train(RECIPE, tmp_path / "a", threads=1, resume=True, score_episodes=0)
    train(RECIPE, tmp_path / "b", threads=1, score_episodes=0)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_only_the_chosen_side_learns(tmp_path):
    recipe = RECIPE.model_copy(
        update={
            "environment": "mpe/simple_adversary_v3",
            "learn": ("good",),
            "opponents": "bundled",
        }
    )
    card = train(recipe, tmp_path / "a", threads=1, score_episodes=10)
    spec = environments.load("mpe/simple_adversary_v3").spec
    assert card.greedy is not None
    assert card.greedy.opponents == load("bundled", spec).digest
    fresh = checkpoint.build(card).actors
    trained = load(tmp_path / "a", spec).team.actors
    same = [
        torch.equal(a, b)
        for a, b in zip(fresh.actors[0].parameters(), trained.actors[0].parameters(), strict=True)
    ]
    assert all(same)
    assert not torch.equal(fresh.actors[1].head.weight, trained.actors[1].head.weight)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"mask": "random-k"}, UsageError, "drawn anew in every episode"),
        ({"mask": "nothing"}, UnknownNameError, "unknown mask 'nothing'"),
        ({"learn": ("us",)}, UnknownNameError, "unknown side 'us'"),
        ({"environment": "mpe/none"}, UnknownNameError, "unknown environment"),
    ],
)
def test_bad_recipes_are_refused_and_leave_nothing(tmp_path, change, error, text):
    with pytest.raises(error, match=text):
        train(RECIPE.model_copy(update=change), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_an_expert_is_not_overwritten_and_not_continued_with_another_recipe(tmp_path):
    train(RECIPE, tmp_path / "a", threads=1, score_episodes=0)
    with pytest.raises(StorageError, match="holds an expert already"):
        train(RECIPE, tmp_path / "a")
    with pytest.raises(StorageError, match="another recipe"):
        train(RECIPE.model_copy(update={"seed": 5}), tmp_path / "a", resume=True)


def test_experts_that_do_not_fit_or_are_damaged(tmp_path):
    train(RECIPE, tmp_path / "a", threads=1, score_episodes=0)
    spec = environments.load("mpe/simple_adversary_v3").spec
    with pytest.raises(MismatchError, match="does not fit mpe/simple_adversary_v3"):
        load(tmp_path / "a", spec)
    with pytest.raises(CheckpointError, match="no expert at"):
        load(tmp_path / "nothing", spec)
    weights = tmp_path / "a" / checkpoint.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="does not have the digest that is stated for it"):
        load(tmp_path / "a", environments.load("mpe/simple_spread_v3").spec)
    resealed(tmp_path / "a" / checkpoint.CARD, weights=None)
    with pytest.raises(CheckpointError, match="does not state the digest of its weights"):
        load(tmp_path / "a", environments.load("mpe/simple_spread_v3").spec)
    (tmp_path / "a" / checkpoint.CARD).write_text("{}")
    with pytest.raises(CheckpointError, match="is damaged"):
        load(tmp_path / "a", spec)


@pytest.mark.parametrize("name", ["bundled:tiny", "bundled:"])
def test_bundled_names(name):
    spec = environments.load("mpe/simple_spread_v3").spec
    if name == "bundled:":
        assert load(name, spec).digest == load("bundled", spec).digest
        return
    with pytest.raises(UnknownNameError, match="default, large, mlp, masked"):
        load(name, spec)


def test_a_bundled_expert_of_another_task_is_refused_with_those_there_are():
    spec = environments.load("mpe/simple_speaker_listener_v4").spec
    with pytest.raises(
        CheckpointError, match=r"'bundled:masked' .*\(there: bundled, bundled:mlp\)"
    ):
        load("bundled:masked", spec)
