"""A job that is queued again repeats its command: the same document, whatever happened before."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.end_to_end.conftest import DISTILL, SPREAD, kd, kd_json

FAULTY = "tests.unit.recording.faulty"
PATIENCE_S = 90
TRAIN: tuple[object, ...] = (
    "train",
    SPREAD,
    "--frames",
    400,
    "--mlp",
    "--score",
    4,
    "--threads",
    1,
)
TRAIN += ("--set", "episodes_per_batch=8", "--set", "minibatches=2")
RECORD: tuple[object, ...] = (
    "record",
    f"pettingzoo/{FAULTY}:parallel_env",
    "--expert",
    f"python:{FAULTY}:silent",
)
RECORD += ("--episodes", 40, "--batch", 5, "--partner", "none")


def refused(*arguments, code):
    """Return the sentence that a command ends with."""
    return kd(*arguments, code=code).stderr.splitlines()[-1]


@pytest.mark.parametrize("begin", [(), ("--resume",)])
def test_a_recording(tmp_path, begin, caplog):
    command = (*RECORD, "-o", tmp_path / "d.zarr")
    first = kd_json(*command, *begin)
    assert kd_json(*command, "--resume") == first
    assert "d.zarr is complete already: nothing was done" in caplog.text
    words = refused(*command, "--resume", "--seed", 1, code=2)
    assert "recording.seed" in words


def test_a_recording_that_was_killed(tmp_path):
    command = (*RECORD[:4], "--episodes", 20_000, "--batch", 20, "--partner", "none")
    path = tmp_path / "d.zarr"
    process = subprocess.Popen(
        [sys.executable, "-m", "kd_offline", *map(str, command), "-o", path, "--resume"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + PATIENCE_S
    while not (path / "recording.json").is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait(PATIENCE_S)
    assert not (path / "manifest.json").exists()
    short = (*RECORD, "-o", path)
    refused(*short, "--resume", code=2)  # it was begun with more episodes
    first = kd_json(*short, "--overwrite")
    assert kd_json(*short, "--resume") == first


def test_an_expert_and_a_distillation(tmp_path, made):
    expert = (*TRAIN, "-o", tmp_path / "expert")
    assert kd_json(*expert, "--resume") == kd_json(*expert, "--resume")
    run = ("distill", made.dataset, "-o", tmp_path / "run", *DISTILL)
    assert kd_json(*run, "--resume") == kd_json(*run, "--resume")
    assert "another recipe" in refused(*run, "--resume", "--mask", "limited", code=1)


def test_a_failure_of_user_code_is_one_sentence_with_a_code(tmp_path):
    seed = 73  # of no episode: nothing fails
    settings = ("--env", "call=step", "--env", "fault=exit", "--env")
    kd(*RECORD, "-o", tmp_path / "whole.zarr", *settings, f"seed_of_fault={seed}", "-q")
    words = refused(*RECORD, "-o", tmp_path / "d.zarr", *settings, "seed_of_fault=-1", code=1)
    assert "failed in step (step 3, seed " in words
    assert "SystemExit: 0" in words
    assert f"what was recorded so far is in {tmp_path / 'd.zarr'}" in words
    assert "--resume" in words
    words = refused(
        *RECORD, "-o", tmp_path / "e.zarr", "--env", "call=init", "--env", "fault=typer", code=1
    )
    assert "failed in its constructor: Exit: 0" in words
    assert "what was recorded" not in words
    assert not (tmp_path / "e.zarr").exists()
