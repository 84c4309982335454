"""Write docs/results-methods.md from the cells that are there; only what was measured is shown.

python -m benchmarks.results.render_methods
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.results.methods import (
    BATCH_EPISODES,
    METHODS,
    WIDTH,
    baseline,
    comparisons,
    contests,
    distilled_cells,
)
from benchmarks.results.plan import EVALUATION_SEED, AnyCell, DistilledCell, Task
from benchmarks.results.render import Cell, estimate, read, table

PAGE = Path("docs/results-methods.md")
_HEAD = (
    *("method", "return, greedy", "kept", "less plain KL", "return, sampled", "less plain KL"),
    *("agreement", "seconds a seed"),
)


def main() -> None:
    """Write the page, where there is a cell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=Path, default=METHODS.cells)
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args()
    if not any(given.cells.glob("*.json")):
        print(f"no cell in {given.cells}, so no page: run python -m benchmarks.results.run")
        return
    given.page.write_text(page(given.cells), encoding="utf-8")


def page(cells: Path) -> str:
    """Return the page."""
    sections = [_task(task, cells) for task in METHODS.tasks]
    cells_of = {task: distilled_cells(task) for task in METHODS.tasks}
    there = {task: sum(read(c.id, cells) is not None for c in of) for task, of in cells_of.items()}
    missing = [
        f"{len(of) - there[task]} of {len(of)} rows of {task.name}"
        for task, of in cells_of.items()
        if there[task] < len(of)
    ]
    return "\n\n".join([_head(missing), *(text for text in sections if text)]) + "\n"


def _head(missing: Sequence[str]) -> str:
    limits = (
        *missing,
        "other widths",
        "other temperatures",
        "other weights of terms than those of the recipes, which were tuned for no task",
        "whether the order of the methods holds with ten times the data, as on "
        "[the first page](results.md)",
    )
    return (
        f"# Ways to distil, side by side\n\nNot shown: {'; '.join(limits)}.\n\n"
        "Every method of [the guide](guide/methods.md) with the same expert, data, mask, student "
        f"width ({WIDTH}), epochs, batches of {BATCH_EPISODES} episodes and seeds; only the "
        "objective differs. Made by "
        f"`make results-methods`, which keeps every cell in `{METHODS.cells}`. *Kept* is the "
        "return less that of random play, as a share of the expert's; *less plain KL* the "
        "difference of mean returns to plain KL from the same data at the temperature of the "
        "method's own KL, paired by episode. Brackets are 95 % intervals over distillation seeds "
        f"crossed with evaluation episodes, which follow from seed {EVALUATION_SEED}. A difference "
        "whose interval holds 0 was not shown. Several methods are compared and nothing is "
        "corrected for it. *Seconds* are time on the clock, of a machine busy with other work."
    )


def _task(task: Task, cells: Path) -> str:
    """Return the section of a task; empty where nothing of it was measured."""
    made = {cell: read(cell.id, cells) for cell in distilled_cells(task)}
    rows = [_row(cell, found, cells) for cell, found in made.items() if found]
    if not rows:
        return ""
    found = next(cell for cell in made.values() if cell)
    expert = "the bundled expert" if task.bundled else "a QMIX expert"
    said = (
        f"Mask `{found['mask']}`; {task.dataset_episodes:,} episodes, {task.epochs} epochs from "
        f"{expert}; {found['seeds']} distillation seeds, {found['episodes']:,} evaluation episodes."
    )
    parts = [f"## {task.name}", said, table([_HEAD, *rows]), _verdict(task, cells)]
    return "\n\n".join(part for part in parts if part)


def _row(cell: DistilledCell, made: Cell, cells: Path) -> tuple[str, ...]:
    gap = _gap(cell, baseline(cell), cells)
    parts = []
    for mode in ("greedy", "sampled"):
        parts.append(estimate(made[mode]["student"]))
        if mode == "greedy":
            kept = made[mode]["retention"]["normalised"]
            parts.append("-" if kept is None else f"{100 * kept:.1f} %")
        parts.append("-" if gap is None else estimate(gap[mode]))
    agreement = f"{100 * made['agreement']:.1f} %"
    return (_title(cell), *parts, agreement, f"{np.mean(made['seconds']):.0f}")


def _title(cell: AnyCell) -> str:
    assert isinstance(cell, DistilledCell)
    return f"`{cell.method}`{f', {cell.label}' if cell.label else ''}"


def _verdict(task: Task, cells: Path) -> str:
    """Return which methods were shown to be better or worse, and the contest for the default."""
    better: list[str] = []
    worse: list[str] = []
    open_: list[str] = []
    for one, other in comparisons(task):
        gap = _gap(one, other, cells)
        if gap is not None:
            low, high = gap["greedy"]["low"], gap["greedy"]["high"]
            (better if low > 0 else worse if high < 0 else open_).append(_title(one))
    said = [
        f"{words}: {', '.join(names)}."
        for words, names in (
            ("Better than plain KL in greedy play", better),
            ("Worse", worse),
            ("No difference was shown", open_),
        )
        if names
    ]
    if not said:
        return ""
    return "\n\n".join(["### Which to use when", " ".join(said), *_contests(task, cells)])


def _contests(task: Task, cells: Path) -> list[str]:
    """Return the table of candidates for the default, less each other; nothing without figures."""
    pairs = [(one, other, _gap(one, other, cells)) for one, other in contests(task)]
    rows = [
        (*map(_title, (one, other)), estimate(gap["greedy"]), estimate(gap["sampled"]))
        for one, other, gap in pairs
        if gap is not None
    ]
    head = ("candidate for the default", "less", "return, greedy", "return, sampled")
    return [table([head, *rows])] if rows else []


def _gap(one: AnyCell, other: AnyCell, cells: Path) -> Cell | None:
    return read(f"{one.compared_as}.minus.{other.compared_as}", cells)


if __name__ == "__main__":
    main()
