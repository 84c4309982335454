"""Value-based experts through the command line: trained, resumed, recorded, checked, distilled."""

import json

import numpy as np
import pytest

from kd_offline.datasets import ExpertBuffer
from kd_offline.datasets.format import layout
from tests.documents import check_document
from tests.end_to_end.conftest import SPREAD, kd, kd_json, refused
from tests.unit.experts.importers.layouts import spread_qmix

TEAM = {"steps/q_tot", "steps/q_tot_max", "steps/mixer_credit", "final/q_tot_max"}
SHORT = ["--frames", "3200", "--threads", "1", "--hidden", "8", "--set", "episodes_per_batch=32"]


@pytest.fixture(scope="module")
def expert(tmp_path_factory):
    """Return a folder with an expert of a few batches."""
    folder = tmp_path_factory.mktemp("qmix") / "expert"
    card = kd_json("train", SPREAD, "-o", folder, "--algorithm", "qmix", *SHORT, "--score", 8)
    check_document(card, "expert")
    assert card["recipe"]["algorithm"] == "qmix"
    assert card["parameters"]["mixer"] == 18913
    lines = [json.loads(x) for x in (folder / "curve.jsonl").read_text().splitlines()]
    assert [x["iteration"] for x in lines] == [1, 2, 3, 4]
    for line in lines:
        check_document(line, "training-curve")
    return folder


def recorded(expert, path, *more):
    sizes = ("--episodes", 40, "--batch", 20, "--threads", 1, "--partner", "none")
    return kd_json("record", SPREAD, "--expert", expert, "-o", path, *sizes, *more)


def test_record_verify_and_ask_again(expert, tmp_path):
    recorded(expert, tmp_path / "d.zarr")
    summary = kd_json("inspect", tmp_path / "d.zarr")
    assert summary["format_version"] == list(layout.FORMAT_VERSION)
    assert set(summary["arrays"]) >= {"steps/q_values", "steps/value", "final/value", *TEAM}
    assert "steps/logits" not in summary["arrays"]
    asked = ("--replay", 5, "--relabel", 40, "--expert", expert)
    report = kd_json("verify", tmp_path / "d.zarr", *asked)
    assert report["ok"]
    assert set(report["relabel"]["arrays"]) >= {"steps/q_values", "final/value", *TEAM}
    buffer = ExpertBuffer.open(tmp_path / "d.zarr")
    total, best = buffer.read("steps/q_tot"), buffer.read("steps/q_tot_max")
    assert (total <= best + 1e-3).all()
    assert (total < best - 1e-3).any()
    np.testing.assert_array_equal(buffer.read("steps/value")[:, 1], best)


def test_what_it_holds_survives_other_formats(expert, tmp_path):
    recorded(expert, tmp_path / "d.zarr")
    kd("convert", tmp_path / "d.zarr", "-o", tmp_path / "d.hdf5")
    back = kd_json("convert", tmp_path / "d.hdf5", "-o", tmp_path / "back.zarr")
    assert back["id"] == kd_json("inspect", tmp_path / "d.zarr")["id"]
    one = ("--to", "d4rl", "--agent", "agent_0")
    kd("convert", tmp_path / "d.zarr", "-o", tmp_path / "one.hdf5", *one)
    kd("convert", tmp_path / "one.hdf5", "-o", tmp_path / "one.zarr")
    assert kd_json("verify", tmp_path / "one.zarr")["ok"]
    assert not TEAM & set(ExpertBuffer.open(tmp_path / "one.zarr").names)


def test_another_experts_values_are_found_out(expert, tmp_path):
    recorded(expert, tmp_path / "d.zarr")
    other = ("train", SPREAD, "-o", tmp_path / "other", "--algorithm", "qmix", *SHORT)
    kd(*other, "--seed", 1, "--score", 0)
    report = kd_json(
        "verify", tmp_path / "d.zarr", "--relabel", 5, "--expert", tmp_path / "other", code=1
    )
    assert not report["relabel"]["arrays"]["steps/q_tot_max"]["ok"]


def test_it_is_distilled_and_evaluated(expert, tmp_path):
    recorded(expert, tmp_path / "d.zarr")
    run = tmp_path / "run"
    settings = ("--seeds", 1, "--epochs", 1, "--batch", 8, "--threads", 1)
    kd("distill", tmp_path / "d.zarr", "-o", run, "--method", "bc", *settings)
    kd("evaluate", run, "--expert", expert, "--episodes", 10, "--threads", 1)
    assert (run / "evaluation.json").is_file()


def test_an_expert_of_another_library_is_mixed_too(tmp_path):
    spread_qmix(tmp_path / "theirs")
    reference = f"epymarl:{tmp_path / 'theirs'}"
    recorded(reference, tmp_path / "d.zarr")
    buffer = ExpertBuffer.open(tmp_path / "d.zarr")
    assert set(buffer.names) >= TEAM
    (entry,) = buffer.manifest.experts
    assert entry.calibration is not None
    value = buffer.read("steps/q_tot_max") * entry.calibration.scale + entry.calibration.offset
    np.testing.assert_allclose(buffer.read("steps/value")[:, 0], value, rtol=1e-4, atol=1e-4)
    assert kd_json("verify", tmp_path / "d.zarr", "--relabel", 5, "--expert", reference)["ok"]
    spread_qmix(tmp_path / "alien", state=48)
    said = refused(
        *("record", SPREAD, "--expert", f"epymarl:{tmp_path / 'alien'}"),
        *("-o", tmp_path / "x.zarr", "--episodes", 4, "--quiet"),
        code=2,
    )
    assert "reads a state of 48 numbers" in said
    assert not (tmp_path / "x.zarr").exists()


def test_bad_settings(tmp_path):
    out = ("-o", tmp_path / "x", "--quiet")
    sides = refused("train", "mpe/simple_adversary_v3", "--algorithm", "vdn", *out, code=2)
    assert "needs a team with one reward" in sides
    said = refused("train", SPREAD, "--algorithm", "qmix", "--set", "clip=0.1", *out, code=2)
    assert "clip means nothing to qmix" in said
    assert not (tmp_path / "x").exists()
