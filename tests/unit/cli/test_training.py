"""``train --from``: students of a run as a typed command names them."""

import json

from typer.testing import CliRunner

from kd_offline.cli.app import app
from tests.unit.runs.test_start import make_run


def typed(*words):
    return CliRunner().invoke(app, ["train", *map(str, words)], prog_name="kd-offline")


def test_the_run_decides_task_mask_and_networks(tmp_path):
    run = make_run(tmp_path / "run", motion=True)
    done = typed("--from", run, "--seed-of-run", 4, "--teacher", "bundled", "--dry-run")
    assert done.exit_code == 0, done.output
    recipe = json.loads(done.output)
    assert (recipe["environment"], recipe["mask"]) == ("mpe/simple_spread_v3", "limited")
    assert recipe["architecture"]["widths"] == [8, 7, 6]
    assert (recipe["start"]["run"], recipe["start"]["seed"]) == (str(run), 4)


def test_a_contradiction_is_one_sentence_and_nothing_is_written(tmp_path):
    run = make_run(tmp_path / "run", motion=True)
    done = typed("--from", run, "--widths", "9,9,9", "-o", tmp_path / "tuned", "-q")
    assert done.exit_code == 2
    assert "architecture.widths is (9, 9, 9)" in " ".join(done.output.split())
    assert not (tmp_path / "tuned").exists()


def test_a_team_is_chosen_of_a_run_alone(tmp_path):
    done = typed("mpe/simple_spread_v3", "--seed-of-run", 1, "-o", tmp_path / "tuned")
    assert done.exit_code == 2
    assert "give --from too" in " ".join(done.output.split())
