"""Plans, budgets and slopes of the results pages."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.results import budgets, curves, render, render_combat
from benchmarks.results.combat import COMBAT
from benchmarks.results.plan import (
    DISTILLATION_SEEDS,
    EVALUATION_SEED,
    PARTICLE,
    TASKS,
    DistilledCell,
    NetworkCell,
    ablation_cells,
    whole_cell,
)
from benchmarks.results.run import recipe_of
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.experts.algorithms.clipped_policy import PolicyRecipe

ROOT = Path(__file__).parents[2]
SPREAD = TASKS[0]


def networks(study):
    return {cell.id: cell for task in study.tasks for cell in study.networks(task)}


@pytest.mark.parametrize("seed", range(5))
def test_rivals_on_spread_differ_in_their_teacher_alone(seed):
    found = networks(PARTICLE)
    taught = recipe_of(found[f"spread.limited.mappo.32-32-32.x2.taught.seed-{seed}"])
    alone = recipe_of(found[f"spread.limited.mappo.32-32-32.x2.seed-{seed}"])
    assert isinstance(taught, PolicyRecipe)
    assert taught.kickstart is not None
    assert (taught.kickstart.teacher, taught.kickstart.frames) == ("bundled", 2_000_000)
    assert taught.model_copy(update={"kickstart": None}) == alone
    assert (alone.frames, alone.seed, alone.mask) == (8_000_000, 100 + seed, "limited")
    shape = alone.architecture
    assert (shape.trunk, shape.gru, shape.widths) == ((32, 32), 32, (32, 32, 32))
    assert shape.motion
    assert shape.last_action


@pytest.mark.parametrize("seed", range(5))
def test_the_rival_in_combat_is_a_narrow_masked_expert(seed):
    found = networks(COMBAT)
    mine = recipe_of(found[f"3m.paper.mappo.32-32-32.taught.seed-{seed}"])
    first = recipe_of(found["3m.paper.mappo.full-size.masked.seed-0"])
    assert isinstance(mine, PolicyRecipe)
    assert mine.kickstart is not None
    assert (mine.kickstart.teacher, mine.kickstart.frames) == ("bundled", 2_000_000)
    assert (mine.frames, mine.seed, mine.mask) == (9_000_000, 100 + seed, "paper")
    assert (mine.architecture.trunk, mine.architecture.gru) == ((32, 32), 32)
    assert mine.architecture.widths == (32, 32, 32)
    # The bundled network of the first step was made by the same file.
    alike = ("episodes_per_batch", "epochs", "minibatches", "entropy")
    assert {name: getattr(mine, name) for name in alike} == {
        name: getattr(first, name) for name in alike
    }


def test_plain_kl_is_ablated_at_the_temperature_of_kd_marl():
    (alike,) = (cell for cell in ablation_cells(SPREAD) if cell.method == "kl")
    recipes = [
        distill_recipe(method=cell.method, settings=dict(cell.settings))
        for cell in (whole_cell(SPREAD), alike)
    ]
    temperatures = [recipe.terms["kl"]["temperature"] for recipe in recipes]
    assert temperatures[0] == temperatures[1] != 1.0
    assert {name: w for name, w in recipes[1].weights.items() if w} == {"kl": 1.0}
    assert alike.seeds == DISTILLATION_SEEDS


def test_nothing_but_final_tables_is_played_on_their_seed():
    spellings = (str(EVALUATION_SEED), f"{EVALUATION_SEED:_}")
    said = {
        path.relative_to(ROOT).as_posix()
        for folder in ("benchmarks", "cli", "kd_offline", "tests", ".ci")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".toml", ".md", ".json"}
        and any(word in path.read_text("utf-8") for word in spellings)
    }
    assert said == {"benchmarks/results/plan.py"}


def test_the_slope_of_a_line_is_that_of_its_last_quarter():
    flat_then_rising = [(k * 100_000, max(0.0, 0.02 * (k - 30))) for k in range(1, 41)]
    got = curves.slopes([flat_then_rising])
    assert got is not None
    np.testing.assert_allclose(got, 0.2, atol=1e-9)  # 0.02 every 0.1 million steps


def test_the_slope_of_several_seeds_has_the_interval_of_their_means():
    lines = [[(k * 100_000, rise * k) for k in range(1, 41)] for rise in (0.1, 0.3)]
    got = curves.slopes(lines)
    assert got is not None
    assert got.mean == pytest.approx(2.0)  # of 1 and 3 per million steps
    assert got.high - got.mean == pytest.approx(12.7062, rel=1e-4)  # t of one degree, error 1


def test_a_curve_that_was_not_kept_has_no_slope():
    assert budgets.slope({"curves": []}, "") == budgets.slope({}, "") == "not kept"
    assert budgets.slope({"curves": [[], []]}, "") == "not kept"
    assert budgets.slope({"curves": [[(1, 0.5), (2, 0.6)]]}, "%") == "too short"


def test_curves_are_of_battles_where_there_are_some_and_of_returns_elsewhere(tmp_path):
    file = tmp_path / "curve.jsonl"
    rows: list[dict[str, Any]] = [
        {"frames": k, "returns": {"a": 1.0, "b": k}, "won": None} for k in (1, 2)
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    assert curves.read(file) == [(1, 2.0), (2, 3.0)]
    rows[1] = {**rows[1], "won": 0.25}
    file.write_text("\n".join(map(json.dumps, rows)))
    assert curves.read(file) == [(2, 0.25)]
    assert curves.read(tmp_path / "missing") == []


def test_a_row_says_what_it_had():
    made = {"seeds": 2, "frames": 8_000_000, "seconds": [10.0, 30.0, 20.0], "evaluation_seed": 7}
    taught = NetworkCell(SPREAD, "limited", (32, 32, 32), 0, 2, teacher="bundled")
    teacher = "`bundled`, 2,000,000 steps"
    assert budgets.columns(taught, made, None, "") == (
        *("2", "8,000,000 steps", "20", teacher, "not kept", "7"),
    )
    alone = replace(taught, teacher=None)
    assert budgets.columns(alone, made | {"seconds": None}, None, "")[2:4] == ("not kept", "none")
    student = DistilledCell(SPREAD, "limited", "kd-marl", (32, 32, 32))
    assert budgets.columns(student, made, 8_000_000, "")[1] == "30,000 episodes (8,000,000 steps)"


@pytest.mark.parametrize("page", [render, render_combat])
def test_single_seeds_are_printed_on_request(page, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["render", "--single-seeds"])
    page.main()
    lines = capsys.readouterr().out.splitlines()
    name = "3m.paper.kd-marl.32-32-32" if page is render_combat else "spread.full.kl.32-32-32"
    (row,) = (x for x in lines if x.startswith(f"| {name} |") and "| greedy |" in x)
    assert re.findall(r"(\d): -?\d+\.\d\d", row) == ["0", "1", "2", "3", "4"]


def test_pages_call_no_row_a_ceiling():
    for page in ("results.md", "results-combat.md"):
        _, *tables = (ROOT / "docs" / page).read_text("utf-8").split("\n## ")
        assert tables
        assert not any("ceiling" in table for table in tables)
