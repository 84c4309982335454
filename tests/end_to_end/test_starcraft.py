"""From games of StarCraft II (their stand-in) to distilled students, through the command line."""

import json

import numpy as np
import pytest

from kd_offline.datasets import ExpertBuffer
from tests.end_to_end.conftest import kd, kd_json, refused
from tests.standins.installations import playable

EXPERT = ("--expert", "python:tests.standins.shooter:factory", "--partner", "none")
SMALL = ("--threads", 1, "--env", "games=2", "--noise", "none")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Episodes of 3m, two games at a time although more were asked for."""
    with playable(tmp_path_factory.mktemp("starcraft")) as folder:
        asked = ("--episodes", 12, "--batch", 100, "--env", "difficulty=3")
        kd("record", "smac/3m", "-o", folder / "d.zarr", *EXPERT, *SMALL, *asked)
        yield folder / "d.zarr"


def test_the_dataset_is_whole_and_says_what_was_played(recorded):
    assert kd_json("verify", recorded)["ok"]
    buffer = ExpertBuffer.open(recorded)
    spec = buffer.spec
    assert (spec.id, spec.kwargs["difficulty"], spec.kwargs["game_version"]) == (
        "smac/3m",
        "3",
        "latest",
    )
    assert spec.version == "smac 1.0.0, StarCraft II build 75689"
    assert buffer.manifest.recording.batch == 2
    assert set(np.unique(buffer.episodes("won"))) == {0, 1}
    alive, actions = buffer.read("steps/alive"), buffer.read("steps/actions")
    assert not alive.all()
    assert (actions[~alive] == 0).all()
    assert (actions[alive] > 0).all()
    assert set(buffer.manifest.masks) == {"full", "limited", "paper", "random-k"}


def test_it_cannot_be_played_again_and_says_so(recorded, monkeypatch):
    monkeypatch.setenv("SC2PATH", "/nowhere")  # it is known without the game
    said = refused("verify", recorded, "--replay", 2, code=2)
    assert "takes a seed for a whole game only" in said
    assert "new_game_each_episode=true" in said


def test_new_games_can_be_played_again(recorded, tmp_path):
    anew = ("--env", "new_game_each_episode=true", "--episodes", 3)
    kd("record", "smac/3m", "-o", tmp_path / "d.zarr", *EXPERT, *SMALL, *anew)
    report = kd_json("verify", tmp_path / "d.zarr", "--replay", 3)
    assert report["ok"]


def test_students_are_distilled_and_evaluated(recorded, tmp_path):
    method = ("--method", "kl", "--mask", "paper", "--hidden", 8)
    kd("distill", recorded, "-o", tmp_path, *method, "--seeds", 1, "--epochs", 1, "--threads", 1)
    kd("evaluate", tmp_path, *EXPERT[:2], "--episodes", 2, "--threads", 1)
    report = json.loads((tmp_path / "evaluation.json").read_text())
    assert report["mask"] == "paper"
    assert report["greedy"]["win_rate"]["expert"]["mean"] in (0, 0.5, 1)


@pytest.mark.parametrize("algorithm", ["mappo", "qmix"])
def test_experts_learn_from_larger_batches_than_there_are_games(tmp_path, algorithm):
    few = ("--frames", 1, "--score", 0, "--set", "episodes_per_batch=3", "--hidden", 8)
    with playable(tmp_path / "starcraft"):
        games = ("--env", "games=2", "--env", "difficulty=3")
        kd("train", "smac/3m", "-o", tmp_path / "e", "--algorithm", algorithm, *few, *games)
    (line,) = (tmp_path / "e" / "curve.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert 3 * row["won"] in (0, 1, 2, 3)  # episodes, of which two are played at once
    assert row["frames"] > 2
    assert np.isfinite([value for value in row.values() if isinstance(value, float)]).all()


def test_without_the_game_nothing_is_begun(recorded, tmp_path, monkeypatch):
    monkeypatch.setenv("SC2PATH", str(tmp_path / "nowhere"))
    said = refused("record", "smac/3m", "-o", tmp_path / "d.zarr", *EXPERT, *SMALL, code=2)
    assert "set SC2PATH to its folder" in said
    assert not list(tmp_path.iterdir())
