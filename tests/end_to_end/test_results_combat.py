"""The page on combat from nothing: every stage of the smallest task, with tiny settings."""

import json
from dataclasses import replace

import pytest

from benchmarks.results import run
from benchmarks.results.combat import (
    COMBAT,
    FEWER,
    PAPER,
    PAPER_COLUMNS,
    TASKS,
    distilled_cells,
    first_step,
    narrow,
)
from benchmarks.results.plan import EVALUATION_SEED, TWO_STEPS, NetworkCell
from benchmarks.results.render import percent
from benchmarks.results.render_combat import MISSING, draw_curves, page
from kd_offline import environments
from kd_offline.students.masks import resolve

TRAINING = (
    ("frames", 400),
    ("episodes_per_batch", 32),
    ("epochs", 1),
    ("architecture.trunk", (8,)),
    ("architecture.gru", 8),
)
STAGES = ("networks", "scores", "datasets", "distilled", "comparisons", "latency")


EXPERT = "3m.full.mappo.full-size.default"


def in_turn(make, cells):
    for cell in cells:
        make(cell)


def networks(task):
    expert = NetworkCell(task, "full", None, 0, bundled="default")
    return [expert, NetworkCell(task, "paper", None, 0), first_step(task)]


def students(task):
    cells = distilled_cells(task)
    # The critic of so short a training would be refused by KD-MARL.
    second = [replace(each, method="kl", seeds=(0,)) for each in cells if each.label == TWO_STEPS]
    return [replace(cells[1], seeds=(0,), heat=True), *second[:1]]


def comparisons(task):
    expert, masked, _ = networks(task)
    return [(expert, students(task)[0]), (expert, masked)] if task.slug == "3m" else []


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """One map, its expert, one ceiling, a team of mixed widths, and one in two steps."""
    root = tmp_path_factory.mktemp("combat")
    task = replace(TASKS[0], training=TRAINING, dataset_episodes=64, epochs=1)
    made = replace(
        COMBAT,
        work=root / "work",
        cells=root / "page" / "cells",
        tasks=(task, *TASKS[1:]),
        networks=networks,
        distilled=students,
        comparisons=comparisons,
        episodes=16,
        latency_rounds=1,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "LATENCY_ENGINES", ("torch",))
        run.fill(replace(made, tasks=(task,)), STAGES, in_turn)
    return made


def test_cells_are_made_once(study, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in study.cells.iterdir()}
    assert sorted(path.name for path in before) == [
        "3m.full.mappo.full-size.default.json",
        "3m.full.mappo.full-size.default.minus.3m.paper.kd-marl.16-16-32.json",
        "3m.full.mappo.full-size.default.minus.3m.paper.mappo.full-size.json",
        "3m.paper.kd-marl.16-16-32.heat.svg",
        "3m.paper.kd-marl.16-16-32.json",
        "3m.paper.kl.32-32-32.two-steps.json",
        "3m.paper.mappo.full-size.json",
        "3m.paper.mappo.full-size.masked.json",
    ]
    # Also on a machine that holds the cells alone.
    run.fill(replace(study, tasks=study.tasks[:1], work=tmp_path / "work"), STAGES, in_turn)
    assert {path: path.stat().st_mtime_ns for path in study.cells.iterdir()} == before
    assert list((tmp_path / "work").iterdir()) == []


def test_a_missing_cell_asks_for_its_dataset_alone(study, tmp_path):
    tasks = study.tasks[:1]
    for file in study.cells.glob("*.json"):
        if ".kd-marl." not in file.name:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    asked = []
    run.fill(
        replace(study, tasks=tasks, work=tmp_path / "work", cells=tmp_path),
        STAGES,
        lambda _, cells: asked.append([cell.id for cell in cells]),
    )
    networks, measured, datasets, students, *others = asked
    assert networks == measured == others == []
    assert datasets == students == ["3m.paper.kd-marl.16-16-32"]


def test_networks_are_measured_again_when_there_are_more_of_them(study, tmp_path):
    (task, *_), cells = study.tasks, tmp_path / "cells"
    kind = NetworkCell(task, "paper", None, 0)
    both = replace(
        study,
        tasks=(task,),
        work=study.work,
        cells=cells,
        networks=lambda _: [kind, replace(kind, seed=1)],
        distilled=lambda _: [],
    )
    run.fill(both, ("scores",), in_turn)  # the second one is not trained
    file = cells / f"{kind.group}.json"
    made = json.loads(file.read_text())
    assert made["seeds"] == 1
    assert [row["seed"] for row in made["greedy"]["seeds"]] == [0]
    run.fill(both, ("networks", "scores"), in_turn)
    made = json.loads(file.read_text())
    assert made["seeds"] == len(made["seconds"]) == len(made["curves"]) == 2
    assert [row["seed"] for row in made["greedy"]["seeds"]] == [0, 1]
    run.fill(both, ("scores",), lambda _, cells: None if not cells else pytest.fail("made again"))


