"""The page on methods: its plan, and what it says of the cells that are there."""

import json
import pickle

import pytest

from benchmarks.results import render_methods
from benchmarks.results.methods import (
    METHODS,
    NO_CE,
    all_comparisons,
    baseline,
    comparisons,
    contests,
    distilled_cells,
    quick,
)
from benchmarks.results.render_methods import page
from kd_offline.distillation.methods import METHODS as ALL


def score(mean):
    interval = {"mean": mean, "low": mean - 1, "high": mean + 1}
    return {"student": interval, "retention": {"normalised": 0.5}}


def keep(folder, name, document):
    (folder / f"{name}.json").write_text(json.dumps(document))


def made(mean):
    modes = {"greedy": score(mean), "sampled": score(mean)}
    held = {"mask": "limited", "seeds": 5, "episodes": 4000, "agreement": 0.9, "seconds": [1, 3]}
    return held | modes


SPREAD, BOARD = METHODS.tasks[:2]


@pytest.mark.parametrize("task", METHODS.tasks, ids=lambda task: task.slug)
def test_methods_are_compared_with_plain_kl_at_their_own_temperature(task):
    cells = {cell.id: cell for cell in distilled_cells(task)}
    assert len(cells) == len(distilled_cells(task))
    assert all(cell.method in ALL for cell in cells.values())
    by_method = {one.method: other for one, other in comparisons(task)}
    assert dict(by_method["kd-marl"].settings) == {"terms.kl.temperature": 2.0}
    assert by_method["tseng"].settings == ()
    assert all(other.id in cells for other in by_method.values())
    assert set(by_method) == {cell.method for cell in cells.values()} - {"kl"}


@pytest.mark.parametrize("task", METHODS.tasks, ids=lambda task: task.slug)
def test_candidates_for_the_default_are_compared_in_pairs(task):
    pairs = {(one.method, one.label, other.method, other.label) for one, other in contests(task)}
    assert pairs == {
        ("kd-marl", "", "logits", ""),
        ("kd-marl", "", "kd-marl", NO_CE),
        ("logits", "", "kd-marl", NO_CE),
        *((method, "", "kl", "") for method in ("kd-marl", "logits")),
        ("kd-marl", NO_CE, "kl", ""),
    }
    assert set(contests(task)) < set(all_comparisons(task))


def test_the_page_says_which_candidate_is_ahead(tmp_path):
    one, other = contests(SPREAD)[0]
    for cell, mean in ((one, -40.0), (other, -42.0)):
        keep(tmp_path, cell.id, made(mean))
    gap = {"mean": 2.0, "low": 1.5, "high": 2.5}
    plain = comparisons(SPREAD)[0]
    for pair in ((one, other), plain):
        name = f"{pair[0].compared_as}.minus.{pair[1].compared_as}"
        keep(tmp_path, name, {"greedy": gap, "sampled": gap})
    assert "| `kd-marl` | `logits` | 2.00 [1.50, 2.50] | 2.00 [1.50, 2.50] |" in page(tmp_path)


def test_methods_that_need_values_have_an_expert_with_values():
    (expert,) = METHODS.networks(BOARD)
    of_values = [cell for cell in distilled_cells(BOARD) if cell.method == "mixer"]
    assert [cell.expert for cell in of_values] == [expert]
    assert expert.algorithm == "qmix"
    assert not [cell for cell in distilled_cells(SPREAD) if cell.method == "mixer"]


def test_methods_that_need_logits_have_an_expert_with_logits():
    named = [{cell.method for cell in distilled_cells(task)} for task in METHODS.tasks]
    assert ["neighbours" in methods for methods in named] == [True, False, True, True, True]


def test_the_quick_study_trains_no_network_and_keeps_its_cells_elsewhere():
    small = pickle.loads(pickle.dumps(quick(METHODS)))  # as its processes receive it
    assert small.cells != METHODS.cells
    assert small.work != METHODS.work
    assert BOARD.slug not in {task.slug for task in small.tasks}
    for task in small.tasks:
        assert small.networks(task) == []
        cells = small.distilled(task)
        assert {len(cell.seeds) for cell in cells} == {2}
        assert all(pair[1] in cells for pair in small.comparisons(task))


def test_only_what_was_measured_is_shown(tmp_path):
    cells = {cell.method: cell for cell in distilled_cells(SPREAD) if cell.label != NO_CE}
    tseng, bc = cells["tseng"], cells["bc"]
    plain = baseline(tseng)
    for cell, mean in ((tseng, -20.0), (bc, -30.0), (plain, -22.0)):
        keep(tmp_path, cell.id, made(mean))
    for cell, mean in ((tseng, 2.0), (bc, -8.0)):
        gap = {"mean": mean, "low": mean - 1, "high": mean + 1}
        keep(tmp_path, f"{cell.id}.minus.{plain.id}", {"greedy": gap, "sampled": gap})
    text = page(tmp_path)
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert [row.split("|")[1].strip() for row in rows] == ["`kl`", "`bc`", "`tseng`"]
    assert "| -20.00 [-21.00, -19.00] | 50.0 % | 2.00 [1.00, 3.00] |" in rows[2]
    assert rows[0].count("| - |") >= 1
    assert "Better than plain KL in greedy play: `tseng`. Worse: `bc`." in text
    assert f"{SPREAD.dataset_episodes:,} episodes, {SPREAD.epochs} epochs" in text
    assert f"Not shown: 9 of 12 rows of {SPREAD.name}; " in text


def test_without_a_cell_there_is_no_page(tmp_path, monkeypatch, capsys):
    (tmp_path / "cells").mkdir()
    given = ["render", "--cells", str(tmp_path / "cells"), "--page", str(tmp_path / "page.md")]
    monkeypatch.setattr("sys.argv", given)
    render_methods.main()
    assert "no cell in" in capsys.readouterr().out
    assert not (tmp_path / "page.md").exists()
