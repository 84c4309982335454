"""Seeds that are distilled side by side: the run is that of one process, bit by bit."""

from typing import Any

import pytest

from kd_offline.distillation.auxiliary_heads import AUXILIARY
from kd_offline.distillation.distill import distill
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.errors import StorageError, UsageError
from kd_offline.runs.complete import complete_run
from kd_offline.runs.folder import METRICS, STUDENTS
from kd_offline.testing.factories import environment_spec, tiny_dataset
from kd_offline.tracking.base import FunctionObserver

QUICK = {"optimisation.epochs": 2, "student.hidden": 6, "threads": 1}
GATES = {"budget.max_macs": 900, "budget.allocate": "gates", "optimisation.epochs": 4}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("by-seed") / "d.zarr"
    return str(tiny_dataset(path, 12, spec=environment_spec((4, 4))).path)


def recipe(**settings):
    return distill_recipe(method="kl", seeds=(4, 1), settings=QUICK | settings)


def files(run):
    """Return what a run holds but for times: its files, and run.json."""
    names = [name for name in (STUDENTS, METRICS, AUXILIARY) if (run / name).exists()]
    manifest = complete_run(run).manifest.model_dump(mode="json")
    del manifest["timing"], manifest["command"]
    for result in manifest["results"]:
        del result["seconds"]
    return {name: (run / name).read_bytes() for name in names} | {"run.json": manifest}


@pytest.mark.parametrize(
    ("place", "settings"),
    [
        ("processes:2", {}),
        ("serial", GATES),
    ],
    ids=["processes", "unit gates"],
)
def test_seeds_side_by_side_make_the_run_of_one_process(dataset, tmp_path, place, settings):
    told = {}
    for name, on in (("alone", None), ("apart", place)):
        rows: list[Any] = []
        done: list[Any] = []
        observer = FunctionObserver(
            metrics=lambda *row, series="", rows=rows: rows.append((*row, series)),
            progress=lambda *count, done=done: done.append(count),
        )
        distill(dataset, tmp_path / name, recipe(**settings), on=on, observers=[observer])
        told[name] = rows
        assert done[-1][:1] == done[-1][1:2]
    assert files(tmp_path / "apart") == files(tmp_path / "alone")
    assert repr(told["apart"]) == repr(told["alone"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "apart"]


def test_finished_seeds_are_kept_and_the_rest_is_done_by_the_next_command(dataset, tmp_path):
    run = tmp_path / "run"

    def interrupt(number, values, series):
        if series == "seed 4" and number == 2:
            raise KeyboardInterrupt

    stopping = FunctionObserver(metrics=interrupt)
    with pytest.raises(KeyboardInterrupt):
        distill(dataset, run, recipe(), on="serial", observers=[stopping])
    first = tmp_path / "run.seeds" / "seed-4" / STUDENTS
    before = first.stat().st_mtime_ns
    with pytest.raises(StorageError, match=r"seeds of an unfinished distillation at .*resume=True"):
        distill(dataset, run, recipe(), on="serial")
    with pytest.raises(StorageError, match=r"seeds of an unfinished .* continue it with on="):
        distill(dataset, run, recipe(), resume=True)
    assert first.stat().st_mtime_ns == before
    made = distill(dataset, run, recipe(), on="serial", resume=True)
    distill(dataset, tmp_path / "alone", recipe())
    assert files(run) == files(tmp_path / "alone")
    assert not (tmp_path / "run.seeds").exists()
    assert distill(dataset, run, recipe(), on="serial", resume=True) == made


def test_a_run_is_replaced_side_by_side_also_by_the_command_after_an_interruption(
    dataset, tmp_path, monkeypatch
):
    def killed(*_):
        raise KeyboardInterrupt

    run, seeds, other = tmp_path / "run", tmp_path / "run.seeds", recipe(**{"student.hidden": 5})
    distill(dataset, run, recipe())
    with monkeypatch.context() as patched:
        patched.setattr("kd_offline.distillation.distill._put_together", killed)
        with pytest.raises(KeyboardInterrupt):
            distill(dataset, run, other, on="serial", overwrite=True)
    with monkeypatch.context() as patched:  # killed between the run and the removal of its parts
        patched.setattr("kd_offline.execution.parts.remove_tree", killed)
        with pytest.raises(KeyboardInterrupt):
            distill(dataset, run, other, on="serial", resume=True)
    assert seeds.exists()
    made = distill(dataset, run, other, on="serial", resume=True)
    assert made.recipe == other.model_dump(mode="json")
    assert not seeds.exists()


def test_what_cannot_be_divided_is_refused_before_anything_is_made(dataset, tmp_path):
    with pytest.raises(UsageError, match="seeds that are computed at once are one task"):
        distill(dataset, tmp_path / "run", recipe(batched_seeds=True), on="serial")
    with pytest.raises(UsageError, match="no place: give processes:4"):
        distill(dataset, tmp_path / "run", recipe(), on="processes:x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("")
    with pytest.raises(StorageError, match="already exists"):
        distill(dataset, tmp_path / "full", recipe(), on="serial")
    with pytest.raises(StorageError, match="is not a run"):
        distill(dataset, tmp_path / "full", recipe(), on="serial", resume=True)
    assert not (tmp_path / "full.seeds").exists()
