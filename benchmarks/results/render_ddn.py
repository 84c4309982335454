"""Write docs/results-ddn.md from the cells that are there; a cell that is missing says so.

python -m benchmarks.results.render_ddn
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from benchmarks.results import budgets, curves
from benchmarks.results.ddn import (
    BATCH_EPISODES,
    BOARD,
    DDN,
    FRAMES,
    FULL_VIEW,
    HYPERNETWORK,
    PAPER_INTRINSIC,
    PAPER_LOSSES,
    PAPER_MAPS,
    PAPER_PROBABILITIES,
    PAPER_TWO_PHASES,
    PAPER_WITH_DDN,
    PENALTIES,
    SEEDS,
)
from benchmarks.results.plan import EVALUATION_SEED, DistilledCell, NetworkCell, Study, Task
from benchmarks.results.render import Cell, Row, percent, read, table

PAGE = Path("docs/results-ddn.md")
MISSING = budgets.NOT_MADE
_COLUMNS = (
    *("algorithm", "K", "steps", "core seconds"),
    *("return, greedy", "won, greedy", "return, sampled", "won, sampled"),
)


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=Path, default=DDN.cells)
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args()
    for task in DDN.tasks:
        draw_curves(DDN, task, given.cells)
    given.page.write_text(page(DDN, given.cells, given.page.parent), encoding="utf-8")


def page(study: Study, cells: Path, beside: Path) -> str:
    """Return the page, from the cells in ``cells``; it will lie in the folder ``beside``."""
    sections = [
        _head(study, cells),
        *(_task(study, task, cells, beside) for task in study.tasks),
        _paper(),
    ]
    return "\n\n".join(sections) + "\n"


def draw_curves(study: Study, task: Task, cells: Path) -> None:
    """Draw the learning curves of a task's algorithms as a file beside the cells."""
    kept = {
        name: cell["curves"]
        for name, cell in _measured(study, task, cells).items()
        if cell and cell["curves"] and all(cell["curves"])
    }
    if kept:
        _curves_of(task, cells).write_text(curves.banded(kept), encoding="utf-8")


def _curves_of(task: Task, cells: Path) -> Path:
    return cells / f"{task.slug}.learning.svg"


def _measured(study: Study, task: Task, cells: Path) -> dict[str, Cell | None]:
    """Return the cell of each kind of network by its name, None where it was not made."""
    return {_name(group[0]): read(group[0].group, cells) for group in study.groups(task)}


_SEES = {FULL_VIEW: "full sight", HYPERNETWORK: "state through a hypernetwork"}


def _name(cell: NetworkCell) -> str:
    if cell.algorithm != "ddn":
        sees = f", {_SEES[cell.label]}" if cell.label else ""
        return f"{cell.algorithm.upper()}{sees}"
    return f"DDN ({(cell.label or 'qmix').upper()}), {cell.part or 'guiding'}"


def _head(study: Study, cells: Path) -> str:
    kinds = [group for task in study.tasks for group in study.groups(task)]
    found = [(group, read(group[0].group, cells)) for group in kinds]
    done = [cell for _, cell in found if cell]
    whole = sum(cell["seeds"] == len(group) for group, cell in found if cell)
    students = [cell for task in study.tasks for cell in study.distilled(task)]
    unmade = sum(read(cell.id, cells) is None for cell in students)
    # A part was made by the training that another cell counts.
    made = [cell for cell in done if cell["curves"]]
    hours = sum(sum(cell["processor_seconds"]) for cell in made) / 3600
    board = dict(BOARD)
    return (
        "# Results of value decomposition and the Double Distillation Network\n\n"
        f"Not shown: {len(found) - whole} of {len(found)} kinds of networks with all of their "
        f"training seeds ({len(done) - whole} have fewer, {len(found) - len(done)} none); {unmade} "
        f"of {len(students)} rows of students from files; the Double Distillation Network with "
        "other penalties than 0.5; CTDS, PTDE and IGM-DA while their teachers train, and more than "
        "one of their teachers; ablations of losses while the teacher trains, and of the intrinsic "
        "reward; SMAX; the paper's board of 10 x 10 cells, on which one training takes hours; the "
        "game of the paper's tables. No difference between algorithms is claimed where a row has "
        "fewer than "
        f"{len(SEEDS)} seeds.\n\n"
        f"Made by `make results-ddn`, which keeps every cell in `{study.cells}`; this page is "
        "written from those files by `python -m benchmarks.results.render_ddn`. The task is "
        f"`grid/predator_prey` on a small board: {board['size']} x {board['size']} cells, "
        f"{board['n_predators']} predators, {board['n_prey']} prey, windows of "
        f"{board['view']} x {board['view']} cells, {board['episode_limit']} steps; the best "
        "return of a team is 20. A predator that tries to capture alone costs the team the lone "
        f"penalty. Every network is trained for {FRAMES:,} steps by the same settings, which "
        "`benchmarks/results/ddn.py` states. *Core seconds* are processor time of one training, "
        "the median over seeds, on a machine that was busy with other work. *Return* is a team's. "
        f"All rows are of {study.episodes:,} evaluation episodes of seed {EVALUATION_SEED}, with "
        "95 % intervals in brackets (Student's t over training seeds crossed with episodes; win "
        "rates: hull with Wilson); with one training seed an interval is about episodes alone. "
        f"The cells on this page took {hours:.2f} core-hours."
    )


def _task(study: Study, task: Task, cells: Path, beside: Path) -> str:
    measured = _measured(study, task, cells)
    rows = [_COLUMNS, *(_row(task, name, cell) for name, cell in measured.items())]
    drawn = _curves_of(task, cells)
    picture = ""
    if drawn.is_file():
        where = os.path.relpath(drawn, beside).replace(os.sep, "/")
        picture = f"\n\n![Episodes won over training]({where})"
    networks = f"## Lone penalty {PENALTIES[task.slug]:g}\n\n{table(rows)}{picture}"
    return "\n\n".join([networks, *_students(study, task, cells)])


