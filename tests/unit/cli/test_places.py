"""``doctor ADDRESS`` and ``merge --virtual`` on the command line."""

import json

import pytest
from typer.testing import CliRunner

from kd_offline.cli.app import app
from kd_offline.datasets import ExpertBuffer
from kd_offline.file_locks import only_writer
from kd_offline.testing.factories import tiny_dataset


@pytest.fixture
def place(tmp_path, monkeypatch):
    for k in range(2):
        tiny_dataset(tmp_path / f"shards/{k}.zarr", 4, seed=k)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command, code=0):
    done = CliRunner().invoke(app, command.split(), prog_name="kd-offline")
    assert done.exit_code == code, done.output
    return done


def test_the_doctor_takes_an_address_in_the_place_of_a_command(place):
    assert "2 datasets are finished, 0 places are not" in run("doctor shards").stderr
    (place / "shards/1.zarr/manifest.json").unlink()
    (place / "shards/1.zarr/upload.json").write_text("{}")
    found = json.loads(run("doctor shards --json").stdout)
    assert found["datasets"] == 1
    assert [p["address"] for p in found["unfinished"]] == ["shards/1.zarr"]
    done = run("doctor shards/")
    assert "shards/1.zarr: being sent or not sent completely" in done.stdout
    assert "repeat the command that sends it" in done.stdout
    assert "1 datasets are finished, 1 places are not" in done.stderr
    assert "there is nothing at 'absent'" in run("doctor absent", 1).stderr


def test_the_doctor_says_what_to_do_about_parts_that_a_recording_left(place, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    record = "record mpe/simple_spread_v3 -o both.zarr --episodes 2 --expert bundled"
    record += " --expert bundled:mlp"
    with monkeypatch.context() as patched:
        patched.setattr("kd_offline.recording.record.merge", killed)
        run(record, 1)
    assert "both.zarr.parts: parts of a recording of several experts" in run("doctor .").stdout
    assert "continue it with record --resume, or delete them" in run("doctor .").stdout
    with only_writer(place / "both.zarr.parts", "recording"):  # as a command that still records
        assert "a process works there now, so wait for its end" in run("doctor .").stdout
        assert "another process is working on parts" in run(f"{record} --overwrite", 1).stderr
    run(f"{record} --resume")
    assert not (place / "both.zarr.parts").exists()
    assert run("doctor .").stdout == ""


def test_a_refused_push_says_how_to_look_at_the_place(place):
    (place / "there").mkdir()
    (place / "there/upload.json").write_text("{}")
    error = run("push shards/0.zarr there", 1).stderr
    assert error.count("\n") == 1
    assert "kd-offline doctor" in error
    assert "--overwrite" in error
    run("push shards/0.zarr there --overwrite")


def test_merge_virtual_lists_and_a_merge_of_it_copies(place):
    run("merge --virtual shards/0.zarr shards/1.zarr -o whole.zarr")
    assert len(ExpertBuffer.open(place / "whole.zarr").manifest.shards) == 2
    shown = run("inspect whole.zarr")
    assert "in shards" in shown.stdout
    error = run("pack whole.zarr", 2).stderr
    assert "kd-offline merge" in error
    run("merge whole.zarr -o one.zarr")
    assert ExpertBuffer.open(place / "one.zarr").id == ExpertBuffer.open(place / "whole.zarr").id
