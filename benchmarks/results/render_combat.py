"""Write docs/results-combat.md from the cells that are there; a cell that is missing says so.

python -m benchmarks.results.render_combat
python -m benchmarks.results.render_combat --single-seeds
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from benchmarks.results import budgets, curves
from benchmarks.results.combat import (
    COMBAT,
    FEWER,
    FULL,
    GOALS,
    HALF,
    MASK,
    PAPER,
    PAPER_COLUMNS,
    WIDE,
    narrow,
)
from benchmarks.results.plan import (
    DEVELOPMENT_SEED,
    EVALUATION_SEED,
    MASKED,
    TWO_STEPS,
    AnyCell,
    Study,
    Task,
)
from benchmarks.results.render import (
    GUIDE,
    METHOD_NAMES,
    SINGLE,
    STATUS,
    Cell,
    fill,
    percent,
    read,
    single_seeds,
    table,
)

PAGE = Path("docs/results-combat.md")
_Kept = dict[str, dict[str, float]]
MISSING = budgets.NOT_MADE
NOT_PLANNED = "-"
# The time of a step is worth a row only for teams whose decisions were timed.
_ENGINES = ("torch", "onnx", "c")


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=Path, default=COMBAT.cells)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--single-seeds", action="store_true", help="print the values of each seed")
    given = parser.parse_args()
    if given.single_seeds:
        names = [name for task in COMBAT.tasks for name in _rows(COMBAT, task).values() if name]
        print(table([SINGLE, *single_seeds(names, given.cells)]))
        return
    for task in COMBAT.tasks:
        draw_curves(COMBAT, task, given.cells)
    given.page.write_text(page(COMBAT, given.cells, given.page.parent), encoding="utf-8")
    if given.page == PAGE:
        fill(STATUS, "combat", summary(COMBAT, given.cells))
        fill(GUIDE, "steps", steps(COMBAT, given.cells))


def summary(study: Study, cells: Path) -> str:
    """Return the table of docs/status.md: win rates of greedy play, with what each had."""
    rows: list[tuple[str, ...]] = [("map", *_SUMMED)]
    for task in study.tasks:
        of = _cells(study, task)
        found = {title: read(name, cells) for title, name in _rows(study, task).items() if name}
        steps = _expert_steps(found)
        row = [task.name.partition("/")[2]]
        for title in _SUMMED.values():
            made, cell = found.get(title), of.get(title)
            if made is None or cell is None:
                row.append(NOT_PLANNED if cell is None else MISSING)
                continue
            had = budgets.columns(cell, made, steps.get(TWO_STEPS in title), "%")
            k, learned, took, teacher, _, played = had
            won = percent(made["greedy"]["win_rate"]["student"])
            took = f"{took} s" if took != budgets.NOT_KEPT else f"seconds {took}"
            led = f"; teacher {teacher}" if teacher not in ("-", "none") else ""
            row.append(f"{won}; K {k}; {learned}; {took}{led}; seed {played}")
        rows.append((f"`{row[0]}`", *row[1:]))
    return table(rows)


def steps(study: Study, cells: Path) -> str:
    """Return the table of the guide to masks: battles won in one step and in two, greedy."""
    rows: list[tuple[str, ...]] = [("map", *_STEPS)]
    for task in study.tasks:
        found = {title: read(name, cells) for title, name in _rows(study, task).items() if name}
        if _TAUGHT in found:
            won = [_won(found.get(title)) for title in _STEPS.values()]
            rows.append((f"`{task.name.partition('/')[2]}`", *won))
    return table(rows)


def _won(made: Cell | None) -> str:
    """Return the share of battles won, with the seed where they are not those of final tables."""
    if made is None:
        return MISSING
    seed = budgets.evaluation_seed(made)
    won = percent(made["greedy"]["win_rate"]["student"])
    return won if seed == EVALUATION_SEED else f"{won}; seed {seed}"


def draw_curves(study: Study, task: Task, cells: Path) -> None:
    """Draw the learning curves of a task's networks as a file beside the cells."""
    names = {title: name for title, name in _rows(study, task).items() if name}
    found = {title: read(name, cells) for title, name in names.items()}
    kept = {
        title: cell["curves"][0] for title, cell in found.items() if cell and cell.get("curves")
    }
    if kept:
        _curves_of(task, cells).write_text(curves.drawn(kept), encoding="utf-8")


def _curves_of(task: Task, cells: Path) -> Path:
    return cells / f"{task.slug}.learning.svg"