_OF_STUDENTS = (
    *("students", "width", "teacher", "K", "return, greedy", "won, greedy", "kept"),
    *("less the local network", "return, sampled", "parameters", "FLOPs"),
)


def _students(study: Study, task: Task, cells: Path) -> list[str]:
    """Return the section on students from files; nothing where none was made."""
    made = [(cell, read(cell.id, cells)) for cell in study.distilled(task)]
    rows = [_of_students(study, cell, found, cells) for cell, found in made if found]
    if not rows:
        return []
    said = (
        f"Each teacher is one training of the table above (the number is its seed), recorded for "
        f"{task.dataset_episodes} episodes. Students learn from that file alone for {task.epochs} "
        f"epochs in batches of {BATCH_EPISODES} episodes. `ddn-external` makes students of the "
        "kind of the local network, with a fusion block; `ptde` has PTDE's; the others are plain "
        "GRUs. All see their own observation and last action. *Kept* is the greedy return less "
        "that of random play, as a share of the teacher's. *Less the local network*: by how much "
        "the greedy return is above that of the network that the same teacher taught while it "
        "trained, in the same episodes; an interval that holds 0 shows no difference. *FLOPs* are "
        "of one decision of the team."
    )
    return ["### Students from files", said, table([_OF_STUDENTS, *rows])]


def _of_students(study: Study, cell: DistilledCell, made: Cell, cells: Path) -> Row:
    agents = len(cell.widths)
    pairs = dict(study.comparisons(cell.task)) if study.comparisons else {}
    names = [each.compared_as for each in (cell, pairs.get(cell)) if each]
    gap = read(".minus.".join(names), cells) if len(names) == 2 else None
    kept = made["greedy"]["retention_intervals"]["normalised"]
    left_out = cell.label.partition(".without-")[2]
    return (
        f"`{cell.method}`{_WITHOUT[left_out]}",
        str(cell.widths[0]),
        _teacher(cell),
        str(made["seeds"]),
        _of_team(made["greedy"]["student"], agents),
        percent(made["greedy"]["win_rate"]["student"]),
        percent(kept) if kept else "-",
        _of_team(gap["greedy"], agents) if gap else "-",
        _of_team(made["sampled"]["student"], agents),
        f"{made['cost']['student']['parameters']:,}",
        f"{made['cost']['student']['flops']:,.0f}",
    )


_WITHOUT = {
    "": "",
    "privileged_embedding": " without L_B",
    "feature": " without L_F",
    "privileged_embedding-feature": ", L_Q alone",
}


def _teacher(cell: DistilledCell) -> str:
    assert cell.expert is not None
    return f"{_name(cell.expert)}, {cell.expert.seed}"


def _row(task: Task, name: str, cell: Cell | None) -> Row:
    if cell is None:
        return (name, "0", *(MISSING,) * (len(_COLUMNS) - 2))
    spent = budgets.seconds({"seconds": cell["processor_seconds"]})
    shown = [
        text
        for mode in ("greedy", "sampled")
        for text in (
            _of_team(cell[mode]["student"], len(task.mixed_widths)),
            percent(cell[mode]["win_rate"]["student"]),
        )
    ]
    return (name, str(cell["seeds"]), f"{cell['frames']:,}", spent, *shown)


def _of_team(summed: dict[str, float], agents: int) -> str:
    """Return the reward of a team, whose agents all get the same, with its interval."""
    mean, low, high = (summed[end] / agents for end in ("mean", "low", "high"))
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def _paper() -> str:
    """Return the paper's tables, with a column for ours, which is not measured yet."""

    def shown(pair: tuple[float, float] | None) -> str:
        return "-" if pair is None else f"{pair[0]:.4f} / {pair[1]:.4f}"

    with_ddn: list[Row] = [("algorithm", "map", "paper: alone", "paper: with DDN", "ours")]
    with_ddn += [
        (*key, f"{alone:.4f}", f"{helped:.4f}", MISSING)
        for key, (alone, helped) in PAPER_WITH_DDN.items()
    ]
    phases: list[Row] = [("paper: teacher / student", *PAPER_MAPS, "ours")]
    phases += [
        (name, *(shown(pair) for pair in pairs), MISSING)
        for name, pairs in PAPER_TWO_PHASES.items()
    ]
    losses: list[Row] = [("map", "paper: fewer losses", "paper: L_B, L_Q and L_F", "ours")]
    losses += [
        (name, f"{fewer:.4f}", f"{whole:.4f}", MISSING)
        for name, (fewer, whole) in PAPER_LOSSES.items()
    ]
    chances = ["none" if p is None else f"{p:.2f}" for p in PAPER_PROBABILITIES]
    intrinsic: list[Row] = [("paper: probability of the mask", *chances, "ours")]
    intrinsic += [
        (name, *(f"{rate:.4f}" for rate in rates), MISSING)
        for name, rates in PAPER_INTRINSIC.items()
    ]
    titled = (
        ("Table 1: win rates without and with DDN", with_ddn),
        ("Table 2: the teacher and its student", phases),
        ("Table 4: losses of the student (which ones the smaller rows have is lost)", losses),
        ("Table 5: the intrinsic reward, by the probability of its mask", intrinsic),
    )
    tables = "\n\n".join(f"{title}\n\n{table(rows)}" for title, rows in titled)
    return f"## The paper's tables\n\nWin rates on SMAC, as printed.\n\n{tables}"


if __name__ == "__main__":
    main()
