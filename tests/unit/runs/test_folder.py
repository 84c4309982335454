import json
from pathlib import Path

import jsonschema
import pytest

from kd_offline.errors import CheckpointError, FormatVersionError, StorageError, UsageError
from kd_offline.runs.folder import RunFolder, create_run, digests, open_run, recipe_of
from kd_offline.schemas.evaluation import Estimate
from kd_offline.schemas.quantisation import QuantisationReport
from kd_offline.schemas.run import RunManifest
from kd_offline.sealed_json import seal
from kd_offline.testing.reports import evaluation_report, run_manifest


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return create_run(tmp_path / "run", run_manifest())


def test_a_manifest_comes_back_as_it_was_written(run):
    assert open_run(run.path).manifest() == run_manifest()
    changed = run_manifest().model_copy(update={"status": "interrupted"})
    run.write_manifest(changed)
    assert run.manifest() == changed
    assert sorted(p.name for p in run.path.iterdir()) == ["run.json"]


def test_run_json_fits_its_schema(run):
    written = json.loads((run.path / "run.json").read_text())
    jsonschema.validate(written, RunManifest.model_json_schema(mode="serialization"))


def test_an_existing_run_is_kept_unless_overwriting_is_asked_for(run):
    run.append_metrics([{"seed": 0}])
    with pytest.raises(StorageError, match="already exists: give another path"):
        create_run(run.path, run_manifest())
    assert run.metrics() == [{"seed": 0}]
    assert create_run(run.path, run_manifest(), overwrite=True).metrics() == []


def test_overwriting_never_removes_a_folder_that_is_no_run(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StorageError, match="is not a run"):
        create_run(tmp_path, run_manifest(), overwrite=True)
    assert (tmp_path / "thesis.tex").exists()


def test_an_empty_folder_may_become_a_run(tmp_path):
    assert create_run(tmp_path, run_manifest()).manifest().status == "complete"


def test_metrics_survive_a_torn_last_line(run):
    run.append_metrics([{"seed": 0, "epoch": 1, "kl": 0.5}, {"seed": 0, "epoch": 2, "kl": 0.4}])
    file = run.path / "metrics.jsonl"
    file.write_text(file.read_text() + '{"seed": 0, "epoch": 3, "k')
    assert [row["epoch"] for row in run.metrics()] == [1, 2]
    run.resume_metrics(lambda row: row["epoch"] < 2)
    run.append_metrics([{"seed": 0, "epoch": 2, "kl": 0.41}])
    assert [row["kl"] for row in run.metrics()] == [0.5, 0.41]


def test_numbers_that_json_lacks_become_null(run):
    run.append_metrics([{"seed": 0, "kl": float("nan"), "loss": float("inf"), "lr": 0.1}])
    assert run.metrics() == [{"seed": 0, "kl": None, "loss": None, "lr": 0.1}]


def test_a_comparison_of_precisions_is_of_the_runs_own_students(run):
    manifest, number = run_manifest(), Estimate(mean=1.0, low=0.0, high=2.0)
    own = QuantisationReport(
        **{name: getattr(manifest, name) for name in ("environment", "method", "mask")},
        run=str(run.path),
        dataset=manifest.dataset.id,
        distillation_seeds=manifest.seeds,
        students=digests(manifest),
        episodes=1,
        evaluation_seed=0,
        expert=number,
        random=number,
        rows=(),
        intervals="none",
        command="kd-offline bench quantisation run",
        seconds=0.0,
    )
    assert run.quantisation() is None
    run.write_quantisation(own)
    assert run.quantisation() == own
    others = [dict.fromkeys(own.students, "sha256:" + "1" * 64), {}]
    for students in others:
        run.write_quantisation(own.model_copy(update={"students": students}))
        with pytest.raises(CheckpointError, match="of other students than those of its run"):
            run.quantisation()


@pytest.mark.parametrize("recipe", [{"mood": 1}, {"weights": {"kl": "much"}}, {"student": []}])
def test_a_recipe_that_is_none_is_an_error_of_ours(recipe):
    assert recipe_of(run_manifest()).mask == "limited"
    with pytest.raises(UsageError, match="the run's recipe"):
        recipe_of(run_manifest().model_copy(update={"recipe": recipe}))


def test_an_evaluation_comes_back_as_it_was_written(run):
    assert run.evaluation() is None
    run.write_evaluation(evaluation_report(sides=True))
    assert run.evaluation() == evaluation_report(sides=True)


def test_a_damaged_file_is_named_with_what_is_wrong(run):
    document = json.loads((run.path / "run.json").read_text())
    document["seeds"] = "five"
    del document["digest"]
    (run.path / "run.json").write_bytes(seal(document, "digest"))
    with pytest.raises(CheckpointError, match=r"run\.json' is damaged: seeds: "):
        run.manifest()
    (run.path / "run.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"run\.json\' is damaged"):
        run.manifest()


def test_a_newer_run_is_refused_as_such(run):
    document = json.loads((run.path / "run.json").read_text()) | {"version": [2, 0], "new": 1}
    (run.path / "run.json").write_text(json.dumps(document))
    with pytest.raises(FormatVersionError, match=r"has format 2\.0, .* reads up to 1\.\d"):
        run.manifest()


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"holds no run\.json"):
        open_run(tmp_path)
