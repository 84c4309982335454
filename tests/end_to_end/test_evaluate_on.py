"""Evaluations whose episodes are played side by side: the report of one process, bit by bit."""

import json

import pytest
import torch

from kd_offline.distillation.distill import distill
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.evaluation.evaluate import evaluate
from kd_offline.recording.record import record
from kd_offline.robustness.audit import audit
from kd_offline.tracking.base import FunctionObserver
from tests.end_to_end.conftest import SPREAD, kd, refused

OF_TIME = ("command", "seconds", "digest")


def report(path):
    written = json.loads((path / "evaluation.json").read_text())
    return {name: value for name, value in written.items() if name not in OF_TIME}


@pytest.fixture
def kept(made):
    """Leave the evaluation of the run as it was."""
    file = made.run / "evaluation.json"
    before = file.read_bytes() if file.exists() else None
    yield made
    file.unlink(missing_ok=True) if before is None else file.write_bytes(before)


def test_episodes_played_by_processes_give_the_same_report(kept):
    plan = ["--expert", kept.expert, "--episodes", "50", "--batch", "20", "--modes", "greedy"]
    kd("evaluate", kept.run, *plan, "--threads", "1")
    alone = report(kept.run)
    kd("evaluate", kept.run, *plan, "--threads", "1", "--on", "processes:2")
    assert report(kept.run) == alone
    assert not kept.run.with_name(f"{kept.run.name}.evaluation").exists()


def test_audits_played_by_processes_give_the_same_report(short):
    settings = {"episodes": 4, "batch": 2, "perturbations": ["noise:0.3"]}
    same = {"seconds"}
    alone = audit(short, **settings).model_dump(exclude=same)
    assert audit(short, on="processes:2", **settings).model_dump(exclude=same) == alone
    assert alone["errors"] is not None
    assert not short.with_name(f"{short.name}.audit").exists()


@pytest.fixture
def short(tmp_path):
    """Return a run of two seeds whose episodes are short."""
    limit = {"episode_limit": 5}
    record(SPREAD, tmp_path / "d.zarr", episodes=40, threads=1, environment_kwargs=limit)
    small = {"optimisation.epochs": 1, "threads": 1}
    recipe = distill_recipe(method="kl", mask="limited", hidden=8, seeds=2, settings=small)
    distill(tmp_path / "d.zarr", tmp_path / "run", recipe)
    return tmp_path / "run"


def test_mixed_teams_and_the_best_of_several_experts_are_the_same(short):
    settings = {"episodes": 8, "batch": 3, "cross_play": True, "modes": ["greedy"]}
    experts = ["bundled:mlp", "bundled"]
    evaluate(short, expert=experts, **settings)
    alone, done = report(short), []
    observer = FunctionObserver(progress=lambda *count: done.append(count))
    evaluate(short, expert=experts, on="serial", observers=[observer], **settings)
    assert report(short) == alone
    episodes = [(k, 8, "episodes") for k in (0, 3, 6, 8)]
    assert sorted(done) == sorted(2 * episodes)  # first the experts, then everybody


def test_what_a_worker_lacks_is_one_sentence(kept, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    plan = ["--expert", kept.expert, "--episodes", "10", "--accelerator", "cuda"]
    assert "'cuda' is not there" in refused("evaluate", kept.run, *plan, "--on", "serial", code=2)
    assert "is no place" in refused("evaluate", kept.run, *plan, "--on", "processes:x", code=2)
