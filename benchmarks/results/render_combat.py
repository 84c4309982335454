"""Write docs/results-combat.md from the cells that are there; a cell that is missing says so.

python -m benchmarks.results.render_combat
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from benchmarks.results import curves
from benchmarks.results.combat import (
    COMBAT,
    FIRST_STEP,
    FULL,
    GOALS,
    HALF,
    MASK,
    PAPER,
    PAPER_COLUMNS,
    TWO_STEPS,
    WIDE,
)
from benchmarks.results.plan import Study, Task
from benchmarks.results.render import METHOD_NAMES, Cell, percent, read, table
from benchmarks.results.run import group_name, recipe_of

PAGE = Path("docs/results-combat.md")
_Kept = dict[str, float]
MISSING = "*not measured*"
NOT_PLANNED = "-"
FEWER = 40
# The time of a step is worth a row only for teams whose decisions were timed.
_ENGINES = ("torch", "onnx", "c")


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=Path, default=COMBAT.cells)
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args()
    for task in COMBAT.tasks:
        draw_curves(COMBAT, task, given.cells)
    given.page.write_text(page(COMBAT, given.cells, given.page.parent), encoding="utf-8")


def draw_curves(study: Study, task: Task, cells: Path) -> None:
    """Draw the learning curves of a task's networks as a file beside the cells."""
    names = {title: name for title, name in _rows(study, task).items() if name}
    found = {title: read(name, cells) for title, name in names.items()}
    kept = {title: cell["curve"] for title, cell in found.items() if cell and cell.get("curve")}
    if kept:
        _curves_of(task, cells).write_text(curves.drawn(kept), encoding="utf-8")


def _curves_of(task: Task, cells: Path) -> Path:
    return cells / f"{task.slug}.learning.svg"


def page(study: Study, cells: Path, beside: Path) -> str:
    """Return the page, from the cells in ``cells``; it will lie in the folder ``beside``."""
    sections = [_head(study), *(_task(study, task, cells, beside) for task in study.tasks)]
    return "\n\n".join(sections) + "\n"


def _head(study: Study) -> str:
    return (
        "# Results in combat\n\n"
        "The KD-MARL paper's Table I beside the same table on SMAX. Made by `make results-combat`, "
        f"which keeps every cell in `{study.cells}`; this page is written from those files by "
        "`python -m benchmarks.results.render_combat`. The paper's game is SMAC, ours is SMAX "
        "against its scripted enemy: win rates of one cannot be compared with those of the other, "
        "what is kept of them can. FO is full observation at full size, LH 32-wide networks under "
        f"the mask `{MASK}`, LH+A widths of 16 and 32 under it. MAPPO, QMIX and VDN are trained by "
        "reinforcement learning, under the mask where there is one; KD-MARL, plain KL and BC are "
        "distilled from MAPPO FO. In two steps, a network of full size that learned to play "
        "under the mask, with MAPPO FO as its teacher at first (`bundled:masked`), is distilled in "
        "FO's place. *Won* is the "
        "share of won episodes with greedy and with sampled "
        f"play, over {study.episodes:,} evaluation episodes on the same seeds for everyone, with "
        "95 % intervals in brackets (bootstrap over seeds and episodes, hull with Wilson; with "
        "five seeds it covers about 83 % where seeds matter, with one it is about episodes "
        "alone); *kept* "
        "is the greedy win rate divided by MAPPO FO's. A return is a team's, at most 2. *Seeds* "
        "are those of the networks, which learned from joint steps that they played themselves or "
        "from recorded battles. FLOPs are of one step of the whole team, hidden inputs dropped. "
        f"Times of a team step are those of its agents one after another, {study.latency_rounds} "
        "rounds, all teams timed in turn with nothing beside them, those in two steps in a run of "
        "their own on another day. The expert was timed as PyTorch's own modules and students by "
        "the code of each engine, so its row does not compare with theirs. A cell "
        "that was not made yet says *not measured*, one that is "
        "not part of this study has a dash."
    )


def _task(study: Study, task: Task, cells: Path, beside: Path) -> str:
    rows = _rows(study, task)
    found = {title: read(name, cells) for title, name in rows.items()}
    known, kept = any(cell is not None for cell in found.values()), _kept(found)
    battles = {each.id: each.episodes or task.dataset_episodes for each in study.distilled(task)}
    body = [
        _row(task, name, found[name], kept, planned=bool(id), battles=battles.get(id))
        for name, id in rows.items()
    ]
    parts = [
        f"## {task.name}",
        _taught(study, task),
        table([_COLUMNS, *body]),
        _reference(task, found),
        _verdict(task, found, kept),
        _latency(found) if known else "",
        _image("Battles won over training", _curves_of(task, cells), beside),
        _heat(study, task, cells, beside),
    ]
    return "\n\n".join(part for part in parts if part)


def _taught(study: Study, task: Task) -> str:
    """Say whom the networks trained by RL followed at first, if anyone."""
    recipe = recipe_of(next(iter(study.networks(task))))
    if recipe.kickstart is None:
        return ""
    return (
        f"MAPPO follows `{recipe.kickstart.teacher}` for the first "
        f"{recipe.kickstart.frames:,} of {recipe.frames:,} joint steps here, masked or not, but "
        "where FO is the teacher."
    )


_UNMASKED = "KD-MARL full view"
_CEILING = "MAPPO full size, masked"
_TAUGHT = f"{_CEILING}, FO as teacher"
_COLUMNS = (
    *("policy", "paper: won %", "return of 20", "ms"),
    *(
        "seeds",
        "learned from",
        "won, greedy",
        "kept",
        "won, sampled",
        "return of 2",
        "FLOPs",
        "parameters",
    ),
)