def test_students_are_measured_against_the_expert_in_the_final_episodes(study):
    cell = json.loads((study.cells / "3m.paper.kd-marl.16-16-32.json").read_text())
    expert = json.loads((study.cells / "3m.full.mappo.full-size.default.json").read_text())
    assert cell["evaluation_seed"] == expert["evaluation_seed"] == EVALUATION_SEED
    assert cell["greedy"]["expert"] == expert["greedy"]["expert"] == expert["greedy"]["student"]
    assert {row["who"] for row in cell["latency"]} == {"expert", "student"}


@pytest.mark.parametrize("name", ["3m.paper.kd-marl.16-16-32", "3m.paper.mappo.full-size"])
def test_a_difference_is_that_of_the_cells_in_the_same_episodes(study, name):
    one, other, gap = (
        json.loads((study.cells / f"{each}.json").read_text())
        for each in (EXPERT, name, f"{EXPERT}.minus.{name}")
    )
    assert gap["seeds"] == [1, 1]
    assert gap["evaluation_seed"] == EVALUATION_SEED
    for mode in ("greedy", "sampled"):
        assert gap[mode]["low"] < gap[mode]["mean"] < gap[mode]["high"]
        want = one[mode]["student"]["mean"] - other[mode]["student"]["mean"]
        assert gap[mode]["mean"] == pytest.approx(want, abs=1e-6)


def test_two_steps_are_measured_beside_the_expert_of_full_view(study):
    cell = json.loads((study.cells / "3m.paper.kl.32-32-32.two-steps.json").read_text())
    step = json.loads((study.cells / "3m.paper.mappo.full-size.masked.json").read_text())
    first = json.loads((study.cells / "3m.full.mappo.full-size.default.json").read_text())
    assert cell["greedy"]["expert"] == first["greedy"]["expert"] != step["greedy"]["student"]
    (row,) = (
        line
        for line in page(study, study.cells, study.cells.parent).splitlines()
        if line.startswith("| plain KL LH, two steps |") and MISSING not in line and "%" in line
    )
    assert f"| {percent(cell['greedy']['retention_intervals']['ratio'])} |" in row


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.slug)
def test_narrow_teams_are_the_widest_of_40_times_fewer_flops_than_the_expert(task):
    wide = next(cell for cell in distilled_cells(task) if set(cell.widths) == {32})
    cost = json.loads((COMBAT.cells / f"{wide.id}.json").read_text())["cost"]

    def macs(width):  # two layers and a GRU, which has three matrices twice
        return sum(
            width * (agent["inputs"] + 7 * width + agent["actions"])
            for agent in cost["student"]["agents"]
        )

    assert macs(32) == cost["student"]["macs"]
    (width,) = set(narrow(task))
    assert cost["expert"]["macs"] / macs(width) >= FEWER > cost["expert"]["macs"] / macs(width + 1)


def test_the_page_says_what_was_and_what_was_not_measured(study):
    draw_curves(study, study.tasks[0], study.cells)
    assert (study.cells / "3m.learning.svg").read_text().count("million joint steps") == 1
    text = page(study, study.cells, study.cells.parent)
    sections = text.split("\n## ")[1:]
    assert [s.split("\n")[0] for s in sections] == [task.name for task in TASKS]
    lines = sections[0].splitlines()
    scores, times = (line for line in lines if line.startswith("| KD-MARL LH+A |"))
    assert scores.startswith("| KD-MARL LH+A | 90.39 | 18 | 4.1 | ")
    assert MISSING not in scores
    assert MISSING not in times.split("|")[2]
    (other,) = (line for line in lines if line.startswith("| VDN LH |"))
    assert other.endswith("| - | - | - | - | - | - | - |")
    (expert,) = (line for line in lines if line.startswith("| MAPPO FO |"))
    assert f"| none | +1.21 [+0.36, +2.05] | {EVALUATION_SEED} |" in expert
    assert "| 1 | 6,001,951 steps | 1,389 |" in expert
    assert "| 64 episodes (6,001,951 steps) |" in scores
    assert "](cells/3m.paper.kd-marl.16-16-32.heat.svg)" in sections[0]
    assert "](cells/3m.learning.svg)" in sections[0]
    (unmade,) = (line for line in sections[1].splitlines() if line.startswith("| MAPPO FO |"))
    assert unmade.count(MISSING) == 12
    drawn = (study.cells / "3m.paper.kd-marl.16-16-32.heat.svg").read_text()
    assert drawn.startswith("<svg")
    assert 'xmlns="http://www.w3.org/2000/svg"' in drawn
    assert "var(" not in drawn


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.slug)
def test_the_plan_fits_the_maps_and_the_paper(task):
    spec = environments.load(task.name).spec
    blocks = resolve("paper", spec).static.sum(1)
    assert len(task.mixed_widths) == spec.n_agents
    wide = [b for b, width in zip(blocks, task.mixed_widths, strict=True) if width == 32]
    narrow = [b for b, width in zip(blocks, task.mixed_widths, strict=True) if width == 16]
    assert wide
    assert narrow
    for row in PAPER[task.slug].values():
        assert len(row) == len(PAPER_COLUMNS)
    for cell in COMBAT.networks(task):
        recipe = run.recipe_of(cell)
        assert recipe.environment == task.name
