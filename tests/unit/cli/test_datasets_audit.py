"""``verify --audit``: what it says, and its exit codes."""

import json

import pytest
from typer.testing import CliRunner

from kd_offline.cli.app import app
from kd_offline.datasets import ExpertBuffer
from kd_offline.recording.record import record
from tests.unit.datasets.analysis.poisoning import (
    arrays_of,
    drawn,
    flip_labels,
    restate_probabilities,
    rows_of,
    sealed,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("audit")
    record("mpe/simple_speaker_listener_v4", root / "good", episodes=100, batch=100, threads=1)
    buffer = ExpertBuffer.open(root / "good")
    arrays = arrays_of(buffer)
    flip_labels(arrays, drawn(rows_of(buffer, 25, 50), 12))
    restate_probabilities(arrays)
    sealed(buffer, root / "poisoned", arrays)
    return root


def verify(*arguments, code):
    done = CliRunner().invoke(app, ["verify", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done


def test_a_clean_dataset_has_no_finding(place):
    done = verify(place / "good", "--quick", "--audit", code=0)
    assert done.stdout.splitlines() == [
        "audit: 100 episodes in 4 parts, 0 findings; false alarms are below 0.5%",
        "whole: the files are right",
    ]


def test_poison_is_a_warning_with_an_exit_code_of_its_own(place):
    verify(place / "poisoned", code=0)
    done = verify(place / "poisoned", "--audit", code=4)
    first, finding, look, without, last = done.stdout.splitlines()
    assert first.startswith("audit: 100 episodes in 4 parts, 1 finding; ")
    assert finding.startswith("  episodes 25 to 49 of expert 0: 1")
    assert "labels contradict the embedding beside them" in finding
    assert look.startswith("    look at episode ")
    assert without.endswith(
        "/poisoned --output clean.zarr --where 'not (episode >= 25 and episode < 50)'"
    )
    assert last == "whole: every check passed"
    warning = done.stderr.splitlines()[-1]
    assert warning.startswith("warning: ")
    assert "may be poisoned" in warning


def test_the_command_that_is_printed_leaves_the_poison_out(place, tmp_path):
    done = verify(place / "poisoned", "--quick", "--audit", "--json", code=4)
    keep = json.loads(done.stdout)["audit"]["keep"]
    output = str(tmp_path / "clean.zarr")
    arguments = ["filter", str(place / "poisoned"), "--output", output, "--where", keep]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert ExpertBuffer.open(output).n_episodes == 75


def test_a_finding_leaves_the_dataset_whole(place):
    report = json.loads(verify(place / "poisoned", "--quick", "--audit", "--json", code=4).stdout)
    assert (report["ok"], report["audit"]["ok"]) == (True, False)
    (finding,) = report["audit"]["findings"]
    assert (finding["check"], finding["episodes"]) == ("outputs", [25, 50])
    assert finding["log10_p"] < -8


def test_damage_is_told_before_poison(place, tmp_path):
    import shutil

    target = tmp_path / "damaged"
    shutil.copytree(place / "poisoned", target)
    chunk = next((target / "steps" / "logits" / "c").rglob("0"))
    chunk = chunk if chunk.is_file() else next(p for p in chunk.rglob("*") if p.is_file())
    chunk.write_bytes(b"x" + chunk.read_bytes()[1:])
    report = json.loads(verify(target, "--audit", "--json", code=1).stdout)
    assert "audit" not in report
    assert report["problems"][-1]["where"] == "audit"


def test_a_dataset_without_labels_is_refused(place, tmp_path):
    output = str(tmp_path / "bare.zarr")
    arguments = ["filter", str(place / "good"), "-o", output, "--without", "logits"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    done = verify(output, "--quick", "--audit", code=2)
    assert "holds no logits, so there are no labels to audit" in done.stderr


def test_blind_spots_as_text_and_as_json(place):
    arguments = ["inspect", str(place / "good"), "--blind-spots"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    assert "blind spots  2,500 decisions in 100 episodes" not in done.stdout.splitlines()[0]
    assert any(line.startswith("blind spots  ") for line in done.stdout.splitlines())
    assert any(line.startswith("  low value ") for line in done.stdout.splitlines())
    report = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert [grid["agent"] for grid in report["blind_spots"]["agents"]] == [
        "speaker_0",
        "listener_0",
    ]
    plain = json.loads(CliRunner().invoke(app, [*arguments[:2], "--json"]).stdout)
    assert "blind_spots" not in plain