def _rows(study: Study, task: Task) -> dict[str, str]:
    """Return each row's title and its cell, in the order of the paper's columns."""
    wide, full = ((width,) * len(task.mixed_widths) for width in (WIDE, FULL))
    sizes = {("full", None): "FO", (MASK, wide): "LH", (MASK, task.mixed_widths): "LH+A"}
    sizes |= {("full", wide): "full view", (MASK, full): f"masked, {FULL} wide"}
    names: dict[str, str] = {}
    for cell in study.groups(task):
        size = sizes.get((cell.mask, cell.widths))
        large = _TAUGHT if cell.bundled == FIRST_STEP else _CEILING
        title = large if size is None else f"{cell.algorithm.upper()} {size}"
        names[title] = group_name(cell)
    for each in study.distilled(task):
        kind = ", ".join(filter(None, (sizes[each.mask, each.widths], each.label)))
        names[f"{METHOD_NAMES[each.method]} {kind}"] = each.id
    titles = [*PAPER_COLUMNS, *(title for title in names if title not in PAPER_COLUMNS)]
    return {title: names.get(title, "") for title in titles}


def _row(
    task: Task, title: str, cell: Cell | None, kept: _Kept, *, planned: bool, battles: int | None
) -> tuple[str, ...]:
    theirs = PAPER[task.slug]
    column = PAPER_COLUMNS.index(title) if title in PAPER_COLUMNS else None
    said = tuple(
        "" if column is None else f"{theirs[k][column]:g}" for k in ("won", "return", "ms")
    )
    if cell is None:
        return (title, *said, *(MISSING if planned else NOT_PLANNED,) * (len(_COLUMNS) - 4))
    agents, score = len(task.mixed_widths), cell["greedy"]
    flops, parameters = _size(cell)
    return (
        *(title, *said),
        str(cell["seeds"]),
        f"{battles:,} battles" if battles else f"{cell['frames']:,} steps",
        percent(score["win_rate"]["student"]),
        _share(kept, title),
        percent(cell["sampled"]["win_rate"]["student"]),
        f"{score['student']['mean'] / agents:.2f}",
        f"{flops:,}",
        f"{parameters:,}",
    )


def _size(cell: Cell) -> tuple[int, int]:
    """Return FLOPs of a team step and parameters, each agent with a network of its own."""
    cost = cell["cost"].get("student", cell["cost"])
    return int(cost["flops"]), int(cost["parameters"])


def _kept(found: dict[str, Cell | None]) -> _Kept:
    """Return each row's share of the greedy win rate of MAPPO FO, on the same episodes."""
    won = {
        title: float(cell["greedy"]["win_rate"]["student"]["mean"])
        for title, cell in found.items()
        if cell is not None
    }
    best = won.get("MAPPO FO")
    return {title: mine / best for title, mine in won.items()} if best else {}


def _share(kept: _Kept, title: str) -> str:
    return f"{100 * kept[title]:.1f} %" if title in kept else MISSING


def _reference(task: Task, found: dict[str, Cell | None]) -> str:
    made = next((cell for cell in found.values() if cell), None)
    if made is None:
        return ""
    score, agents = made["greedy"], len(task.mixed_widths)
    random = percent(score["win_rate"]["random"])
    return f"Random play wins {random} and earns {score['random']['mean'] / agents:.2f}."


def _verdict(task: Task, found: dict[str, Cell | None], kept: _Kept) -> str:
    """Return the goal beside what was kept, and what else could have been kept.

    What is kept and how many times fewer FLOPs that takes are both against MAPPO FO.
    """
    goal, expert = GOALS[task.slug], found.get("MAPPO FO")
    said, reached, enough = [], False, False
    for size, way in [(size, way) for way in ("", f", {TWO_STEPS}") for size in ("LH", "LH+A")]:
        title = f"KD-MARL {size}{way}"
        cell = found.get(title)
        if expert is not None and cell is not None and title in kept:
            fewer, (best, name) = _size(expert)[0] / _size(cell)[0], _best(kept, size)
            keeps = kept[title] >= goal and kept[title] > best
            reached, enough = reached or (keeps and fewer >= FEWER), enough or keeps
            said.append(f"{title} keeps {_share(kept, title)} at {fewer:.1f} times fewer")
            said[-1] += f", RL under the mask at the same size {name}."
    text = (
        f"Goal: {100 * goal:.0f} % of MAPPO FO's win rate at {FEWER} times fewer FLOPs than MAPPO "
        f"FO, ahead of RL under the mask at the same size"
    )
    if not said:
        return f"{text}; {MISSING}."
    verdict = "reached" if reached else "enough is kept, with more FLOPs" if enough else "missed"
    text += f": {verdict}. {' '.join(said)}"
    return text if enough else f"{text}\n\n{_why_missed(kept, goal)}"


def _best(kept: _Kept, size: str) -> tuple[float, str]:
    """Return what the best network of a size keeps that RL trained under the mask, and in words."""
    titles = [f"{name} {size}" for name in ("MAPPO", "QMIX", "VDN") if f"{name} {size}" in kept]
    if not titles:
        return 0.0, MISSING
    best = max(titles, key=lambda title: kept[title])
    return kept[best], f"{_share(kept, best)} ({best.split()[0]})"


def _why_missed(kept: _Kept, goal: float) -> str:
    plenty = kept.get(_UNMASKED, 0.0) >= goal
    there = ", so that neither size nor data is short there" if plenty else ""
    large = {_CEILING: "", _TAUGHT: " with FO as its teacher"}
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
