"""Datasets from datasets through the command line, as the guide has them."""

import json
import shlex
import shutil
from pathlib import Path

import pytest

from kd_offline.datasets import ExpertBuffer
from kd_offline.testing.factories import environment_spec, tiny_dataset
from tests.documents import check_document
from tests.end_to_end.conftest import DISTILL, kd, kd_json, refused

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "working-with-datasets.md"
SPEC = environment_spec((6, 6, 6), episode_limit=50)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """Return a folder with four datasets of one environment, as the guide names them."""
    folder = tmp_path_factory.mktemp("datasets")
    for seed, name in enumerate(("dataset", "more", "a", "b")):
        tiny_dataset(folder / f"{name}.zarr", 40, spec=SPEC, seed=seed)
    return folder


@pytest.fixture
def place(datasets, tmp_path, monkeypatch):
    """Return a folder of the test with a copy of ``datasets``; it is the working directory."""
    shutil.copytree(datasets, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def checked(name, document):
    check_document(document, name)
    return document


def test_what_the_commands_print(place):
    first = ExpertBuffer.open("dataset.zarr")
    done = checked("edit-output", kd_json("split", "dataset.zarr", "-o", "s.zarr", "--seed", 3))
    assert done["operation"] == "split"
    assert done["parents"] == [first.id]
    assert done["episodes"] == 40
    done = checked(
        "edit-output",
        kd_json("merge", "dataset.zarr", "more.zarr", "-o", "m.zarr", "--without", "embedding"),
    )
    assert done["left_out"] == ["steps/embedding"]
    assert done["episodes"] == 80
    report = checked("diff-output", kd_json("diff", "dataset.zarr", "s.zarr", code=1))
    assert [array["name"] for array in report["arrays"]] == ["episodes/split"]
    report = checked("diff-output", kd_json("diff", "dataset.zarr", "dataset.zarr"))
    assert report["equal"]
    shown = checked("card-output", kd_json("card", "m.zarr"))
    assert shown["text"] == kd("card", "m.zarr").stdout
    assert "merge" in shown["text"]


def test_words_change_and_the_id_stays(place):
    done = kd_json("annotate", "a.zarr", "-o", "n.zarr", "--licence", "MIT", "--citation", "")
    assert done["id"] == ExpertBuffer.open("a.zarr").id
    assert kd("diff", "a.zarr", "n.zarr").stdout.startswith("equal content")
    assert "licence      MIT" in kd("inspect", "n.zarr").stdout


def test_a_run_can_follow(made, tmp_path):
    """What was recorded, filtered, split and masked anew can be distilled."""
    steps = [
        ("filter", made.dataset, "-o", tmp_path / "f.zarr", "--where", "noise_level < 1"),
        (
            "split",
            tmp_path / "f.zarr",
            "-o",
            tmp_path / "s.zarr",
            "--parts",
            "train:0.7,heldout:0.3",
        ),
        ("relabel-masks", tmp_path / "s.zarr", "-o", tmp_path / "r.zarr", "--mask", "random-6"),
    ]
    for step in steps:
        kd(*step)
    kd("verify", tmp_path / "r.zarr")
    run = tmp_path / "run"
    kd("distill", tmp_path / "r.zarr", "-o", run, "--mask", "random-6", "--hidden", 8, *DISTILL)
    manifest = json.loads((run / "run.json").read_text())
    assert ExpertBuffer.open(tmp_path / "r.zarr").id in json.dumps(manifest)


def test_recording_says_what_it_is_told(tmp_path):
    kd(
        *(
            "record",
            "mpe/simple_spread_v3",
            "-o",
            tmp_path / "d.zarr",
            "--episodes",
            2,
            "--batch",
            2,
        ),
        *("--partner", "none", "--threads", 1, "--licence", "MIT", "--citation", "Ours"),
        *("--description", "two episodes"),
    )
    manifest = ExpertBuffer.open(tmp_path / "d.zarr").manifest
    assert (manifest.licence, manifest.citation) == ("MIT", "Ours")
    assert manifest.description == "two episodes"


@pytest.mark.parametrize(
    ("line", "words", "code"),
    [
        ("filter a.zarr -o x.zarr", "nothing says which episodes", 2),
        ("filter a.zarr -o x.zarr --where 'lenght > 3'", "did you mean 'length'", 2),
        ("filter a.zarr -o x.zarr --where 'open(1) > 3'", "not allowed", 2),
        ("filter a.zarr -o x.zarr --where 'return > 1e9'", "meets the conditions", 2),
        ("filter a.zarr -o x.zarr --episodes 5", "FIRST:STOP", 2),
        ("filter a.zarr -o x.zarr --without embeding", "unknown array", 2),
        ("filter a.zarr -o a.zarr --won --overwrite", "never changes in place", 2),
        ("filter a.zarr -o b.zarr --won", "--overwrite", 1),
        ("filter absent.zarr -o x.zarr --won", "absent.zarr", 2),
        ("split a.zarr -o x.zarr --parts train", "train:0.8,val:0.1", 2),
        ("split a.zarr -o x.zarr --stratify retrun", "did you mean 'return'", 2),
        ("merge a.zarr -o x.zarr", "at least two", 2),
        ("merge a.zarr a.zarr -o x.zarr", "--drop-duplicates", 2),
        (
            "merge a.zarr b.zarr -o x.zarr --allow-duplicates --drop-duplicates",
            "exclude each other",
            2,
        ),
        ("relabel-masks a.zarr -o x.zarr --mask full", "already", 2),
        ("relabel-masks a.zarr -o x.zarr --mask ful", "did you mean 'full'", 2),
        ("annotate a.zarr -o x.zarr", "nothing is to be said", 2),
        ("annotate a.zarr -o x.zarr --version 1", "1.2.0", 2),
        ("card a.zarr -o a.zarr", "is not replaced", 1),
        ("diff a.zarr absent.zarr", "no dataset", 2),
    ],
)
def test_mistakes(place, line, words, code):
    assert words in refused(*shlex.split(line), code=code)
    assert not Path("x.zarr").exists()
