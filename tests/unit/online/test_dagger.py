"""DAgger: students play, the expert labels, students learn from everything."""

import json
import shutil

import numpy as np
import pytest

from kd_offline.datasets import ExpertBuffer
from kd_offline.datasets.format.layout import ACTION_SOURCES
from kd_offline.distillation.distill import distill
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.errors import CheckpointError, StorageError, UsageError
from kd_offline.experts.load import load
from kd_offline.online.dagger import dagger
from kd_offline.recording.record import record
from kd_offline.recording.relabel import relabel
from kd_offline.runs.folder import digests, open_run, recipe_of
from kd_offline.sealed_json import write_document
from kd_offline.tracking.base import FunctionObserver
from tests.documents import check_document

SPREAD = "mpe/simple_spread_v3"
SMALL = {"rounds": 2, "episodes": 8, "evaluation_episodes": 8, "epochs": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("dagger")
    record(SPREAD, place / "data.zarr", episodes=16, threads=1, partner=None)
    recipe = distill_recipe(
        method="kl",
        mask="limited",
        hidden=8,
        seeds=2,
        settings={"optimisation.epochs": 2, "threads": 1},
    )
    distill(place / "data.zarr", place / "run", recipe)
    return place / "run"


@pytest.fixture(scope="module")
def loop(run, tmp_path_factory):
    """A finished loop and its report."""
    output = tmp_path_factory.mktemp("loops") / "loop"
    return output, dagger(run, output, **SMALL)


def test_episodes_are_played_by_the_students_and_labelled_by_the_expert(run, loop):
    output, report = loop
    recorded = ExpertBuffer.open(output / "round-1" / "students.zarr")
    assert recorded.id == report.rounds[0].recorded
    assert (recorded.read("steps/action_source") == ACTION_SOURCES["other"]).all()
    assert recorded.manifest.experts[0].digest == load("bundled", recorded.spec).digest
    assert relabel(recorded, 8).ok


def test_every_round_learns_from_all_episodes_so_far(run, loop):
    output, report = loop
    assert [one.episodes for one in report.rounds] == [24, 32]
    last = ExpertBuffer.open(output / "round-2" / "dataset.zarr")
    assert last.n_episodes == 32
    assert len(last.manifest.experts) == 1
    begun = ExpertBuffer.open(run.parent / "data.zarr")
    np.testing.assert_array_equal(last.episodes("seed")[:16], begun.episodes("seed"))
    assert len(set(last.episodes("seed").tolist())) == 32


def test_students_go_on_from_those_of_the_round_before(run, loop):
    output, report = loop
    first, second = (open_run(output / f"round-{k}" / "run").manifest() for k in (1, 2))
    assert recipe_of(first).start.digests == digests(open_run(run).manifest())
    assert recipe_of(second).start.digests == digests(first)
    assert report.rounds[1].students.digests == digests(second)
    assert second.seeds == (0, 1)
    assert recipe_of(second).optimisation.epochs == 1


def test_the_report_compares_every_round_with_the_first_students(loop):
    output, report = loop
    assert report.status == "complete"
    assert report.first.change is None
    for one in report.rounds:
        gained = one.students.greedy.student.mean - report.first.greedy.student.mean
        assert one.students.change.mean == pytest.approx(gained)
        assert one.students.change.low < gained < one.students.change.high
    document = json.loads((output / "dagger.json").read_text())
    check_document(document, "dagger")


@pytest.mark.parametrize("unit", ["episodes", "epochs", "rounds"])
def test_a_loop_that_was_interrupted_continues_to_the_same_students(run, loop, tmp_path, unit):
    stops = []

    def stop(done, total, of):
        stops.append(of)
        if of == unit and done and stops.count(unit) >= 3 - (unit == "rounds") * 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dagger(run, tmp_path / "loop", observers=[FunctionObserver(progress=stop)], **SMALL)
    report = dagger(run, tmp_path / "loop", resume=True, **SMALL)
    assert [r.students.digests for r in report.rounds] == [
        r.students.digests for r in loop[1].rounds
    ]
    assert [r.students.greedy for r in report.rounds] == [r.students.greedy for r in loop[1].rounds]


def test_more_rounds_continue_a_finished_loop(run, loop, tmp_path):
    one = dagger(run, tmp_path / "loop", **(SMALL | {"rounds": 1}))
    two = dagger(run, tmp_path / "loop", resume=True, **SMALL)
    assert two.rounds[0] == one.rounds[0]
    assert two.rounds[1].students.digests == loop[1].rounds[1].students.digests


def test_fewer_rounds_leave_those_that_are_finished(run, loop, tmp_path):
    output, report = loop
    shutil.copytree(output, tmp_path / "loop")
    again = dagger(run, tmp_path / "loop", resume=True, **(SMALL | {"rounds": 1}))
    assert again.rounds == report.rounds


def test_a_folder_with_something_in_it_is_left_alone(run, loop, tmp_path):
    output, _ = loop
    with pytest.raises(StorageError, match="already exists"):
        dagger(run, output, **SMALL)
    with pytest.raises(StorageError, match="begun with another seed"):
        dagger(run, output, resume=True, seed=1, **SMALL)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"holds no dagger\.json"):
        dagger(run, tmp_path / "other", resume=True, **SMALL)
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["notes.txt"]


def test_a_report_that_was_altered_is_refused(run, loop, tmp_path):
    output, _ = loop
    (tmp_path / "loop").mkdir()
    text = (output / "dagger.json").read_text()
    (tmp_path / "loop" / "dagger.json").write_text(text.replace('"number": 1', '"number": 2'))
    with pytest.raises(CheckpointError, match=r"dagger\.json"):
        dagger(run, tmp_path / "loop", resume=True, **SMALL)


def test_nothing_is_made_where_the_expert_or_the_run_cannot_be_used(run, tmp_path):
    with pytest.raises(CheckpointError, match="recorded"):
        dagger(run, tmp_path / "loop", expert="bundled:mlp", **SMALL)
    with pytest.raises(UsageError, match="give 1 or more"):
        dagger(run, tmp_path / "loop", rounds=0)
    with pytest.raises(UsageError, match="is not a run"):
        dagger(tmp_path, tmp_path / "loop")
    assert not any(tmp_path.iterdir()) or not any((tmp_path / "loop").iterdir())


def test_a_run_does_not_choose_whose_code_runs(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    manifest = open_run(run).manifest()
    hostile = manifest.model_copy(update={"expert_reference": "python:os:system"})
    write_document(tmp_path / "run" / "run.json", hostile)
    data = run.parent / "data.zarr"
    with pytest.raises(UsageError, match="may not load by itself"):
        dagger(tmp_path / "run", tmp_path / "loop", dataset=data, **SMALL)
