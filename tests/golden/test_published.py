"""What is published in root folders is in step with the code."""

import tomllib
from pathlib import Path

import pytest

from kd_offline.cli import reference
from kd_offline.distillation.methods import METHODS
from kd_offline.distillation.recipe import PRESETS, distill_recipe
from kd_offline.experts.checkpoint import read_card
from kd_offline.experts.load import bundled_folder
from kd_offline.experts.recipe import train_recipe
from tests.documents import check_document

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "cli" / "recipes"


def test_help_texts_are_in_step():
    assert reference.stale(ROOT / "cli" / "reference") == []


def test_help_names_every_method_and_preset():
    text = reference.texts()["distill.txt"]
    for name in (*METHODS, *PRESETS):
        assert name in text


def test_a_changed_or_missing_help_text_is_found(tmp_path):
    reference.write(tmp_path)
    assert reference.stale(tmp_path) == []
    (tmp_path / "record.txt").write_text("altered")
    (tmp_path / "verify.txt").unlink()
    (tmp_path / "gone.txt").write_text("of a command that is no more")
    assert reference.stale(tmp_path) == ["gone.txt", "record.txt", "verify.txt"]


@pytest.mark.parametrize("path", sorted((RECIPES / "distill").glob("*.toml")), ids=lambda p: p.stem)
def test_ready_recipe_for_distillation(path):
    recipe = distill_recipe(file=path)
    check_document(recipe.model_dump(mode="json"), "distill-recipe")
    given = tomllib.loads(path.read_text("utf-8"))
    assert recipe.method == given["method"]
    assert recipe.mask == given.get("mask", "full")


def as_its_first_lines_say(path):
    """Return the recipe of a file; a teacher that is code is named beside it."""
    stated = tomllib.loads(path.read_text("utf-8")).get("kickstart", {}).get("teacher", "")
    named = {}
    if stated.startswith("python:"):
        assert f"--teacher {stated}" in path.read_text("utf-8")
        named = {"kickstart.teacher": stated}
    return train_recipe(file=path, settings=named)


@pytest.mark.parametrize(
    "path",
    sorted([*(RECIPES / "train").glob("*.toml"), *(RECIPES / "bundled").glob("*.toml")]),
    ids=lambda p: p.stem,
)
def test_ready_recipe_for_training(path):
    recipe = as_its_first_lines_say(path)
    check_document(recipe.model_dump(mode="json"), "train-recipe")


@pytest.mark.parametrize("path", sorted((RECIPES / "bundled").glob("*.toml")), ids=lambda p: p.stem)
def test_bundled_experts_were_made_by_their_recipes(path):
    recipe = as_its_first_lines_say(path)
    variant = path.stem.rpartition("-")[2]
    card = read_card(bundled_folder(recipe.environment, variant))
    assert card.recipe == recipe
    assert card.finished


def test_every_bundled_expert_has_a_recipe():
    folder = bundled_folder("x", "x").parents[1]
    made = len(list(folder.glob("*/*/expert.json")))
    assert made == len(list((RECIPES / "bundled").glob("*.toml"))) > 0
