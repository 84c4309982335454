"""``--track`` on every command that has it, and observers given in Python."""

import csv
import json

import pytest
from typer.testing import CliRunner

from kd_offline.cli.app import app
from kd_offline.distillation.distill import distill, metric_names
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.errors import ObserverWarning
from kd_offline.runs.folder import open_run
from kd_offline.testing.factories import tiny_dataset
from kd_offline.testing.observers import check_observer
from kd_offline.tracking import OBSERVERS, tracker
from kd_offline.tracking.base import FunctionObserver, Observer

QUICK = ["--epochs", "2", "--seeds", "2", "--hidden", "4", "--method", "kl", "--threads", "1"]


def kd(*words):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return tiny_dataset(tmp_path_factory.mktemp("tracking") / "d.zarr", 20).path


def test_a_distillation_tells_what_its_metrics_file_holds(dataset, tmp_path):
    log = tmp_path / "log.jsonl"
    done = kd("distill", dataset, "-o", tmp_path / "run", *QUICK, "--track", f"jsonl:{log}")
    assert done.stdout.strip() == str(tmp_path / "run")
    rows = open_run(tmp_path / "run").metrics()
    told = [
        {"operation": "distill run", "series": f"seed {row['seed']}", "step": row["epoch"]}
        | metric_names(row)
        for row in rows
    ]
    assert lines(log) == told
    assert {"train/loss", "train/kl", "validation/kl", "validation/agreement"} <= {
        name for row in told for name in row
    }


def test_recording_training_and_evaluation_are_tracked(tmp_path):
    log = tmp_path / "log.jsonl"
    track = ("--track", f"jsonl:{log}")
    kd("record", "mpe/simple_spread_v3", "-o", tmp_path / "d.zarr", "--episodes", 60, *track)
    (row,) = lines(log)
    assert row["step"] == 60
    assert row["record/length"] == 25
    assert -200 < row["record/return/team"] < 0
    kd("distill", tmp_path / "d.zarr", "-o", tmp_path / "run", *QUICK)
    kd("evaluate", tmp_path / "run", "--episodes", 10, "--modes", "greedy", *track)
    row = lines(log)[-1]
    report = open_run(tmp_path / "run").evaluation()
    assert row["operation"] == "evaluate run"
    assert row["evaluation/greedy/return/student"] == report.greedy.student.mean
    assert row["evaluation/flops/student"] == report.cost.student.flops
    small = ["--frames", "800", "--hidden", "4", "--score", "0", "--threads", "1"]
    small += ["--set", "episodes_per_batch=16"]
    kd("train", "mpe/simple_spread_v3", "-o", tmp_path / "expert", *small, *track)
    curve = lines(tmp_path / "expert" / "curve.jsonl")
    rows = lines(log)[2:]
    assert [row["step"] for row in rows] == [row["frames"] for row in curve]
    assert [row["train/return/team"] for row in rows] == [row["returns"]["team"] for row in curve]
    assert [row["train/iteration"] for row in rows] == [row["iteration"] for row in curve]


def test_a_tracker_that_does_not_exist_is_refused_before_anything_is_made(dataset, tmp_path):
    words = ["distill", str(dataset), "-o", str(tmp_path / "run"), "--track", "tensorbord"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert "error: unknown tracker 'tensorbord'" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_tracker_of_another_package_is_found_by_its_name(plugins, dataset, tmp_path):
    assert str(OBSERVERS.origin("table")) == "kd-offline-example-plugin 0.1.0"
    file = tmp_path / "run.csv"
    check_observer(lambda: tracker(f"table:{tmp_path / 'checked.csv'}"))
    kd("distill", dataset, "-o", tmp_path / "run", *QUICK, "--track", f"table:{file}")
    rows = list(csv.reader(file.read_text("utf-8").splitlines()))
    assert {row[1] for row in rows} == {"seed 0", "seed 1"}
    losses = [float(row[4]) for row in rows if row[3] == "train/loss"]
    metrics = open_run(tmp_path / "run").metrics()
    assert losses == [row["loss"] for row in metrics if row["split"] == "train"]


class Lost(Observer):
    """Loses its server in the second epoch."""

    def metrics(self, step, values, *, series=""):
        if step == 2:
            raise ConnectionError("server gone")


def test_a_run_goes_on_without_an_observer_that_fails(dataset, tmp_path):
    recipe = distill_recipe(
        method="kl",
        hidden=4,
        seeds=2,
        settings={"optimisation.epochs": 3, "optimisation.batch_episodes": 8},
    )
    told = []
    watching = FunctionObserver(end=lambda result, error: told.append(result.status))
    with pytest.warns(ObserverWarning, match=r"observer Lost failed in metrics: .*server gone"):
        done = distill(dataset, tmp_path / "a", recipe, observers=[Lost(), watching])
    assert told == [done.status] == ["complete"]
    alone = distill(dataset, tmp_path / "b", recipe)
    assert [r.digest for r in done.results] == [r.digest for r in alone.results]
    metrics = [(tmp_path / name / "metrics.jsonl").read_text() for name in "ab"]
    assert metrics[0] == metrics[1]
