"""What decisions cost, through the command line: bench latency, hardware, doctor calibrate."""

import json
import shutil
import tomllib

import pytest

from kd_offline.hardware.profiles import load
from tests.documents import check_document
from tests.end_to_end.conftest import kd, kd_json, refused
from tests.sealing import resealed

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def run(made, tmp_path_factory):
    """A copy, so that other tests find the run as it was made."""
    place = tmp_path_factory.mktemp("measured") / "run"
    shutil.copytree(made.run, place)
    return place


SHORT = ["--rounds", "3", "--steps", "5"]


def test_latency_of_every_engine(made, run):
    document = kd_json(
        "bench", "latency", run, "--expert", made.expert, "--device", "stm32f4", *SHORT
    )
    check_document(document, "latency")
    written = json.loads((run / "latency.json").read_text())
    assert document == {key: value for key, value in written.items() if key != "digest"}
    rows = document["rows"]
    found = {(row["who"], row["engine"]) for row in rows}
    assert found == {
        (who, name)
        for who in ("expert", "student")
        for name in ("torch", "onnx", "c", "c-ctypes", "numpy")
    }
    assert all(row["samples"] == 15 and row["p50_us"] > 0 for row in rows)
    assert all(row["energy"]["kind"] == "unavailable" for row in rows)
    assert all("faster" in row for row in rows if row["who"] == "student")
    in_c = next(row for row in rows if row["engine"] == "c")
    assert in_c["predictions"][0]["kind"] == "modelled"
    assert document["command"].startswith("kd-offline bench latency")


def test_latency_without_the_expert_is_of_the_students(run):
    done = kd("bench", "latency", run, "--engines", "numpy", "--batch", "1,4", *SHORT)
    assert "expert, torch: unavailable" in done.stderr
    assert "recorded an expert of its own" in done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert {(row[0], row[3]) for row in lines if "numpy" in row} == {
        ("student", "1"),
        ("student", "4"),
    }


def test_an_altered_run_is_refused(made, tmp_path):
    place = tmp_path / "run"
    shutil.copytree(made.run, place)
    text = (place / "run.json").read_text()
    manifest = json.loads(text)
    manifest["results"][0]["digest"] = "sha256:" + "0" * 64
    resealed(place / "run.json", results=manifest["results"])
    assert "altered" in refused("bench", "latency", place, code=1)


def test_bad_words_are_one_sentence_each(made, run):
    message = refused("bench", "latency", run, "--device", "stm32f40", code=2)
    assert "jetson-agx-orin" in message
    assert "stm32h7" in message
    assert "allowed are torch" in refused("bench", "latency", run, "--engines", "cuda", code=2)
    assert "raspberry-pi-4" in refused("hardware", "pi", code=2)
    assert "raspberry-pi-4" in refused("evaluate", run, "--device", "pi", code=2)
    assert "raspberry-pi-4" in refused("report", run, "--device", "pi", code=2)


def test_evaluation_and_report_show_costs_and_predictions(made, run):
    done = kd(
        "evaluate", run, "--expert", made.expert, "--episodes", "20", "--threads", "1",
        "--device", "stm32h7",
    )  # fmt: skip
    for what in ("a decision", "a team step", "an episode"):
        assert f"cost of {what}: " in done.stdout
    assert "c on stm32h7: " in done.stdout
    assert "(modelled, instruction count)" in done.stdout
    kd("bench", "latency", run, "--engines", "numpy", *SHORT)
    page = kd("report", run, "--markdown", "--device", "stm32f4").stdout
    assert "c on stm32f4" in page
    assert "c on stm32h7" not in page
    assert "c on stm32h7" in kd("report", run, "--markdown").stdout
    assert "Time of one step" in page
    assert "with the expert's critic or mixer" in page
    kd("report", run)
    assert "How long they take" in (run / "report.html").read_text()


def test_hardware_is_listed_and_shown():
    assert "Cortex-M4F" in kd("hardware").stdout
    shown = kd("hardware", "stm32f4").stdout
    assert "assumed" in shown
    assert "DocID022152" in shown
    check_document(kd_json("hardware", "stm32f4"), "hardware")
    check_document(kd_json("hardware"), "hardware-output")


def test_a_calibrated_profile_predicts(run, tmp_path):
    file = tmp_path / "mine.toml"
    small = ["--engines", "numpy", "--widths", "8,16,24", *SHORT]
    done = kd("doctor", "calibrate", "-o", file, *small)
    assert "largest error of the fit" in done.stderr
    assert done.stdout.strip() == str(file)
    assert tomllib.loads(file.read_text())["name"] == "mine"
    assert list(load(file).engines) == ["numpy"]
    refused("doctor", "calibrate", "-o", file, *small, code=1)
    report = kd_json("bench", "latency", run, "--engines", "numpy", "--device", file, *SHORT)
    assert report["rows"][0]["predictions"][0]["basis"] == "calibrated"
    assert "torch" in kd("doctor").stdout
