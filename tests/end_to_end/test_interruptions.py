"""Ctrl-C at any moment leaves something that is continued to the same result."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kd_offline.distillation import distill as distillation
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.experts import ppo
from kd_offline.experts.recipe import train_recipe
from kd_offline.experts.train import train
from kd_offline.recording.record import record
from kd_offline.tracking.base import FunctionObserver
from tests.end_to_end.conftest import DISTILL, SPREAD, kd, kd_json

PATIENCE_S = 90


def stop_when(arguments, ready):
    """Run a real process, send it Ctrl-C once ``ready()`` holds, return its exit code and words."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kd_offline", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        # A shell that runs the tests in the background has Ctrl-C ignored, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and not ready() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()[1]
    process.send_signal(signal.SIGINT)
    out, words = process.communicate(timeout=PATIENCE_S)
    assert out == ""
    assert process.returncode == 1, words
    assert words.splitlines()[-1].startswith("error: interrupted; "), words
    assert "--resume" in words
    assert "Traceback" not in words
    return words


def lasts(seconds: float, file: Path):
    """Return what tells whether ``file`` has been there for so long."""
    began = []

    def ready():
        if file.is_file():
            began.append(time.monotonic())
        return began and time.monotonic() - began[0] > seconds

    return ready


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.is_file() else 0


def test_a_recording_continues_to_the_same_id(made, tmp_path):
    arguments = ["record", SPREAD, "--expert", made.expert, "--episodes", 1000, "--batch", 20]
    arguments += ["--threads", 1, "-q"]
    kept, wait = 0, 1.0
    while not kept:  # a busy machine may not have finished a batch by then
        path = tmp_path / f"stopped-{wait}.zarr"
        stop_when([*arguments, "-o", path], lasts(wait, path / "recording.json"))
        assert not (path / "manifest.json").exists()
        kept, wait = json.loads((path / "recording.json").read_text())["episodes"], 2 * wait
    assert kept < 1000
    words = kd("inspect", path, code=1).stderr
    assert "--resume" in words or "resume" in words
    resumed = kd_json(*arguments, "-o", path, "--resume")
    assert resumed["id"] == kd_json(*arguments, "-o", tmp_path / "whole.zarr")["id"]
    assert kd_json("verify", path)["ok"]


def test_a_training_continues_to_the_same_weights(tmp_path):
    arguments = ["train", SPREAD, "--frames", 12800, "--threads", 1, "--score", 16, "-q"]
    arguments += ["--set", "episodes_per_batch=64", "--mlp"]
    path = tmp_path / "stopped"
    stop_when([*arguments, "-o", path], lambda: lines(path / "curve.jsonl") >= 2)
    assert not json.loads((path / "expert.json").read_text())["finished"]
    kd(*arguments, "-o", path, "--resume")
    kd(*arguments, "-o", tmp_path / "whole")
    assert _bytes(path) == _bytes(tmp_path / "whole")
    assert lines(path / "curve.jsonl") == 8


def test_a_distillation_continues_to_the_same_students(made, tmp_path):
    arguments = ["distill", made.dataset, *DISTILL, "--epochs", 5, "--seeds", 4, "-q"]
    path = tmp_path / "stopped"
    stop_when([*arguments, "-o", path], lambda: len(_results(path)) >= 1)
    assert json.loads((path / "run.json").read_text())["status"] == "interrupted"
    assert "--resume" in kd("evaluate", path, code=2).stderr
    kd(*arguments, "-o", path, "--resume")
    kd(*arguments, "-o", tmp_path / "whole")
    digests = [[r["digest"] for r in _results(p)] for p in (path, tmp_path / "whole")]
    assert digests[0] == digests[1]
    assert lines(path / "metrics.jsonl") == 4 * 5 * 2


def _bytes(folder):
    return (folder / "weights.safetensors").read_bytes()


def _results(folder):
    file = folder / "run.json"
    return json.loads(file.read_text())["results"] if file.is_file() else []


class TestAtAnyMoment:
    """The same without a second process: Ctrl-C comes exactly where it hurts most."""

    def test_in_the_middle_of_an_update_of_the_expert(self, tmp_path, monkeypatch):
        recipe = train_recipe(
            SPREAD, gru=False, settings={"frames": 1600 * 5, "episodes_per_batch": 64}
        )
        whole = train(recipe, tmp_path / "whole", threads=1, score_episodes=0)
        update, calls = ppo.update, []

        def stop_halfway(*arguments):
            calls.append(1)
            result = update(*arguments)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return result

        monkeypatch.setattr(ppo, "update", stop_halfway)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "stopped", threads=1, score_episodes=0)
        again = train(recipe, tmp_path / "stopped", resume=True, threads=1, score_episodes=0)
        assert again.frames == whole.frames
        assert _bytes(tmp_path / "stopped") == _bytes(tmp_path / "whole")

    @pytest.mark.parametrize("epoch", [1, 3])
    def test_in_the_middle_of_a_seed(self, made, tmp_path, monkeypatch, epoch):
        recipe = distill_recipe(
            method="kl",
            seeds=2,
            settings={"optimisation.epochs": 4, "optimisation.batch_episodes": 32, "threads": 1},
        )
        whole = distillation.distill(made.dataset, tmp_path / "whole", recipe)
        monkeypatch.setattr(distillation, "SAVE_EVERY_S", 0.0)

        def stop(step, values, series):
            if (series, step) == ("seed 1", epoch) and "train/loss" in values:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            distillation.distill(
                made.dataset,
                tmp_path / "stopped",
                recipe,
                observers=[FunctionObserver(metrics=stop)],
            )
        again = distillation.distill(made.dataset, tmp_path / "stopped", recipe, resume=True)
        assert again.status == "complete"
        assert [r.digest for r in again.results] == [r.digest for r in whole.results]
        metrics = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "stopped")]
        assert metrics[0] == metrics[1]
        assert not (tmp_path / "stopped" / "resume").exists()

    @pytest.mark.parametrize("after", [30, 60])
    def test_between_two_batches_of_a_recording(self, made, tmp_path, after):
        settings = {"expert": made.expert, "episodes": 75, "batch": 30, "threads": 1}
        whole = record(SPREAD, tmp_path / "whole", **settings)

        def stop(done, total, unit):
            if done == after:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            record(
                SPREAD,
                tmp_path / "stopped",
                observers=[FunctionObserver(progress=stop)],
                **settings,
            )
        again = record(SPREAD, tmp_path / "stopped", resume=True, **settings)
        assert again.id == whole.id
