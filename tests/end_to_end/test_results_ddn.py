"""The page on value decomposition from nothing: two seeds of one algorithm, with tiny settings."""

import json
from dataclasses import replace

import pytest

from benchmarks.results import run
from benchmarks.results.ddn import DDN
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
    study = replace(
        DDN,
        work=root / "work",
        cells=root / "cells",
        tasks=(small,),
        networks=lambda task: [c for c in DDN.networks(task) if c.algorithm == "vdn"][:2],
        episodes=20,
    )
    run.fill(study, ["networks", "scores"], in_turn)
    return study


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

    run.fill(study, ["networks", "scores"], never)


def test_the_page_shows_what_was_measured_and_what_was_not(study):
    (task,) = study.tasks
    draw_curves(study, task, study.cells)
    text = page(study, study.cells, study.cells.parent)
    (row,) = (line for line in text.splitlines() if line.startswith("| VDN | 2 |"))
    assert "*not measured*" not in row
    assert "Not shown: 1 of 1 kinds" in text
    assert "![Episodes won over training](cells/prey-half.learning.svg)" in text
    assert "| DDN | 0.9701 / 0.9323 | 0.7188 / 0.5404 |" in text
