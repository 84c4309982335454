"""Export from the command line: contracts, exit codes, and what a firmware engineer does next."""

import shutil
import subprocess

import pytest

from tests.end_to_end.conftest import kd, kd_json, refused
from tests.end_to_end.test_pipeline import check
from tests.unit.exports.conftest import needs

pytestmark = needs("cc", "make")


def test_export_prints_its_contract_and_the_self_test_runs(made, tmp_path):
    out = tmp_path / "out"
    document = kd_json("export", made.run, "--to", "c,torch", "-o", out, "--seed-of-run", 1)
    check(document, "export-output")
    assert document["formats"] == ["c", "torch"]
    assert (document["precision"], document["seed"]) == ("fp32", 1)
    assert document["path"] == str(out)
    assert set(document["gate"]["engines"]) == {"c", "numpy", "torch"}
    assert document["gate"]["precision"]["agreement"] == 1.0
    done = subprocess.run(
        ["make", "-C", out / "c", "test", "CFLAGS=-O1", f"BUILD={tmp_path / 'build'}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "agent_2: 0 of 50 steps wrong" in done.stdout
    played = kd_json(
        *("evaluate", made.run, "--expert", made.expert, "--episodes", 20, "--threads", 1),
        *("--modes", "greedy", "--export", out, "--engine", "c"),
    )
    check(played, "evaluate-output")


def test_int8_goes_beside_it(made, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(made.run, run)
    shutil.copytree(made.dataset, tmp_path / "dataset.zarr")
    wanted = ("export", run, "--to", "torch", "--precision", "int8", "--agreement", 0.5)
    assert kd(*wanted).stdout.strip() == str(run / "export-int8")
    assert "already exists" in refused(*wanted, code=1)
    kd(*wanted, "--overwrite")


@pytest.mark.parametrize(
    ("wrong", "words", "code"),
    [
        (("--to", "tflite"), "unknown format", 2),
        (("--precision", "int4"), "unknown precision", 2),
        (("--seed-of-run", 7), "unknown seed of the run", 2),
        (("--dataset", "nowhere.zarr"), "pass its place as --dataset", 2),
    ],
)
def test_wrong_wishes_get_one_sentence(made, tmp_path, wrong, words, code):
    wanted = ("export", made.run, "-o", tmp_path / "out", "--to", "torch", *wrong)
    assert words in refused(*wanted, code=code)
    assert not list(tmp_path.iterdir())


def test_altered_students_are_refused(made, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(made.run, run)
    content = bytearray((run / "students.safetensors").read_bytes())
    content[-1] ^= 1
    (run / "students.safetensors").write_bytes(content)
    wanted = ("export", run, "--to", "torch", "--dataset", made.dataset)
    assert "does not match its own digest" in refused(*wanted, code=1)
    assert not (run / "export").exists()
