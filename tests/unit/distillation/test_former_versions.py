"""Runs that were begun or finished before settings of loss terms had places of their own."""

import json

import pytest

from kd_offline.distillation import distill as module
from kd_offline.distillation.distill import distill
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.distillation.rerun import rerun
from kd_offline.errors import StorageError
from kd_offline.runs.folder import open_run
from kd_offline.schemas.recipes import FORMER_SWITCHES
from kd_offline.testing.factories import tiny_dataset
from kd_offline.tracking.base import FunctionObserver
from tests.sealing import resealed

SETTINGS: dict[str, object] = {
    "optimisation.epochs": 3,
    "optimisation.batch_episodes": 4,
    "student.hidden": 4,
}
SETTINGS |= {"weights.policy": 0, "terms.kl.temperature": 3.0, "terms.role.roles": 3}


def recipe(**settings):
    return distill_recipe(settings=SETTINGS | settings)


def as_before(recipe):
    """Return a recipe as run.json stated it until version 1.2."""
    switches = {}
    for name, place in FORMER_SWITCHES.items():
        value = recipe
        for step in place.split("."):
            value = value[step]
        switches[name] = value
    kept = {name: value for name, value in recipe.items() if name not in ("terms", "objective")}
    return kept | {"switches": switches | {"policy_term": "none"}}


@pytest.fixture
def dataset(tmp_path):
    tiny_dataset(tmp_path / "d.zarr", 10)
    return tmp_path / "d.zarr"


@pytest.fixture
def run(dataset, tmp_path):
    """A complete run as version 1.2 left it."""
    distill(dataset, tmp_path / "run", recipe())
    file = tmp_path / "run" / "run.json"
    document = json.loads(file.read_text("utf-8"))
    assert document["recipe"]["terms"]["kl"]["temperature"] == 3.0
    resealed(file, version=[1, 2], recipe=as_before(document["recipe"]))
    return tmp_path / "run"


def test_its_recipe_is_read_repeated_and_known_as_the_same(run, dataset):
    assert distill_recipe(file=run / "run.json") == recipe()
    assert rerun(run).identical
    assert distill(dataset, run, recipe(), resume=True).status == "complete"
    with pytest.raises(StorageError, match="begun with another recipe"):
        distill(dataset, run, recipe(**{"terms.kl.temperature": 2.0}), resume=True)


@pytest.mark.parametrize(
    ("seeds", "saved"), [(None, [1, 1]), ((0, 1), [1, 4]), ((0,), [1, 4])], ids=str
)
def test_a_seed_whose_state_another_version_saved_begins_again(
    dataset, tmp_path, monkeypatch, caplog, seeds, saved
):
    chosen = recipe(batched_seeds=True, seeds=seeds) if seeds else recipe()
    whole = distill(dataset, tmp_path / "whole", chosen)
    monkeypatch.setattr(module, "SAVE_EVERY_S", -1.0)

    def stop(step, values, series):
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(dataset, tmp_path / "cut", chosen, observers=[FunctionObserver(metrics=stop)])
    resealed(tmp_path / "cut" / "resume" / "state.json", version=saved)
    done = distill(dataset, tmp_path / "cut", chosen, resume=True)
    assert "seed 0 begins again: another version saved its state" in caplog.text
    assert [r.digest for r in done.results] == [r.digest for r in whole.results]
    assert open_run(tmp_path / "cut").metrics() == open_run(tmp_path / "whole").metrics()