def page(study: Study, cells: Path, beside: Path) -> str:
    """Return the page, from the cells in ``cells``; it will lie in the folder ``beside``."""
    sections = [_head(study, cells), *(_task(study, task, cells, beside) for task in study.tasks)]
    return "\n\n".join(sections) + "\n"


def _not_narrow(study: Study, cells: Path) -> str:
    """Return the maps without students in two steps of the narrow size, for the first sentence."""
    title = f"KD-MARL {NARROW}, {TWO_STEPS}"
    rows = {task: _rows(study, task) for task in study.tasks if title in _cells(study, task)}
    without = [
        f"`{task.name.partition('/')[2]}`"
        for task, names in rows.items()
        if read(names[title], cells) is None
    ]
    if not without:
        return ""
    return f" students in two steps at {FEWER} times fewer FLOPs on {' and '.join(without)};"


def _head(study: Study, cells: Path) -> str:
    return (
        "# Results in combat\n\n"
        "Not shown: rivals at equal budgets but where a row says so (QMIX and VDN had a tenth to "
        "all of the steps of MAPPO FO); more than one training seed of networks trained by "
        "reinforcement learning, but where *K* says so, so that their intervals are about episodes "
        "alone; networks of the students' size with MAPPO FO as their teacher, the strongest "
        f"rival, on other maps than `3m`;{_not_narrow(study, cells)} a network under the mask "
        "whose curve is flat, so that none is called the ceiling of its mask; the game of the "
        "paper.\n\n"
        "The KD-MARL paper's Table I beside the same table on SMAX. Made by `make results-combat`, "
        f"which keeps every cell in `{study.cells}`; this page is written from those files by "
        "`python -m benchmarks.results.render_combat`, which with `--single-seeds` prints what "
        "each training seed has. The paper's game is SMAC, ours is SMAX "
        "against its scripted enemy: win rates of one cannot be compared with those of the other, "
        "what is kept of them can. FO is full observation at full size, LH 32-wide networks under "
        f"the mask `{MASK}`, LH+A widths of 16 and 32 under it, narrow the largest width of all "
        f"agents that needs {FEWER} times fewer FLOPs than FO, in the two layers that all students "
        "here have ([anchors](anchors.md) has students of one layer at such costs). MAPPO, QMIX "
        "and VDN are trained by reinforcement learning, under the mask where there is one; "
        "KD-MARL, plain KL and BC are distilled from MAPPO FO. In two steps, a network of full "
        "size that learned to play under the mask, with MAPPO FO as its teacher at first "
        "(`bundled:masked`), is distilled in FO's place. *Won* is the "
        "share of won episodes with greedy and with sampled "
        f"play, over {study.episodes:,} evaluation episodes, with 95 % intervals in brackets (of "
        f"rows played on seed {DEVELOPMENT_SEED} a bootstrap over seeds and episodes, hull with "
        "Wilson: with five seeds it covers about 83 % where seeds matter, with one it is about "
        f"episodes alone; of seed {EVALUATION_SEED} Student's t, hull with Wilson); *kept* "
        "is the greedy win rate divided by MAPPO FO's on the same evaluation seed, with an "
        "interval where the cell has one. A return is a team's, at most 2. "
        f"{budgets.WORDS} Slopes here are points of the battles won, of one seed those of the "
        f"fitted line. Rows of seed {EVALUATION_SEED} are final: nothing was chosen by these "
        f"episodes. Seed {DEVELOPMENT_SEED} served development too, and the networks of those rows "
        "are gone, but for bundled ones; a comparison between rows of different seeds is unpaired. "
        "FLOPs are of one step of the whole team, hidden inputs dropped. "
        f"Times of a team step are those of its agents one after another, {study.latency_rounds} "
        "rounds, all teams timed in turn with nothing beside them, those in two steps in a run of "
        "their own on another day. The expert was timed as PyTorch's own modules and students by "
        "the code of each engine, so its row does not compare with theirs. A cell "
        "that was not made yet says *not measured*, one that is "
        "not part of this study has a dash."
    )


