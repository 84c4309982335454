"""Ctrl-C at any moment leaves something that is continued to the same result."""

import json
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


def stop_at(forks, unit, done, arguments):
    """Run a command in a process that gets Ctrl-C once so much is done; return its words."""
    code, words = forks(*arguments, interrupt=(unit, done))
    assert code == 1, words
    assert words.splitlines()[-1].startswith("error: interrupted; "), words
    assert "--resume" in words
    assert "Traceback" not in words


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.is_file() else 0


def test_a_recording_continues_to_the_same_id(forks, tmp_path):
    arguments = ["record", SPREAD, "--expert", "bundled:mlp", "--episodes", 100, "--batch", 20]
    arguments += ["--threads", 1]
    path = tmp_path / "stopped.zarr"
    stop_at(forks, "episodes", 40, [*arguments, "-o", path])
    assert not (path / "manifest.json").exists()
    assert 40 <= json.loads((path / "recording.json").read_text())["episodes"] < 100
    assert "--resume" in kd("inspect", path, code=1).stderr
    resumed = kd_json(*arguments, "-o", path, "--resume")
    assert resumed["id"] == kd_json(*arguments, "-o", tmp_path / "whole.zarr")["id"]
    assert kd_json("verify", path)["ok"]


def test_a_training_continues_to_the_same_weights(forks, tmp_path):
    arguments = ["train", SPREAD, "--frames", 3200, "--threads", 1, "--score", 4]
    arguments += ["--set", "episodes_per_batch=32", "--mlp"]
    path = tmp_path / "stopped"
    stop_at(forks, "steps", 1600, [*arguments, "-o", path])
    assert not json.loads((path / "expert.json").read_text())["finished"]
    assert 2 <= lines(path / "curve.jsonl") < 4
    kd(*arguments, "-o", path, "--resume")
    kd(*arguments, "-o", tmp_path / "whole")
    assert _bytes(path) == _bytes(tmp_path / "whole")
    assert lines(path / "curve.jsonl") == 4


def test_a_distillation_continues_to_the_same_students(forks, made, tmp_path):
    arguments = ["distill", made.dataset, *DISTILL, "--epochs", 2, "--seeds", 3]
    path = tmp_path / "stopped"
    stop_at(forks, "epochs", 3, [*arguments, "-o", path])
    assert json.loads((path / "run.json").read_text())["status"] == "interrupted"
    assert len(_results(path)) == 1
    assert "--resume" in kd("evaluate", path, code=2).stderr
    kd(*arguments, "-o", path, "--resume")
    kd(*arguments, "-o", tmp_path / "whole")
    digests = [[r["digest"] for r in _results(p)] for p in (path, tmp_path / "whole")]
    assert digests[0] == digests[1]
    assert lines(path / "metrics.jsonl") == 3 * 2 * 2


def _bytes(folder):
    return (folder / "weights.safetensors").read_bytes()


def _results(folder):
    file = folder / "run.json"
    return json.loads(file.read_text())["results"] if file.is_file() else []


class TestAtAnyMoment:
    """The same within one process: Ctrl-C comes exactly where it hurts most."""

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

    def test_between_two_batches_of_a_recording(self, made, tmp_path):
        settings = {"expert": made.expert, "episodes": 75, "batch": 30, "threads": 1}
        whole = record(SPREAD, tmp_path / "whole", **settings)
        for after in (30, 60):

            def stop(done, total, unit, after=after):
                if done == after:
                    raise KeyboardInterrupt

            path, observers = tmp_path / str(after), [FunctionObserver(progress=stop)]
            with pytest.raises(KeyboardInterrupt):
                record(SPREAD, path, observers=observers, **settings)
            assert record(SPREAD, path, resume=True, **settings).id == whole.id
