"""Write docs/results.md, and the README's table, from the cells that are there.

A cell that is missing says so.

python -m benchmarks.results.render
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.results.plan import (
    ABLATION_SEEDS,
    DISTILLATION_SEEDS,
    EPISODES,
    MASKS,
    METHODS,
    PARTICLE,
    RL_SEEDS,
    TASKS,
    Task,
    ablation_cells,
    distilled_cells,
    network_cells,
)
from benchmarks.results.run import group_name

PAGE = Path("docs/results.md")
README = Path("README.md")
MODES = ("greedy", "sampled")
Cell = dict[str, Any]

# KD-MARL (arXiv 2604.06691), Table II, returns as printed; the paper states no episodes, no seeds
# and no normalisation, and its adversary row repeats that of another map.
PAPER = {
    "spread": (-46.0, -84.0, -120.0, -48.5, -50.5),
    "speaker-listener": (-46.0, -82.0, -118.0, -48.0, -50.0),
    "adversary": (18.0, 16.5, 13.0, 16.8, 16.5),
}
PAPER_COLUMNS = ("MAPPO FO", "MAPPO LH", "MAPPO LH+A", "KD-MARL LH", "KD-MARL LH+A")
METHOD_NAMES = {"kd-marl": "KD-MARL", "kl": "plain KL", "bc": "BC"}


def main() -> None:
    """Write the page."""
    sections = [_head(), *(_task(task) for task in TASKS)]
    PAGE.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    text = README.read_text(encoding="utf-8")
    before, after = text.split(_BEGIN)[0], text.split(_END)[1]
    README.write_text(f"{before}{_BEGIN}\n{_summary()}\n{_END}{after}", encoding="utf-8")


_BEGIN, _END = "<!-- table:begin -->", "<!-- table:end -->"


def _summary() -> str:
    """Return the README's table: the first task at its defaults."""
    spread, wide = TASKS[0], (32, 32, 32)
    cells = {
        c.mask: read(c.id)
        for c in distilled_cells(spread)
        if c.method == METHODS[0] and c.widths == wide
    }
    alike = [c for c in network_cells(spread) if c.widths == wide]
    trained = max(alike, key=lambda c: (read(group_name(c)) is not None, c.frames))
    rows: list[tuple[str, ...]] = [
        ("", "greedy", "kept", "sampled", "kept"),
        ("expert", *_pair(cells["full"], "expert")),
        ("students, mask `full`", *_pair(cells["full"], "student")),
        ("students, mask `limited`", *_pair(cells["limited"], "student")),
        (
            f"same size trained by RL, {trained.frames:,} steps, {len(RL_SEEDS)} seeds, mask "
            f"`{trained.mask}`",
            *_pair(read(group_name(trained)), "student"),
        ),
        ("random play", *_pair(cells["full"], "random")),
    ]
    return table(rows)


def _pair(cell: Cell | None, party: str) -> tuple[str, ...]:
    """Return return and share kept, greedy and then sampled."""
    out: list[str] = []
    for mode in MODES:
        score = None if cell is None else cell.get(mode)
        out.append("*not measured*" if score is None else estimate(score[party]))
        kept = None if score is None else score["retention_intervals"]["normalised"]
        out.append(percent(kept) if kept and party == "student" else "")
    return tuple(out)


def percent(value: dict[str, float]) -> str:
    """Return a share with its interval, in percent."""
    return f"{100 * value['mean']:.1f} % [{100 * value['low']:.1f}, {100 * value['high']:.1f}]"


def read(name: str, cells: Path = PARTICLE.cells) -> Cell | None:
    """Return a cell, or None where it was not made."""
    file = cells / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def _head() -> str:
    return (
        "# Results\n\n"
        "Made by `make results`, which trains, records, distils and measures every cell and keeps "
        "it in `docs/results/cells`; this page is written from those files by "
        "`python -m benchmarks.results.render`. Returns are sums over the agents of a team and "
        f"over the steps of an episode, means of {EPISODES:,} evaluation episodes on the same "
        "seeds for everyone, with 95 % intervals in brackets (Student's t over seeds and episodes, "
        "see `docs/decisions/005-evaluation.md`; of the sides of `mpe/simple_adversary_v3` by a "
        "bootstrap, which covers about 83 % with five seeds and 54 % with two where seeds matter). "
        f"Distilled cells have {len(DISTILLATION_SEEDS)} distillation seeds, ablations "
        f"{len(ABLATION_SEEDS)}; networks trained by "
        f"RL have {len(RL_SEEDS)} seeds each, and the bundled expert is one network. *Kept* is "
        "(return - random) / (expert - random). The *ceiling* of a mask is the best network of "
        "any size that RL trained directly under it; more than 100 % says that longer training "
        "or another seed would raise it. Not shown: rivals at equal budgets (the bundled experts "
        "were trained for two to four times as many steps as the networks beside them), and "
        "networks of the students' size trained under the mask with the expert as their teacher, "
        "the rival most likely to win. Where sides play against each other, each side meets "
        "the expert's opponents and has rows of its own. A cell that was not made yet says *not "
        "measured*."
    )