def _task(study: Study, task: Task, cells: Path, beside: Path) -> str:
    rows, of = _rows(study, task), _cells(study, task)
    found = {title: read(name, cells) for title, name in rows.items()}
    known, kept = any(cell is not None for cell in found.values()), _kept(found)
    steps = _expert_steps(found)
    body = [
        _row(task, title, of.get(title), found[title], kept, steps.get(TWO_STEPS in title))
        for title in rows
    ]
    parts = [
        f"## {task.name}",
        table([_COLUMNS, *body]),
        _reference(task, found),
        _equal(steps.get(False), of, found),
        _verdict(task, found, kept),
        _latency(found) if known else "",
        _image("Battles won over training", _curves_of(task, cells), beside),
        _heat(study, task, cells, beside),
    ]
    return "\n\n".join(part for part in parts if part)


def _expert_steps(found: dict[str, Cell | None]) -> dict[bool, int]:
    """Return the steps of the expert that is distilled, in two steps (True) with its teacher's."""
    expert, first = found.get("MAPPO FO"), found.get(_TAUGHT)
    steps = {} if expert is None else {False: int(expert["frames"])}
    return steps | ({} if first is None or not steps else {True: first["frames"] + steps[False]})


def _equal(expert: int | None, of: dict[str, AnyCell], found: dict[str, Cell | None]) -> str:
    """Say which networks were trained for as many steps as the expert, and which were not."""
    if expert is None:
        return ""
    steps = {
        title: made["frames"] / expert
        for title, made in found.items()
        if made and "frames" in made and title in of and title != "MAPPO FO"
    }
    alike = [title for title, times in steps.items() if abs(times - 1) < 0.01]
    others = [
        f"{title} ({times:.2f} times)" for title, times in steps.items() if title not in alike
    ]
    return (
        f"Trained for as many steps as MAPPO FO ({expert:,}): {', '.join(alike) or 'none'}. At "
        f"other budgets: {', '.join(others) or 'none'}."
    )


_UNMASKED, NARROW = "KD-MARL full view", "narrow"
_SUMMED = {
    "bundled expert, full view": "MAPPO FO",
    "32-wide students of it": "KD-MARL LH",
    "in two steps": f"KD-MARL LH, {TWO_STEPS}",
    f"in two steps, {FEWER} times fewer FLOPs": f"KD-MARL {NARROW}, {TWO_STEPS}",
    "same size by RL under the mask": "MAPPO LH",
    "with the expert as teacher at first": "MAPPO LH, FO as teacher",
}
_LARGE = "MAPPO full size, masked"
WITH_TEACHER = ", FO as teacher"
_TAUGHT = f"{_LARGE}{WITH_TEACHER}"
_STEPS = {
    "expert, full view": "MAPPO FO",
    "32-wide students of it": "KD-MARL LH",
    "`bundled:masked`": _TAUGHT,
    "32-wide students of that": f"KD-MARL LH, {TWO_STEPS}",
    "of widths 16 and 32": f"KD-MARL LH+A, {TWO_STEPS}",
    f"with {FEWER} times fewer FLOPs than the expert": f"KD-MARL {NARROW}, {TWO_STEPS}",
}
_COLUMNS = (
    *("policy", "paper: won %", "return of 20", "ms"),
    *budgets.COLUMNS,
    *(
        "won, greedy",
        "kept",
        "won, sampled",
        "return of 2",
        "FLOPs",
        "parameters",
    ),
)


def _rows(study: Study, task: Task) -> dict[str, str]:
    """Return each row's title and its cell's name, in the order of the paper's columns."""
    of = _cells(study, task)
    titles = [*PAPER_COLUMNS, *(title for title in of if title not in PAPER_COLUMNS)]
    return {title: of[title].compared_as if title in of else "" for title in titles}


def _cells(study: Study, task: Task) -> dict[str, AnyCell]:
    """Return the cell of each row that is part of the study."""
    wide, full = ((width,) * len(task.mixed_widths) for width in (WIDE, FULL))
    sizes = {("full", None): "FO", (MASK, wide): "LH", (MASK, task.mixed_widths): "LH+A"}
    sizes |= {("full", wide): "full view", (MASK, full): f"masked, {FULL} wide"}
    sizes |= {(MASK, narrow(task)): NARROW}
    cells: dict[str, AnyCell] = {}
    for cell, *_ in study.groups(task):
        size = sizes.get((cell.mask, cell.widths))
        large = _TAUGHT if cell.bundled == MASKED else _LARGE
        taught = WITH_TEACHER if cell.teacher else ""
        title = large if size is None else f"{cell.algorithm.upper()} {size}{taught}"
        cells[title] = cell
    for each in study.distilled(task):
        kind = ", ".join(filter(None, (sizes[each.mask, each.widths], each.label)))
        cells[f"{METHOD_NAMES[each.method]} {kind}"] = each
    return cells


