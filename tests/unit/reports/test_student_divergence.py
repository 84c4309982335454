"""Where students lose, in the report of a real run."""

import shutil

import numpy as np
import pytest

from kd_offline.datasets import ExpertBuffer
from kd_offline.distillation.distill import distill
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.recording.record import record
from kd_offline.reports.html import report
from kd_offline.reports.markdown import markdown
from kd_offline.reports.student_divergence import run_blind_spots, student_divergence
from kd_offline.runs.folder import open_run


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("weak")
    data = root / "d.zarr"
    record("mpe/simple_speaker_listener_v4", data, episodes=40, batch=40, threads=1)
    settings = {
        "optimisation.epochs": 2,
        "optimisation.batch_episodes": 16,
        "student.hidden": 8,
    }
    recipe = distill_recipe(method="kl", mask="limited", seeds=(0, 1), settings=settings)
    distill(data, root / "run", recipe)
    return root


def test_the_divergence_is_the_one_that_students_were_judged_by(place):
    folder, buffer = open_run(place / "run"), ExpertBuffer.open(place / "d.zarr")
    found = student_divergence(folder, buffer)
    np.testing.assert_array_equal(found.episodes, buffer.split("heldout"))
    stated = np.mean([result.held_out["kl"] for result in folder.manifest().results])
    assert found.kl.mean() == pytest.approx(stated, rel=1e-3)
    assert (found.kl > -1e-6).all()
    alive = buffer.read("steps/alive").sum()
    assert 0 < len(found.kl) <= alive


def test_the_report_shows_where_students_differ(place, tmp_path):
    page = report(place / "run", output=tmp_path / "r.html").read_text("utf-8")
    assert '<section id="blind-spots">' in page
    assert "KL of students, dark: high" in page
    assert "students in 2 held-out episodes" in page
    text = markdown(place / "run")
    assert "## Weakest regions" in text
    assert "students differ" in text


def test_without_the_dataset_the_report_says_why_sections_are_empty(place, undrawn, tmp_path):
    shutil.copytree(place / "run", tmp_path / "run")
    (place / "d.zarr").rename(place / "away.zarr")
    try:
        folder = open_run(tmp_path / "run")
        assert run_blind_spots(folder, folder.manifest()).agents == ()
        page = report(tmp_path / "run", output=tmp_path / "r.html").read_text("utf-8")
        text = markdown(tmp_path / "run")
    finally:
        (place / "away.zarr").rename(place / "d.zarr")
    why = "Left out: the dataset is neither where the run states it nor beside the run."
    assert page.count(f"<p>{why}</p>") == 2  # of "Blind spots" and "What they learned from"
    assert f"Blind spots. {why}" in text


def test_students_that_cannot_be_run_leave_the_blind_spots_of_the_expert(place, tmp_path):
    shutil.copytree(place / "run", tmp_path / "run")
    (tmp_path / "run" / "students.safetensors").unlink()
    (place / "d.zarr").rename(tmp_path / "d.zarr")
    try:
        folder = open_run(tmp_path / "run")
        found = run_blind_spots(folder, folder.manifest())
    finally:
        (tmp_path / "d.zarr").rename(place / "d.zarr")
    assert len(found.agents) == 2
    assert found.student_episodes == 0
    assert found.notes[-1] == "students, since their file cannot be used"
