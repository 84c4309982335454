"""An export plays in place of its run's students, through the same loop."""

import json

import numpy as np
import pytest

from kd_offline.datasets import ExpertBuffer
from kd_offline.errors import CheckpointError, MismatchError, UsageError
from kd_offline.evaluation.evaluate import evaluate
from kd_offline.evaluation.exported import check_origin
from kd_offline.experts import checkpoint
from kd_offline.exports.engines import read_manifest
from kd_offline.exports.export import export
from kd_offline.runs.folder import RunFolder, create_run
from kd_offline.schemas.recipes import StudentArchitecture
from kd_offline.schemas.run import DatasetReference, SeedResult
from kd_offline.schemas.student import StudentCard
from kd_offline.students import policy as students
from kd_offline.testing.factories import tiny_dataset
from kd_offline.testing.reports import run_manifest
from tests.documents import check_document
from tests.unit.evaluation.test_evaluation_setup import MASK, SPEC, expert, rows

PLAYED = {"episodes": 30, "modes": ["greedy"]}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An expert, a recording under the mask, a run of two random teams and an export of one."""
    place = tmp_path_factory.mktemp("exported")
    teacher = expert(place / "expert")
    seen = np.array(rows(MASK))
    buffer = tiny_dataset(place / "d.zarr", 40, [25] * 40, spec=SPEC, masks={"limited": seen})
    card = StudentCard(
        environment=SPEC,
        architecture=StudentArchitecture(depth=1),
        widths=(8, 6, 4),
        mask="limited",
        mask_features=rows(MASK),
        mask_as_input=False,
        motion=True,
        last_action=True,
        method="kd-marl",
        dataset=buffer.id,
        seeds=(3, 4),
    )
    teams = [students.build(card, np.random.default_rng(seed)) for seed in card.seeds]
    run = create_run(place / "run", manifest(buffer, teacher, teams))
    students.save(run.students, card, teams)
    export(run.path, place / "out", to="torch", seed=4, precision="int8", least_agreement=0.5)
    return place


def manifest(buffer: ExpertBuffer, teacher, teams):
    results = tuple(
        SeedResult(seed=seed, digest=students.digest(made), updates=1, seconds=0.0)
        for seed, made in zip((3, 4), teams, strict=True)
    )
    reference = DatasetReference(id=buffer.id, name="tiny", path=str(buffer.path))
    update = {"dataset": reference, "results": results, "expert_reference": "trained"}
    update |= {"expert": checkpoint.digest(teacher), "environment_kwargs": SPEC.kwargs}
    return run_manifest(seeds=(3, 4)).model_copy(update=update)


def test_the_export_is_judged_by_return(place):
    given = {"expert": place / "expert"} | PLAYED
    both = evaluate(place / "run", **given)
    before = (place / "run" / "evaluation.json").read_bytes()
    report = evaluate(place / "run", export=place / "out", **given)
    assert (place / "run" / "evaluation.json").read_bytes() == before
    written = json.loads((place / "out" / "evaluation.json").read_text())
    check_document(written, "evaluation")
    assert report.export == written["export"] == "int8 in numpy"
    assert report.distillation_seeds == (4,)
    assert both.export is None
    assert report.greedy.expert == both.greedy.expert
    assert report.greedy.student.mean == pytest.approx(both.greedy.seeds[1].mean, rel=0.2)
    assert "--export" in report.command


def test_the_engine_is_chosen(place):
    given = {"expert": place / "expert", "export": place / "out"} | PLAYED
    assert evaluate(place / "run", engine="torch", **given).export == "int8 in torch"
    with pytest.raises(UsageError, match="reads the format 'onnx'"):
        evaluate(place / "run", engine="onnx", **given)
    with pytest.raises(UsageError, match="none is given: pass export with one"):
        evaluate(place / "run", engine="onnx", expert=place / "expert", **PLAYED)


def test_an_export_of_another_run_is_refused(place, tmp_path):
    other = place / "run" / "run.json"
    changed = tmp_path / "run"
    changed.mkdir()
    (changed / "students.safetensors").write_bytes(
        (place / "run" / "students.safetensors").read_bytes()
    )
    before = RunFolder(place / "run").manifest()
    results = tuple(r.model_copy(update={"digest": "sha256:" + "0" * 64}) for r in before.results)
    RunFolder(changed).write_manifest(before.model_copy(update={"results": results}))
    with pytest.raises(CheckpointError, match="not the ones"):
        evaluate(changed, expert=place / "expert", export=place / "out", **PLAYED)
    with pytest.raises(MismatchError, match="give the run that it was made from"):
        check_origin(read_manifest(place / "out"), place / "out", RunFolder(changed).manifest())
    with pytest.raises(CheckpointError, match="not the ones"):
        export(changed, tmp_path / "out", to="torch")
    assert other.is_file()
