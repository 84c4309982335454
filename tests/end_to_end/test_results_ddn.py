"""The page on value decomposition from nothing: two algorithms and students, tiny settings."""

import json
from dataclasses import replace

import pytest

from benchmarks.results import run
from benchmarks.results.ddn import DDN, comparisons
from benchmarks.results.render_ddn import draw_curves, page

SMALL = (
    ("episodes_per_batch", 4),
    ("architecture.trunk", (8,)),
    ("architecture.gru", 8),
    ("q_learning.batch_episodes", 4),
)


def in_turn(make, cells):
    for cell in cells:
        make(cell)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    (task, *_) = DDN.tasks
    board = (("size", 3), ("n_predators", 2), ("n_prey", 1), ("view", 3), ("episode_limit", 8))
    small = replace(task, frames=100, training=SMALL, environment=board, mixed_widths=(8, 8))
    small = replace(small, dataset_episodes=40, epochs=1)
    study = replace(
        DDN,
        work=root / "work",
        cells=root / "cells",
        tasks=(small,),
        networks=networks,
        distilled=lambda task: DDN.distilled(task)[:1],
        comparisons=lambda task: comparisons(task)[:1],
        episodes=20,
    )
    run.fill(study, run.STAGES, in_turn)
    return study


def networks(task):
    """Return two seeds of VDN, and one training of DDN with its local network."""
    cells = DDN.networks(task)
    ddn = [c for c in cells if c.algorithm == "ddn" and not c.label and c.seed == 0]
    return [*[c for c in cells if c.algorithm == "vdn"][:2], *ddn]


def test_a_cell_holds_all_seeds_and_what_they_cost(study):
    (task,) = study.tasks
    cell = json.loads((study.cells / f"{task.slug}.full.vdn.full-size.json").read_text("utf-8"))
    assert cell["seeds"] == 2
    assert len(cell["curves"]) == 2
    assert all(spent > 0 for spent in cell["processor_seconds"])
    assert {"student", "random", "win_rate"} <= cell["greedy"].keys()
    # No expert comes with the board, so nothing is stated of one.
    assert not {"expert", "retention", "agreement"} & cell["greedy"].keys()


def test_what_is_there_is_not_made_again(study):
    def never(make, cells):
        assert not list(cells)

    run.fill(study, run.STAGES, never)


def test_the_page_shows_what_was_measured_and_what_was_not(study):
    (task,) = study.tasks
    draw_curves(study, task, study.cells)
    text = page(study, study.cells, study.cells.parent)
    (row,) = (line for line in text.splitlines() if line.startswith("| VDN | 2 |"))
    assert "*not measured*" not in row
    assert "Not shown: 0 of 3 kinds" in text
    assert "; 0 of 1 rows of students from files;" in text
    assert "![Episodes won over training](cells/prey-half.learning.svg)" in text
    assert "| DDN | 0.9701 / 0.9323 | 0.7188 / 0.5404 |" in text


def test_students_from_files_are_compared_with_the_network_of_the_same_training(study):
    text = page(study, study.cells, study.cells.parent)
    (row,) = (line for line in text.splitlines() if line.startswith("| `ddn-external` |"))
    _, width, teacher, seeds, *_, less, _, _, _ = (cell.strip() for cell in row.split("|")[1:-1])
    assert (width, teacher, seeds) == ("8", "DDN (QMIX), guiding, 0", "3")
    gap = json.loads((study.cells / f"{COMPARED}.json").read_text("utf-8"))
    assert gap["seeds"] == [3, 1]
    assert less.startswith(f"{gap['greedy']['mean'] / 2:.1f} [")


COMPARED = (
    "prey-half.full.ddn-external.8-8.guiding-0.minus.prey-half.full.ddn.full-size.local.seed-0"
)
