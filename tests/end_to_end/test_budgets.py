"""Budgets through the command line: met, refused with the nearest one, and shown in the report."""

import json
import re
import shutil

import pytest

from kd_offline.testing.factories import environment_spec, tiny_dataset
from tests.documents import check_document
from tests.end_to_end.conftest import kd, kd_json, refused

pytestmark = pytest.mark.usefixtures("undrawn")

FORMATS = "onnx,c,torch" if shutil.which("cc") else "onnx,torch"
QUICK = ["--method", "kl", "--epochs", "1", "--threads", "1", "--hidden", "32"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("budgets") / "data.zarr"
    tiny_dataset(path, 12, spec=environment_spec((6, 6)))
    return path


def test_students_meet_the_budget_and_say_so(dataset, tmp_path):
    run = tmp_path / "run"
    budget = ["--device", "stm32f4", "--max-latency-us", "100", "--max-flash-kb", "40"]
    document = kd_json("distill", dataset, "-o", run, *QUICK, *budget)
    check_document(document, "distill-output")
    manifest = json.loads((run / "run.json").read_text())
    check_document(manifest, "run")
    assert document["allocation"]["limits"] == manifest["allocation"]["limits"]
    for agent, student in zip(manifest["allocation"]["agents"], document["students"], strict=True):
        assert student["hidden"] == agent["hidden"] < 32
        assert agent["figures"]["latency_us"]["value"] <= 100
        assert agent["figures"]["latency_us"]["kind"] == "modelled"
        assert agent["figures"]["macs"]["kind"] == "derived"
        assert [block["block"] for block in agent["worth"]["blocks"]] == ["own", "others"]
    page = kd("report", run, "--markdown").stdout
    assert "Budget on stm32f4, fp32, as predicted" in page
    assert "instruction count on stm32f4" in page
    kd("report", run)
    assert "What they may cost" in (run / "report.html").read_text()
    assert kd("rerun", run, "-o", tmp_path / "again").stdout.startswith("the same")


def test_an_impossible_budget_is_refused_and_the_nearest_one_is_met(dataset, tmp_path):
    run = tmp_path / "run"
    asked = ["distill", dataset, "-o", run, *QUICK, "--device", "stm32f4"]
    small = ["--max-latency-us", "5", "--max-flash-kb", "1"]
    sentence = refused(*asked, *small, code=3)
    assert not run.exists()
    nearest = re.search(r"nearest budget that would do is (.*)", sentence)
    assert nearest is not None
    kd(*asked, *nearest.group(1).split())
    assert {s["hidden"] for s in json.loads((run / "run.json").read_text())["students"]} == {4}


@pytest.mark.parametrize("arch", ["gru", "mlp"])
def test_learned_gates_meet_the_budget_and_are_exported(dataset, tmp_path, arch):
    run, out = tmp_path / "run", tmp_path / "out"
    asked = ["--arch", arch, "--hidden", "16", "--seeds", "2", "--method", "kl", "--threads", "1"]
    asked += ["--device", "stm32f4", "--max-macs", "300", "--allocate", "gates", "--epochs", "2"]
    document = kd_json("distill", dataset, "-o", run, *asked)
    check_document(document, "distill-output")
    manifest = json.loads((run / "run.json").read_text())
    check_document(manifest, "run")
    for agent in manifest["allocation"]["agents"]:
        assert agent["figures"]["macs"]["value"] <= 300
        assert max(filter(None, [*agent["layers"]["trunk"], agent["layers"]["gru"]])) < 16
    counted = {"macs": 0}
    for seed in (0, 1):
        wanted = ("export", run, "-o", out / str(seed), "--seed-of-run", seed, "--episodes", 4)
        said = kd_json(*wanted, "--to", FORMATS)
        assert said["gate"]["precision"]["agreement"] == 1.0
        assert said["macs"] <= 600
        counted["macs"] = max(counted["macs"], said["macs"])
    assert counted["macs"] == manifest["allocation"]["team"]["macs"]
    kd("report", run)
    assert "learned, by gates on hidden units" in (run / "report.html").read_text()
    assert kd("rerun", run, "-o", tmp_path / "again").stdout.startswith("the same")


def test_presets_combine_with_budgets(dataset, tmp_path):
    limit = ["--max-macs", "3000", "--mask", "full", "--epochs", "1", "--method", "kl"]
    for preset in ("lh", "lh+a"):
        run = tmp_path / preset
        kd("distill", dataset, "-o", run, "--preset", preset, *limit)
        agents = json.loads((run / "run.json").read_text())["allocation"]["agents"]
        assert all(agent["widest"] == 32 for agent in agents)
        assert all(agent["figures"]["macs"]["value"] <= 3000 for agent in agents)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--device", "stm32f5"], "stm32f4"),
        (["--max-flash-kb", "-4"], "greater than 0"),
        (["--max-macs", "0"], "greater than 0"),
        (["--max-latency-us", "100"], "needs a hardware profile"),
        (["--precision", "int4", "--max-macs", "100"], "fp32"),
        (["--precision", "int8"], "needs a profile or a limit"),
        (["--device", "stm32f4", "--max-energy-uj", "5"], "cannot predict max_energy_uj"),
        (["--allocate", "gates"], "needs a profile or a limit"),
        (["--max-macs", "300", "--allocate", "gate"], "gates"),
        (["--max-macs", "300", "--allocate", "gates", "--qat"], "epochs of 2 or more"),
    ],
)
def test_bad_budgets_are_one_sentence(dataset, tmp_path, flags, words):
    run = tmp_path / "run"
    assert words in refused("distill", dataset, "-o", run, *QUICK, *flags, code=2)
    assert not run.exists()
