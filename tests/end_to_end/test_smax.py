"""Combat from training to a distilled team: episodes that end early, dead agents, wins."""

import json

import numpy as np
import pytest

from kd_offline.datasets import ExpertBuffer
from tests.end_to_end.conftest import kd, kd_json, refused

MAP = "smax/3m"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("smax")
    batches = ("--frames", 800, "--set", "episodes_per_batch=32")
    kd("train", MAP, "-o", root / "expert", *batches, "--threads", 1, "--score", 32)
    kd(
        *("record", MAP, "--expert", root / "expert", "-o", root / "dataset.zarr"),
        *("--episodes", 60, "--batch", 25, "--threads", 2),
    )
    return root


def test_the_recording_is_clean_and_plays_again_bit_for_bit(place):
    report = kd_json("verify", place / "dataset.zarr", "--replay", 60)
    assert report["ok"]
    assert report["replay"]["exact"]
    assert report["replay"]["episodes"] == 60


def test_what_was_recorded_is_a_battle(place):
    buffer = ExpertBuffer.open(place / "dataset.zarr")
    lengths, alive = buffer.read("episodes/length"), buffer.read("steps/alive")
    legal, actions = buffer.read("steps/available_actions"), buffer.read("steps/actions")
    assert len(set(lengths.tolist())) > 5
    assert lengths.max() < 101
    assert 0 < alive.mean() < 1
    assert np.take_along_axis(legal, actions[..., None].astype(int), -1)[..., 0][alive].all()
    assert not legal[~alive].any()
    assert legal[alive].any(-1).all()
    assert set(np.unique(buffer.read("episodes/won"))) <= {0, 1}
    ends = np.cumsum(lengths) - 1
    assert buffer.read("steps/terminated")[ends].all()
    assert buffer.read("steps/terminated").sum() == 60
    fallen = ~buffer.read("final/alive").any(-1)
    np.testing.assert_array_equal(fallen, buffer.read("episodes/won") == 0)
    assert sorted(buffer.manifest.masks) == ["full", "limited", "paper", "random-k"]


def test_it_does_not_depend_on_batch_or_threads(place, tmp_path):
    again = tmp_path / "again.zarr"
    kd(
        *("record", MAP, "--expert", place / "expert", "-o", again),
        *("--episodes", 60, "--batch", 25, "--threads", 1),
    )
    first = ExpertBuffer.open(place / "dataset.zarr").manifest
    assert ExpertBuffer.open(again).manifest.id == first.id


def test_the_learning_curve_tells_the_share_of_won_battles(place):
    lines = [json.loads(x) for x in (place / "expert" / "curve.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2]
    first, last = (line["frames"] for line in lines)
    assert 32 < first < 800 <= last < 2 * 32 * 101
    assert all(0 <= line["won"] <= 1 for line in lines)
    card = json.loads((place / "expert" / "expert.json").read_text())
    assert 0 <= card["greedy"]["won"] <= 1


def test_it_distils_under_the_papers_mask_and_is_evaluated(place):
    run = place / "run"
    kd(
        *("distill", place / "dataset.zarr", "-o", run, "--mask", "paper", "--threads", 1),
        *("--hidden", "16,8,8", "--seeds", 1, "--epochs", 1, "--method", "kl"),
    )
    asked = ("evaluate", run, "--episodes", 20, "--threads", 1, "--expert", place / "expert")
    shown = kd(*asked)
    report = json.loads((run / "evaluation.json").read_text())
    assert report["environment"] == MAP
    won = report["greedy"]["win_rate"]
    assert won["random"]["mean"] <= won["random"]["high"] <= 1
    assert f"student {100 * won['student']['mean']:.1f} % [" in shown.stdout + shown.stderr
    assert kd_json(*asked)["greedy"]["win_rate"] == won


def test_a_map_that_is_not_there():
    said = refused("record", "smax/3n", "-o", "nowhere.zarr", code=2)
    assert "unknown SMAX map '3n': allowed are 3m, 2s3z" in said
