"""The published datasets: whole, described, and made again by their recipes."""

import tomllib
from pathlib import Path

import numpy as np
import pytest

from kd_offline import ExpertBuffer, verify
from kd_offline.schemas.dataset import DatasetManifest
from tests.end_to_end.conftest import kd, kd_json

ROOT = Path(__file__).parents[2] / "datasets"
TINY = ROOT / "tiny-spread"
DATA = TINY / "dataset.zarr"
FOLDERS = sorted(path.parent for path in ROOT.glob("*/recipe.toml"))
LARGEST_BYTES = 150_000

# Matrix products round differently on another processor. These arrays come straight from the
# networks and may then differ in their last bits; nothing else may.
ROUNDED = {"steps/logits", "steps/embedding", "steps/value", "final/value"}
ROUNDED |= {"steps/behaviour_logprob"}
CLOSE = dict.fromkeys(ROUNDED, 1e-4) | {"steps/embedding": 2e-3}  # float16 steps near 1


def call(recipe, output):
    """Return the arguments of ``kd-offline`` that a recipe stands for."""
    arguments = ["record", recipe["environment"], "-o", output]
    for name, value in recipe.items():
        if name != "environment":
            for each in value if isinstance(value, list) else [value]:
                arguments += [f"--{name}", each]
    return [str(argument) for argument in arguments]


def recipe_of(folder):
    return tomllib.loads((folder / "recipe.toml").read_text("utf-8"))


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    """The tiny dataset, made again by its recipe."""
    path = tmp_path_factory.mktemp("published") / "again.zarr"
    kd(*call(recipe_of(TINY), path), "-q")
    return ExpertBuffer.open(path)


def test_no_python_and_nothing_undescribed():
    assert not list(ROOT.rglob("*.py"))
    assert TINY in FOLDERS
    overview = (ROOT / "README.md").read_text("utf-8")
    assert [path for path in sorted(ROOT.iterdir()) if path.is_dir()] == FOLDERS
    for folder in FOLDERS:
        assert f"({folder.name}/card.md)" in overview


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_card_recipe_and_manifest_agree(folder):
    manifest = DatasetManifest.model_validate_json((folder / "manifest.json").read_bytes())
    recipe, card = recipe_of(folder), (folder / "card.md").read_text("utf-8")
    assert manifest.name == recipe["name"] == folder.name
    assert manifest.environment.id == recipe["environment"]
    assert manifest.statistics.episodes == recipe["episodes"]
    assert (manifest.recording.seed, manifest.recording.batch) == (recipe["seed"], recipe["batch"])
    assert list(manifest.masks) == recipe["mask"]
    assert f"`{manifest.id}`" in card
    assert " ".join(["kd-offline", *call(recipe, "again.zarr")]) in card.splitlines()


def test_the_tiny_dataset_is_whole():
    report = verify(DATA)
    assert report.ok, report.problems
    assert (DATA / "manifest.json").read_bytes() == (TINY / "manifest.json").read_bytes()
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) <= LARGEST_BYTES


def test_its_recipe_makes_it_again(again):
    stored = ExpertBuffer.open(DATA)
    assert again.names == stored.names
    assert again.spec == stored.spec
    assert again.manifest.experts == stored.manifest.experts
    # What a preset says of itself may be put better one day; what it shows may not change.
    drawn = [{k: m.random_k for k, m in b.manifest.masks.items()} for b in (again, stored)]
    assert drawn[0] == drawn[1]
    ours, theirs = (buffer.manifest.arrays for buffer in (again, stored))
    differing = {name for name in theirs if ours[name].digest != theirs[name].digest}
    assert differing <= ROUNDED
    # Made again it is of the newest version, whose id binds more; what both bind is the same.
    assert again.manifest.recording.seed == stored.manifest.recording.seed
    assert (again.manifest.recording.noise, again.manifest.splits) == (
        stored.manifest.recording.noise,
        stored.manifest.splits,
    )
    for name in sorted(ROUNDED):
        made, kept = (buffer.load([name])[name].astype(np.float64) for buffer in (again, stored))
        np.testing.assert_allclose(made, kept, rtol=CLOSE[name], atol=CLOSE[name])


def test_students_learn_from_it(tmp_path):
    options = ["--mask", "limited", "--hidden", "16,8,8", "--epochs", 2, "--threads", 1]
    done = kd_json("distill", DATA, "-o", tmp_path / "run", *options, "-q")
    assert [student["hidden"] for student in done["students"]] == [16, 8, 8]
    score = kd_json("evaluate", tmp_path / "run", "--episodes", 20, "--threads", 1, "-q")
    assert score["greedy"]["student"]["mean"] < score["greedy"]["expert"]["mean"]