def _task(task: Task) -> str:
    parts = [f"## {task.name}", _paper(task), _returns(task), _costs(task), _ablation(task)]
    return "\n\n".join(part for part in parts if part)


def _paper(task: Task) -> str:
    rows = [PAPER_COLUMNS, tuple(f"{x:.1f}" for x in PAPER[task.slug])]
    return "The paper's Table II, on a scale of its own:\n\n" + table(rows)


def _returns(task: Task) -> str:
    made = next((c for c in _cells(task) if c), None)
    if made is None:
        return ""
    sides = list(made["greedy"].get("sides") or {})
    tables = [_side_returns(task, made, side) for side in (sides if len(sides) > 1 else [""])]
    return "\n\n".join(tables)


def _side_returns(task: Task, made: Cell, side: str) -> str:
    """Return the table of one side, or of all where ``side`` is empty."""
    rows: list[tuple[str, ...]] = [("policy", "play", *MASKS)]
    for mode in MODES:
        for title, names in _policies(task):
            shown = [_score(read(names[m]), mode, side) if m in names else "" for m in MASKS]
            rows.append((title, mode, *shown))
    words = f"Side *{side}*. " if side else ""
    return f"{words}{_reference(made, side)}\n\n{table(rows)}"


def _policies(task: Task) -> list[tuple[str, dict[str, str]]]:
    """Return each row's title and the name of its cell for each mask."""
    networks: dict[str, dict[str, str]] = {}
    for cell in network_cells(task):
        size = "full size" if cell.widths is None else f"width {_widths(cell.widths)}"
        title = f"MAPPO under the mask, {size}, {cell.frames:,} steps, {len(RL_SEEDS)} seeds"
        networks.setdefault(title, {})[cell.mask] = group_name(cell)
    students: dict[str, dict[str, str]] = {}
    for each in distilled_cells(task):
        seeds = len(each.seeds)
        title = f"{METHOD_NAMES[each.method]}, width {_widths(each.widths)}, {seeds} seeds"
        students.setdefault(title, {})[each.mask] = each.id
    return [*networks.items(), *students.items()]


def _widths(widths: tuple[int, ...]) -> str:
    return str(widths[0]) if len(set(widths)) == 1 else ", ".join(map(str, widths))


def _cells(task: Task) -> list[Cell | None]:
    return [read(name) for _, names in _policies(task) for name in names.values()]


def _reference(cell: Cell, side: str) -> str:
    lines = []
    for mode in MODES:
        score = _scored(cell, mode, side)
        expert, random = estimate(score["expert"]), estimate(score["random"])
        lines.append(f"Bundled expert, {mode}: {expert}; random: {random}.")
    return " ".join(lines)


def _scored(cell: Cell, mode: str, side: str) -> Cell:
    score: Cell = cell[mode]["sides"][side] if side else cell[mode]
    return score


def _score(cell: Cell | None, mode: str, side: str = "") -> str:
    if cell is None:
        return "*not measured*"
    score = _scored(cell, mode, side)
    kept, ceiling = score["retention"]["normalised"], score["retention"].get("of_ceiling")
    text = estimate(score["student"])
    text += "" if kept is None else f", {100 * kept:.1f} %"
    return text + ("" if ceiling is None else f" ({100 * ceiling:.1f} % of ceiling)")


def estimate(value: dict[str, float]) -> str:
    """Return a mean with its interval."""
    return f"{value['mean']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"


def _costs(task: Task) -> str:
    rows: list[tuple[str, ...]] = [
        ("students", "mask", "parameters", "FLOPs a team step", "fewer than the expert", "seconds")
    ]
    for cell in distilled_cells(task):
        made = read(cell.id)
        if made is None or cell.method != "kd-marl":
            continue
        cost, seconds = made["cost"], sorted(made["seconds"])
        rows.append(
            (
                _widths(cell.widths),
                cell.mask,
                f"{cost['student']['parameters']:,}",
                f"{cost['student']['flops']:,}",
                f"{cost['flops_reduction']:.1f}x",
                f"{seconds[len(seconds) // 2]:.0f}",
            )
        )
    note = "Costs after dropping hidden inputs; seconds of one team on one thread (median)."
    return f"{note}\n\n{table(rows)}" if len(rows) > 1 else ""


def _ablation(task: Task) -> str:
    cells = ablation_cells(task)
    whole = [c for c in distilled_cells(task) if cells and c.id == cells[0].id.rsplit(".", 1)[0]]
    rows: list[tuple[str, ...]] = [("KD-MARL, width 32, limited", "seeds", "greedy", "sampled")]
    for cell in (*whole, *cells):
        made = read(cell.id)
        label = cell.label.replace("no-", "without ") or "whole"
        scores = [_score(made, mode) for mode in MODES]
        rows.append((label, "" if made is None else str(made["seeds"]), *scores))
    return table(rows) if len(rows) > 1 else ""


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Return a Markdown table; the first row is its head."""
    head, *body = rows
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in body])


if __name__ == "__main__":
    main()
