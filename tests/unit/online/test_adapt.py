"""Students that go on with another task, and what they forget of the former one."""

import json

import pytest

from kd_offline.distillation.distill import distill
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.errors import CheckpointError, MismatchError
from kd_offline.online.adapt import adapt
from kd_offline.online.task import Allowed
from kd_offline.recording.record import record
from kd_offline.runs.folder import digests, open_run, recipe_of
from tests.documents import check_document

SPREAD = "mpe/simple_spread_v3"
QUICK = {"optimisation.epochs": 1, "threads": 1}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run, its dataset, and a dataset of shorter episodes."""
    folder = tmp_path_factory.mktemp("adapt")
    record(SPREAD, folder / "data.zarr", episodes=16, threads=1, partner=None)
    short = {"episode_limit": 10}
    record(
        *(SPREAD, folder / "short.zarr"),
        episodes=16,
        threads=1,
        partner=None,
        environment_kwargs=short,
    )
    recipe = distill_recipe(method="kl", mask="limited", hidden=8, seeds=2, settings=QUICK)
    distill(folder / "data.zarr", folder / "run", recipe)
    return folder


@pytest.fixture(scope="module")
def adapted(place):
    output = place / "adapted"
    return output, adapt(place / "run", place / "short.zarr", output, settings=QUICK, episodes=8)


def test_both_are_played_on_both_tasks(place, adapted):
    output, report = adapted
    assert report.former.environment_kwargs.get("episode_limit", 25) == 25
    assert report.new.environment_kwargs["episode_limit"] == 10
    began, after = digests(open_run(place / "run").manifest()), digests(open_run(output).manifest())
    for task in (report.former, report.new):
        assert task.before.digests == began
        assert task.after.digests == after
        difference = task.after.greedy.student.mean - task.before.greedy.student.mean
        assert task.after.change.mean == pytest.approx(difference)
        assert task.before.change is None
    assert report.new.before.greedy.length["student"] == 10


def test_the_students_go_on_from_those_of_the_run(place, adapted):
    output, _ = adapted
    stated = recipe_of(open_run(output).manifest()).start
    assert stated.digests == digests(open_run(place / "run").manifest())
    document = json.loads((output / "adaptation.json").read_text())
    check_document(document, "adaptation")


def test_another_mask_is_a_task_too(place, tmp_path):
    report = adapt(
        *(place / "run", place / "data.zarr", tmp_path / "paper"),
        mask="paper",
        settings=QUICK,
        episodes=8,
    )
    assert open_run(tmp_path / "paper").manifest().mask == "paper"
    assert report.former.before == report.new.before.model_copy(
        update={"change": report.former.before.change}
    )


def test_other_agents_are_refused_and_nothing_is_made(place, tmp_path):
    task = "mpe/simple_speaker_listener_v4"
    record(task, tmp_path / "other.zarr", episodes=4, threads=1, partner=None)
    with pytest.raises(MismatchError, match="start from students of such a task"):
        adapt(place / "run", tmp_path / "other.zarr", tmp_path / "out", settings=QUICK)
    assert not (tmp_path / "out").exists()


def test_a_former_task_that_cannot_be_played_is_refused_before_anything_is_learned(place, tmp_path):
    with pytest.raises(CheckpointError, match="recorded"):
        adapt(
            *(place / "run", place / "short.zarr", tmp_path / "out"),
            settings=QUICK,
            former=Allowed(expert="bundled:mlp"),
        )
    assert not (tmp_path / "out").exists()
