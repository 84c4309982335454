"""An algorithm of another package, installed by pip: training, resuming, recording, refusals."""

import json
import re
import sys
from pathlib import Path

import pytest

from kd_offline import environments, record
from kd_offline.errors import CheckpointError, MismatchError, UserCodeError
from kd_offline.experts import checkpoint
from kd_offline.experts.algorithms import ALGORITHMS
from kd_offline.experts.load import load
from kd_offline.experts.recipe import train_recipe
from kd_offline.experts.train import train
from kd_offline.testing.algorithms import check_algorithm
from kd_offline.tracking.base import FunctionObserver

ROOT = Path(__file__).parents[2]
SPREAD, NAME = "mpe/simple_spread_v3", "baseline"
SMALL = {"frames": 4 * 8 * 25, "episodes_per_batch": 8, "architecture.trunk": (8,)}


def recipe(**settings):
    return train_recipe(SPREAD, algorithm=NAME, settings=SMALL | settings)


def lines(folder):
    return (folder / checkpoint.CURVE).read_text("utf-8").splitlines()


def stopping(iteration):
    def stop(step, values, series):
        if values["train/iteration"] == iteration:
            raise KeyboardInterrupt

    return [FunctionObserver(metrics=stop)]


def test_it_keeps_the_protocol_and_the_page_shows_its_file(plugins):
    check_algorithm(NAME)
    page = (ROOT / "docs" / "guide" / "extending.md").read_text("utf-8")
    source = ROOT / "tests" / "plugins"
    shown = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert (source / "kd_offline_example_plugin" / f"{NAME}.py").read_text("utf-8") in shown
    exec(compile(next(x for x in shown if "check_algorithm" in x), "extending.md", "exec"), {})


def test_two_networks_and_two_optimisers_go_on_to_the_same_bits(plugins, tmp_path):
    train(recipe(), tmp_path / "whole", threads=1, score_episodes=0)
    with pytest.raises(KeyboardInterrupt):
        train(recipe(), tmp_path / "cut", threads=1, observers=stopping(3), score_episodes=0)
    assert not checkpoint.read_card(tmp_path / "cut").finished
    card = train(recipe(), tmp_path / "cut", threads=1, resume=True, score_episodes=0)
    assert checkpoint.digest(tmp_path / "cut") == checkpoint.digest(tmp_path / "whole")
    rows = [
        [json.loads(x) | {"seconds": 0} for x in lines(tmp_path / name)]
        for name in ("whole", "cut")
    ]
    assert rows[0] == rows[1]  # the best return so far is part of the state
    assert {"baseline_loss", "best_return"} <= rows[0][0].keys()
    (part,) = card.parts
    assert (part.kind, part.package) == ("algorithm", "kd-offline-example-plugin")


def test_its_expert_is_recorded_counted_and_named(plugins, tmp_path):
    train(recipe(), tmp_path / "expert", threads=1, score_episodes=0)
    manifest = record(SPREAD, tmp_path / "d.zarr", expert=tmp_path / "expert", episodes=4)
    assert manifest.experts[0].kind == NAME
    origin = ALGORITHMS.origin(NAME)
    assert not origin.ours
    assert manifest.experts[0].architecture["algorithm_package"] == str(origin)
    assert {"steps/logits", "steps/value", "steps/embedding"} <= set(manifest.arrays)
    expert = load(tmp_path / "expert", environments.load(SPREAD).spec)
    assert len(expert.actor_shapes()) == 3
    assert sum(p.cost.parameters for p in expert.value_parts()) == 16 * (54 + 1) + 17


def test_another_version_is_refused_in_one_sentence(plugins, tmp_path, other_version):
    with pytest.raises(KeyboardInterrupt):
        train(recipe(), tmp_path / "cut", threads=1, observers=stopping(2), score_episodes=0)
    train(recipe(), tmp_path / "whole", threads=1, score_episodes=0)
    kept = {file.name: file.read_bytes() for file in (tmp_path / "cut").iterdir()}
    other_version()
    words = (
        rf"with the algorithm '{NAME}' of kd-offline-example-plugin 0\.1\.0, and "
        r"kd-offline-example-plugin 0\.2\.0 is installed: install that version"
    )
    with pytest.raises(MismatchError, match=rf"the training in '.*cut' was made {words}"):
        train(recipe(), tmp_path / "cut", threads=1, resume=True, score_episodes=0)
    assert {file.name: file.read_bytes() for file in (tmp_path / "cut").iterdir()} == kept
    for place in ("cut", "whole"):
        with pytest.raises(MismatchError, match=rf"the expert in '.*{place}' was made {words}"):
            record(SPREAD, tmp_path / "d.zarr", expert=tmp_path / place, episodes=4)


def test_where_it_is_not_installed_its_package_is_named(plugins, tmp_path, monkeypatch):
    train(recipe(), tmp_path / "expert", threads=1, score_episodes=0)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(plugins)])
    words = r"unknown algorithm 'baseline'.*'kd-offline-example-plugin 0\.1\.0': install that one"
    with pytest.raises(CheckpointError, match=words):
        load(tmp_path / "expert", environments.load(SPREAD).spec)


def test_what_fails_in_it_names_the_package_and_the_call(plugins, tmp_path, monkeypatch):
    algorithm = ALGORITHMS.load(NAME)

    def broken(*given):
        raise StopIteration("a fault")

    monkeypatch.setattr(sys.modules[type(algorithm).__module__].Learner, "learn", broken)
    words = (
        rf"the algorithm '{NAME}' of kd-offline-example-plugin 0\.1\.0 failed in learn "
        r"\(iteration 1\): StopIteration: a fault"
    )
    with pytest.raises(UserCodeError, match=words):
        train(recipe(), tmp_path / "expert", threads=1, score_episodes=0)
