import json

import pytest
from typer.testing import CliRunner

from kd_offline.cli.app import app
from kd_offline.datasets import ExpertBuffer
from kd_offline.recording.record import record
from tests.unit.recording.tampering import rewritten, shifted


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("origin")
    settings = {"episodes": 10, "batch": 10, "threads": 1}
    record("mpe/simple_speaker_listener_v4", root / "good", **settings)
    rewritten(ExpertBuffer.open(root / "good"), root / "late", {"steps/reward": shifted})
    return root


def verify(*arguments, code):
    done = CliRunner().invoke(app, ["verify", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done


def test_both_checks_in_words(place):
    done = verify(place / "good", "--replay", "4", "--relabel", "5", code=0)
    first, *rest = done.stdout.splitlines()
    assert first == (
        "replay: 4 episodes, 100 steps of mpe/simple_speaker_listener_v4 came out as recorded, "
        "bit for bit"
    )
    assert "relabel: expert 0 is bundled, the recorded weights" in rest
    assert "relabel: 5 episodes, 125 steps labelled as recorded" in rest
    assert any(line.startswith("  KL of the policy: mean ") for line in rest)
    assert rest[-1] == "whole: every check passed"


def test_both_checks_as_json(place):
    text = verify(place / "good", "--quick", "--replay", "3", "--relabel", "3", "--json", code=0)
    report = json.loads(text.stdout)
    assert (report["ok"], report["problems"]) == (True, [])
    assert report["replay"]["exact"] is True
    assert report["replay"]["arrays"]["steps/obs"]["max_error"] == 0
    assert report["relabel"]["policy"]["max_kl"] < 1e-6


def test_shifted_rewards_are_found_and_nothing_else_finds_them(place):
    verify(place / "late", code=0)
    done = verify(place / "late", "--replay", "10", code=1)
    assert "first, episode 0, step 1: steps/reward, speaker_0 came out as" in done.stdout
    assert "  steps/reward" in done.stdout
    assert "10 episodes, 250 steps of" in done.stdout
    assert done.stderr.startswith("error: ")
    report = json.loads(verify(place / "late", "--replay", "2", "--json", code=1).stdout)
    assert (report["ok"], report["replay"]["ok"]) == (False, False)
    assert report["replay"]["first"]["array"] == "steps/reward"


def test_another_expert_is_found(place):
    done = verify(place / "good", "--quick", "--relabel", "2", "--expert", "bundled:mlp", code=1)
    assert "expert 0 is bundled:mlp, NOT the recorded weights" in done.stdout


def test_a_damaged_dataset_is_not_replayed(place):
    target = place / "damaged"
    rewritten(ExpertBuffer.open(place / "good"), target)
    chunk = target / "steps" / "obs" / "c" / "0" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    report = json.loads(verify(target, "--replay", "2", "--json", code=1).stdout)
    assert "replay" not in report
    assert report["problems"][-1]["where"] == "replay"
    assert "cannot be trusted" in report["problems"][-1]["what"]


def test_wrong_usage_is_told_before_anything_is_read(place):
    assert "--replay 0 is too small" in verify(place / "good", "--replay", "0", code=2).stderr
    done = verify(place / "good", "--replay", "1", "--environment", "mpe/x", code=2)
    assert "pass --environment with the name that it states" in done.stderr
