"""Evaluations whose episodes are played side by side: the report of one process, bit by bit."""

import json

import pytest
import torch

from kd_offline.evaluation.evaluate import evaluate
from kd_offline.tracking.base import FunctionObserver
from tests.end_to_end.conftest import kd, refused

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


def test_mixed_teams_and_the_best_of_several_experts_are_the_same(kept):
    settings = {"episodes": 30, "batch": 7, "cross_play": True, "modes": ["greedy"]}
    experts = [str(kept.expert), "bundled"]
    evaluate(kept.run, expert=experts, **settings)
    alone, done = report(kept.run), []
    observer = FunctionObserver(progress=lambda *count: done.append(count))
    evaluate(kept.run, expert=experts, on="serial", observers=[observer], **settings)
    assert report(kept.run) == alone
    episodes = [(0, 30, "episodes"), *((k, 30, "episodes") for k in (7, 14, 21, 28, 30))]
    assert sorted(done) == sorted(2 * episodes)  # first the experts, then everybody


def test_what_a_worker_lacks_is_one_sentence(kept, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    plan = ["--expert", kept.expert, "--episodes", "10", "--accelerator", "cuda"]
    assert "'cuda' is not there" in refused("evaluate", kept.run, *plan, "--on", "serial", code=2)
    assert "is no place" in refused("evaluate", kept.run, *plan, "--on", "processes:x", code=2)
