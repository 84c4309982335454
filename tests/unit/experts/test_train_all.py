"""Several trainings side by side: each is that of one process, bit by bit."""

import json
from pathlib import Path

import pytest

from kd_offline.errors import StorageError, UsageError
from kd_offline.experts import checkpoint
from kd_offline.experts.recipe import train_recipe
from kd_offline.experts.train import train
from kd_offline.experts.train_all import train_all
from kd_offline.tracking.base import FunctionObserver
from tests.end_to_end.conftest import kd_json, refused

SPREAD = "mpe/simple_spread_v3"
SMALL = {"episodes_per_batch": 8, "frames": 400, "architecture.trunk": (8,), "architecture.gru": 8}


def recipe(seed):
    return train_recipe(SPREAD, settings=SMALL | {"seed": seed})


def weights(folder):
    return (Path(folder) / checkpoint.WEIGHTS).read_bytes()


def test_seeds_trained_side_by_side_are_those_of_one_process(tmp_path):
    told, done = [], []
    observer = FunctionObserver(
        metrics=lambda step, values, series: told.append((series, step)),
        progress=lambda *count: done.append(count),
    )
    recipes = {f"seed-{k}": recipe(k) for k in (0, 3)}
    settings = {"threads": 1, "score_episodes": 10}
    cards = train_all(recipes, tmp_path / "all", on="processes:2", observers=[observer], **settings)
    for name, one in recipes.items():
        alone = train(one, tmp_path / name, **settings)
        assert weights(tmp_path / "all" / name) == weights(tmp_path / name)
        assert cards[name].greedy == alone.greedy
    assert done == [(0, 800, "steps"), (400, 800, "steps"), (800, 800, "steps")]
    assert told == [(name, step) for name in recipes for step in (200, 400)]
    with pytest.raises(StorageError, match=r"seed-0' holds an expert already.*resume=True"):
        train_all({"seed-5": recipe(5), **recipes}, tmp_path / "all", **settings)
    assert not (tmp_path / "all" / "seed-5").exists()
    again = train_all(recipes, tmp_path / "all", resume=True, **settings)
    assert again == cards


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", "", ".."])
def test_an_expert_is_trained_into_a_folder_of_its_own(tmp_path, name):
    with pytest.raises(UsageError, match="is no name of a folder"):
        train_all({name: recipe(0)}, tmp_path / "all")
    with pytest.raises(UsageError, match="nothing to train"):
        train_all({}, tmp_path / "all")
    assert not list(tmp_path.iterdir())


def test_seeds_of_the_command_line(tmp_path):
    plan = [SPREAD, "-o", tmp_path / "all", "--frames", "200", "--hidden", "8", "--threads", "1"]
    plan += ["--score", "0", "--set", "episodes_per_batch=8"]
    cards = kd_json("train", *plan, "--seeds", "2")["experts"]
    assert [(name, card["recipe"]["seed"]) for name, card in cards.items()] == [
        ("seed-0", 0),
        ("seed-1", 1),
    ]
    card = json.loads((tmp_path / "all" / "seed-1" / checkpoint.CARD).read_text())
    assert card["recipe"]["seed"] == 1
    assert "give --seeds" in refused("train", *plan, "--on", "processes:2", code=2)
    assert "exclude each other" in refused("train", *plan, "--seeds", "2", "--seed", "1", code=2)
    assert "a seed twice" in refused("train", *plan, "--seeds", "1,1", code=2)
