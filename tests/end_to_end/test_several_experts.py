"""Several experts end to end: recorded, merged, inspected, distilled from, evaluated against."""

import json

import pytest

from kd_offline.datasets import ExpertBuffer
from kd_offline.recording import record as recording
from tests.end_to_end.conftest import DISTILL, RECORD, kd, kd_json, refused
from tests.unit.evaluation.test_evaluation_setup import expert


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Recordings of two untrained experts of one architecture, and both as one dataset."""
    root = tmp_path_factory.mktemp("several")
    parts = []
    for seed, name in enumerate(("one", "two")):
        expert(root / name, seed=seed)
        parts.append(root / f"{name}.zarr")
        own = ["--expert", root / name, "--seed", seed, "--partner", "none"]
        kd(*RECORD, *own, "--episodes", 40, "-o", parts[-1])
    kd("merge", *parts, "-o", root / "both.zarr")
    return root


def test_a_merge_describes_every_expert(place):
    both = ExpertBuffer.open(place / "both.zarr")
    own = [ExpertBuffer.open(place / f"{name}.zarr").manifest.experts[0] for name in ("one", "two")]
    assert [each.digest for each in both.manifest.experts] == [each.digest for each in own]
    assert [each.id for each in both.manifest.experts] == [0, 1]
    assert both.episodes("expert_id").tolist() == [0] * 40 + [1] * 40


def test_inspect_shows_how_far_apart_they_are(place):
    (found,) = kd_json("inspect", place / "both.zarr")["conflicts"]
    assert found["experts"] == [0, 1]
    assert found["kl"] > 0
    assert (
        f"experts 0 and 1: KL {found['kl']:.3f} nats" in kd("inspect", place / "both.zarr").stdout
    )


@pytest.mark.parametrize("rule", ["own", "validation", "value"])
def test_students_of_both_are_evaluated_against_each(place, rule):
    run, both = place / rule, place / "both.zarr"
    rules = ["--set", f"terms.teachers.rule={rule}"]
    kd("distill", both, "-o", run, "--method", "multi-teacher", *rules, *DISTILL[:-2])
    stated = refused("evaluate", run, "--episodes", 8, code=2)
    assert "pass --expert with" in stated
    named = ["--expert", place / "one", "--expert", place / "two"]
    greedy = kd_json("evaluate", run, "--episodes", 8, *named)["greedy"]
    ((name, beside),) = greedy["experts"].items()
    best = json.loads((run / "evaluation.json").read_text())["expert"]
    assert {name.split()[0], best.split()[0]} == {"one", "two"}
    assert greedy["expert"]["mean"] >= beside["expert"]["mean"]
    gap = greedy["student"]["mean"] - beside["expert"]["mean"]
    assert beside["difference"]["mean"] == pytest.approx(gap)
    shown = kd("evaluate", run, "--episodes", 8, *named).stdout
    assert f"another expert, {name}" in shown


def test_one_recording_of_both_is_the_merge_of_their_recordings(place, tmp_path):
    command = [*RECORD, "--expert", place / "one", "--expert", place / "two", "--partner", "none"]
    command += ["--episodes", 80, "-o", tmp_path / "both.zarr"]
    merged = ExpertBuffer.open(place / "both.zarr").manifest
    assert kd_json(*command)["id"] == merged.id
    assert not list(tmp_path.glob("*.parts"))
    assert kd_json(*command, "--resume")["id"] == merged.id
    assert "seed" in refused(*command, "--resume", "--seed", 5, code=2)
    alone = [*RECORD, "--expert", place / "one", "--partner", "none", *command[-4:]]
    assert "experts" in refused(*alone, "--resume", code=2)


def test_an_interrupted_recording_of_both_is_continued(place, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    command = [*RECORD, "--expert", place / "one", "--expert", place / "two", "--partner", "none"]
    command += ["--episodes", 80, "-o", tmp_path / "both.zarr"]
    with monkeypatch.context() as interrupted:
        interrupted.setattr(recording, "merge", stopped)
        assert "--resume" in kd(*command, code=1).stderr
    first = ExpertBuffer.open(tmp_path / "both.zarr.parts" / "1.zarr").manifest
    assert first.statistics.episodes == 40
    merged = ExpertBuffer.open(place / "both.zarr").manifest
    assert kd_json(*command, "--resume")["id"] == merged.id


def test_arrays_that_experts_do_not_give_in_one_form_are_left_out_and_named(place, tmp_path):
    command = [*RECORD, "--expert", place / "one", "--expert", "bundled", "--partner", "none"]
    said = kd(*command, "--episodes", 8, "-o", tmp_path / "both.zarr").stderr
    assert "left out steps/embedding: not every expert gives it, or not in one form" in said
    stored = ExpertBuffer.open(tmp_path / "both.zarr")
    assert not stored.has("steps/embedding")
    assert stored.has("steps/logits")


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--expert", "bundled", "--expert", "bundled"), "names an expert twice"),
        (("--expert", "a", "--expert", "b", "--shard", "1/2"), "shards of each expert alone"),
        (("--expert", "a", "--expert", "b", "--episodes", "1"), "give at least one to each"),
    ],
)
def test_several_experts_that_cannot_be_recorded_together(more, sentence, tmp_path):
    assert sentence in refused("record", *more, "-o", tmp_path / "d.zarr", code=2)
    assert not list(tmp_path.iterdir())