def _row(
    task: Task, title: str, cell: AnyCell | None, made: Cell | None, kept: _Kept, steps: int | None
) -> tuple[str, ...]:
    theirs = PAPER[task.slug]
    column = PAPER_COLUMNS.index(title) if title in PAPER_COLUMNS else None
    said = tuple(
        "" if column is None else f"{theirs[k][column]:g}" for k in ("won", "return", "ms")
    )
    if cell is None or made is None:
        nothing = MISSING if cell else NOT_PLANNED
        return (title, *said, *(nothing,) * (len(_COLUMNS) - 4))
    agents, score = len(task.mixed_widths), made["greedy"]
    flops, parameters = _size(made)
    return (
        *(title, *said),
        *budgets.columns(cell, made, steps, "%"),
        percent(score["win_rate"]["student"]),
        _share(kept, title),
        percent(made["sampled"]["win_rate"]["student"]),
        f"{score['student']['mean'] / agents:.2f}",
        f"{flops:,}",
        f"{parameters:,}",
    )


def _size(cell: Cell) -> tuple[int, int]:
    """Return FLOPs of a team step and parameters, each agent with a network of its own."""
    cost = cell["cost"].get("student", cell["cost"])
    return int(cost["flops"]), int(cost["parameters"])


def _kept(found: dict[str, Cell | None]) -> _Kept:
    """Return each row's share of the greedy win rate of MAPPO FO, in the same episodes."""
    mine = {title: cell for title, cell in found.items() if cell is not None}
    beside = {title: cell for title, cell in mine.items() if _beside_fo(title, cell)}
    best = {
        budgets.evaluation_seed(cell): cell["greedy"]["win_rate"]["expert"]["mean"]
        for cell in beside.values()
    }
    shares: _Kept = {
        title: cell["greedy"]["retention_intervals"]["ratio"]
        for title, cell in beside.items()
        if cell["greedy"]["retention_intervals"]["ratio"]
    }
    for title, cell in mine.items():
        expert = best.get(budgets.evaluation_seed(cell))
        if title not in beside and expert:
            shares[title] = {"mean": cell["greedy"]["win_rate"]["student"]["mean"] / expert}
    return shares


def _beside_fo(title: str, cell: Cell) -> bool:
    """Tell whether a row was measured beside MAPPO FO.

    Older rows in two steps were measured beside the network of the first one, so what they keep of
    FO has no interval.
    """
    return TWO_STEPS not in title or "beside" in cell


def _share(kept: _Kept, title: str) -> str:
    """Return what a row keeps, with an interval where it has one."""
    if title not in kept:
        return MISSING
    share = kept[title] if title != "MAPPO FO" else {"mean": 1.0}
    return percent(share) if "low" in share else f"{100 * share['mean']:.1f} %"


def _mean(kept: _Kept, title: str) -> float:
    return kept[title]["mean"] if title in kept else 0.0


def _reference(task: Task, found: dict[str, Cell | None]) -> str:
    agents = len(task.mixed_widths)
    by_seed = {budgets.evaluation_seed(cell): cell for cell in found.values() if cell}
    lines = []
    for seed, cell in sorted(by_seed.items()):
        score = cell["greedy"]
        random, earned = percent(score["win_rate"]["random"]), score["random"]["mean"] / agents
        lines.append(f"On seed {seed} random play wins {random} and earns {earned:.2f}.")
        beside = [c for title, c in found.items() if c and _beside_fo(title, c)]
        if other := next((c for c in beside if budgets.evaluation_seed(c) == seed), None):
            expert = percent(other["greedy"]["win_rate"]["expert"])
            lines.append(f"MAPPO FO wins {expert} there, greedy.")
    return " ".join(lines)


