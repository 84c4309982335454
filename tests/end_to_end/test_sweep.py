"""A sweep through the command line: begun, continued by two processes, refused, and looked at."""

import json

import pytest

from kd_offline.testing.factories import environment_spec, tiny_dataset
from tests.documents import check_document
from tests.end_to_end.conftest import kd, kd_json, refused

QUICK = ["--method", "kl", "--epochs", "1", "--widths", "8,16", "--set", "threads=1"]
QUICK += ["--arch", "gru,low-rank"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep") / "data.zarr"
    tiny_dataset(path, 40, spec=environment_spec((6, 6)))
    return path


@pytest.fixture(scope="module")
def folder(dataset, tmp_path_factory):
    place = tmp_path_factory.mktemp("swept") / "sweep"
    kd("sweep", dataset, "-o", place, "--trials", "2", *QUICK)
    return place


def test_points_are_runs_and_the_front_is_marked(dataset, folder):
    report = json.loads((folder / "sweep.json").read_text())
    check_document(report, "sweep")
    assert report["plan"]["judge"] == "agreement"  # there is no such environment
    single, small = (
        next(p for p in report["points"] if p["precision"] == name) for name in ("fp32", "int8")
    )
    assert single["figures"]["macs"] == small["figures"]["macs"]
    assert single["figures"]["flash_kb"]["value"] > small["figures"]["flash_kb"]["value"]
    assert any(point["front"] for point in report["points"])
    run = json.loads((folder / single["run"] / "run.json").read_text())
    assert [s["hidden"] for s in run["students"]] == single["widths"]
    assert single["quality"] == pytest.approx(run["results"][0]["held_out"]["agreement"], abs=1e-6)
    page = (folder / "sweep.html").read_text()
    assert "Teams on the front" in page
    assert "<svg" in page
    kd("export", folder / small["run"], "--to", "torch", "--precision", "int8", "--agreement", "0")


def test_it_is_continued_by_two_processes(dataset, folder):
    before = (folder / "runs" / "0000" / "run.json").read_bytes()
    report = kd_json("sweep", dataset, "-o", folder, "--trials", "3", "--on", "processes:2", *QUICK)
    assert {p["architecture"] for p in report["points"]} == {"gru", "low-rank"}
    assert (folder / "runs" / "0000" / "run.json").read_bytes() == before
    low = next(p["run"] for p in report["points"] if p["architecture"] == "low-rank")
    kd("export", folder / low, "--to", "torch", "--agreement", "0")


def test_bad_sweeps_are_one_sentence(dataset, folder, tmp_path):
    other = refused("sweep", dataset, "-o", folder, *QUICK, "--seed", "1", code=1)
    assert "begun with another plan" in other
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("")
    assert "not a sweep" in refused("sweep", dataset, "-o", tmp_path / "full", code=1)
    for flags, words in (
        (["--arch", "transformer"], "low-rank"),
        (["--precision", "int4"], "int8"),
        (["--widths", "0"], "sweep: widths.0 is 0"),
        (["--device", "stm32f5"], "stm32f4"),
        (["--judge", "taste"], "agreement"),
        (["--judge", "retention"], "cannot be measured"),
        (["--trials", "0"], "too small"),
        (["--mask", "limited"], "mask"),
    ):
        assert words in refused("sweep", dataset, "-o", tmp_path / "new", *flags, code=2)
