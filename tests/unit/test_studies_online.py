"""The guides show the figures that were measured of DAgger and of several teachers."""

import json
from pathlib import Path

import pytest

from benchmarks import dagger, teachers

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"


def figures(of):
    return {
        path.stem: json.loads(path.read_text("utf-8")) for path in (RESULTS / of).glob("*.json")
    }


@pytest.mark.parametrize("slug", figures("dagger"))
def test_the_guide_shows_what_dagger_closes(slug):
    page = (ROOT / "docs" / "guide" / "online.md").read_text("utf-8")
    assert dagger.table(figures("dagger")[slug]["rows"]) in page


@pytest.mark.parametrize("slug", figures("teachers"))
def test_the_guide_shows_what_several_teachers_bring(slug):
    page = (ROOT / "docs" / "guide" / "methods.md").read_text("utf-8")
    found = figures("teachers")[slug]
    assert teachers.table(found["experts"], found["rows"]) in page


def test_rounds_without_the_first_dataset_make_as_many_updates():
    study = dagger.Study("task", "slug", "mask", recorded=6000, epochs=12, added=3000)
    for number in (1, 2):
        added = number * study.added
        epochs = dagger.epochs_of(study, number, alone=True)
        assert dagger.epochs_of(study, number, alone=False) == 6
        assert epochs * added == 6 * (study.recorded + added)