def _verdict(task: Task, found: dict[str, Cell | None], kept: _Kept) -> str:
    """Return the goal beside what was kept, and what else could have been kept.

    What is kept and how many times fewer FLOPs that takes are both against MAPPO FO.
    """
    goal, expert = GOALS[task.slug], found.get("MAPPO FO")
    said, verdicts = [], set()
    sizes = ("LH", "LH+A", NARROW)
    for size, way in [(size, way) for way in ("", f", {TWO_STEPS}") for size in sizes]:
        title = f"KD-MARL {size}{way}"
        cell = found.get(title)
        if expert is not None and cell is not None and title in kept:
            fewer, (best, name) = _size(expert)[0] / _size(cell)[0], _best(kept, size)
            theirs = "larger sizes" if size == NARROW else "the same size"
            if _mean(kept, title) >= goal and _mean(kept, title) > best:
                sure = kept[title].get("low", 0.0) >= goal
                verdicts.add((fewer >= FEWER, sure))
            said.append(f"{title} keeps {_share(kept, title)} at {fewer:.1f} times fewer")
            said[-1] += f", RL under the mask at {theirs} {name}."
    text = (
        f"Goal: {100 * goal:.0f} % of MAPPO FO's win rate at {FEWER} times fewer FLOPs than MAPPO "
        f"FO, ahead of RL under the mask at the same size"
    )
    if not said:
        return f"{text}; {MISSING}."
    smaller, sure = max(verdicts, default=(False, False))
    verdict = "missed" if not verdicts else "reached" if smaller else _MORE_FLOPS
    verdict += ", but not shown by an interval" if verdicts and not sure else ""
    text += f": {verdict}. {' '.join(said)}"
    return text if verdicts else f"{text}\n\n{_why_missed(kept, goal)}"


_MORE_FLOPS = "enough is kept, with more FLOPs"


def _best(kept: _Kept, size: str) -> tuple[float, str]:
    """Return what the best network of a size keeps that RL trained under the mask, and in words.

    None was trained at the narrow size: there the best of the larger ones counts.
    """
    rivals, sizes = ("MAPPO", "QMIX", "VDN"), ("LH", "LH+A") if size == NARROW else (size,)
    titles = [
        f"{name} {theirs}{how}"
        for name in rivals
        for theirs in sizes
        for how in ("", WITH_TEACHER)
        if f"{name} {theirs}{how}" in kept
    ]
    if not titles:
        return 0.0, MISSING
    best = max(titles, key=lambda title: _mean(kept, title))
    said = best if size == NARROW else best.replace(f" {size}", "")
    return _mean(kept, best), f"{_share(kept, best)} ({said})"


def _why_missed(kept: _Kept, goal: float) -> str:
    plenty = _mean(kept, _UNMASKED) >= goal
    there = ", so that neither size nor data is short there" if plenty else ""
    large = {_LARGE: "", _TAUGHT: " with FO as its teacher"}
    theirs = [f"{_share(kept, title)}{how}" for title, how in large.items() if title in kept]
    return (
        "Where the rest is: without the mask, 32-wide students from the same data keep "
        f"{_share(kept, _UNMASKED)}{there}. "
        f"Under the mask, {FULL}-wide students keep "
        f"{_share(kept, f'KD-MARL masked, {FULL} wide')}, students from half of the episodes "
        f"{_share(kept, f'KD-MARL LH, {HALF}')}, and a network of full size trained by RL "
        f"{', '.join(theirs) or MISSING}."
    )


def _latency(found: dict[str, Cell | None]) -> str:
    """Return how long a step of the whole team takes, its agents one after the other."""
    rows: list[tuple[str, ...]] = [("one team step, median us", *_ENGINES)]
    timed = {title: cell for title, cell in found.items() if cell and cell.get("latency")}
    for title, cell in timed.items():
        if len(rows) == 1:
            rows.append(("expert", *(_team_step(cell, "expert", e) for e in _ENGINES)))
        rows.append((title, *(_team_step(cell, "student", e) for e in _ENGINES)))
    return table(rows) if len(rows) > 1 else ""


def _team_step(cell: Cell, who: str, engine: str) -> str:
    mine = [r for r in cell["latency"] if (r["who"], r["engine"]) == (who, engine)]
    return f"{sum(r['p50_us'] * len(r['agents']) for r in mine):.1f}" if mine else NOT_PLANNED


def _heat(study: Study, task: Task, cells: Path, beside: Path) -> str:
    lines = []
    for cell in (each for each in study.distilled(task) if each.heat):
        size = "-".join(map(str, cell.widths))
        title = f"Action frequency over time, {METHOD_NAMES[cell.method]} {size}"
        lines.append(_image(title, cells / f"{cell.id}.heat.svg", beside))
    return "\n\n".join(line for line in lines if line)


def _image(title: str, file: Path, beside: Path) -> str:
    """Return a link to a drawing from a page in the folder ``beside``, if the drawing exists."""
    if not file.is_file():
        return ""
    return f"![{title}]({Path(os.path.relpath(file, beside)).as_posix()})"


if __name__ == "__main__":
    main()
