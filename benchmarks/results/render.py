"""Write docs/results.md, and the table of docs/status.md, from the cells that are there.

A cell that is missing says so.

python -m benchmarks.results.render
python -m benchmarks.results.render --single-seeds
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.results import budgets
from benchmarks.results.plan import (
    DEVELOPMENT_SEED,
    EPISODES,
    EVALUATION_SEED,
    MASKS,
    PARTICLE,
    TASKS,
    TWO_STEPS,
    AnyCell,
    DistilledCell,
    NetworkCell,
    Task,
    ablation_cells,
    comparisons,
    distilled_cells,
    masked_expert,
    network_cells,
    rival_cells,
    whole_cell,
    with_environment,
)
from kd_offline.evaluation.intervals import Interval, difference_interval

PAGE = Path("docs/results.md")
STATUS, GUIDE = Path("docs/status.md"), Path("docs/guide/masks.md")
MODES = ("greedy", "sampled")
MISSING = budgets.NOT_MADE
Cell = dict[str, Any]
Row = tuple[str, ...]

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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--single-seeds", action="store_true", help="print the values of each seed")
    if parser.parse_args().single_seeds:
        print(table([SINGLE, *(row for task in TASKS for row in _single(task))]))
        return
    PAGE.write_text(page(), encoding="utf-8")
    fill(STATUS, "table", summary())
    fill(GUIDE, "rival", strongest_rival())


def fill(page: Path, name: str, made: str) -> None:
    """Put a table between its marks in a page."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    text = page.read_text(encoding="utf-8")
    page.write_text(
        f"{text.split(begin)[0]}{begin}\n{made}\n{end}{text.split(end)[1]}", encoding="utf-8"
    )


def page() -> str:
    """Return the page."""
    return "\n\n".join([_head(), *(_task(task) for task in TASKS)]) + "\n"


def read(name: str, cells: Path = PARTICLE.cells) -> Cell | None:
    """Return a cell, or None where it was not made."""
    file = cells / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def before(name: str) -> str:
    """Return the name of a cell as it was measured on the evaluation seed of development."""
    return f"{name}.on-{DEVELOPMENT_SEED}"


def latest(cell: AnyCell) -> Cell | None:
    """Return what was measured last of a cell."""
    return read(cell.compared_as) or read(before(cell.compared_as))


# The table of docs/status.md.


def summary() -> str:
    """Return the table of docs/status.md: the first task at its defaults."""
    spread, whole = TASKS[0], whole_cell(TASKS[0])
    full = next(c for c in distilled_cells(spread) if (c.mask, c.widths) == ("full", whole.widths))
    alike = {c.group: c for c in network_cells(spread) if (c.mask, c.widths) == _kind(whole)}
    shown: list[tuple[str, AnyCell]] = [
        ("bundled expert", network_cells(spread)[0]),
        ("students, mask `full`", full),
        ("students, mask `limited`", whole),
        *((f"students, mask `limited`{_more(c)}", c) for c in _measured(spread)),
        *((f"same size by RL, mask `{c.mask}`{_with(c)}", c) for c in alike.values()),
    ]
    head = ("", *_HAD, "greedy", "kept", "sampled", "kept")
    return table([head, *(_summed(title, cell) for title, cell in shown), _random()])


def strongest_rival() -> str:
    """Return the table of the guide to masks: students, and networks of their size by RL."""
    whole = whole_cell(TASKS[0])
    rivals = {c.group: c for c in network_cells(TASKS[0]) if _kind(c) == _kind(whole)}
    shown: list[tuple[str, AnyCell]] = [
        (f"KD-MARL, from files{_more(cell)}", cell) for cell in (whole, *_measured(TASKS[0]))
    ]
    shown += [(f"RL{_with(c)}", c) for c in rivals.values()]
    rows = [_summed(title, cell) for title, cell in shown]
    return table([("width 32, mask `limited`", *_HAD, "greedy", "kept", "sampled", "kept"), *rows])


def _measured(task: Task) -> list[DistilledCell]:
    """Return the students that had the environment as well, where they were measured."""
    return [cell for cell in with_environment(task) if latest(cell)]


_HAD = ("K", "learned from", "seconds", "played on")


def _kind(cell: AnyCell) -> tuple[str, tuple[int, ...] | None]:
    return cell.mask, cell.widths


def _with(cell: NetworkCell) -> str:
    return ", the expert as teacher at first" if cell.teacher else ""


def _summed(title: str, cell: AnyCell) -> Row:
    made = latest(cell)
    if made is None:
        planned = budgets.planned(cell)[:2]
        return (title, *planned, *(MISSING,) * (len(_HAD) + 4 - len(planned)))
    had = dict(zip(budgets.COLUMNS, _budget(cell, made), strict=True))
    said = _scores(made)
    if isinstance(cell, NetworkCell) and cell.bundled:  # it keeps all of itself
        said = (said[0], "", said[2], "")
    return (title, *(had[name] for name in _HAD), *said)


def _random() -> Row:
    made = latest(network_cells(TASKS[0])[0])
    if made is None:
        return ("random play", *(MISSING,) * (len(_HAD) + 4))
    played = str(budgets.evaluation_seed(made))
    scores = [x for mode in MODES for x in (estimate(made[mode]["random"]), "")]
    return ("random play", "", "", "", played, *scores)


# The page.


def _head() -> str:
    return (
        "# Results\n\n"
        "Not shown: rivals at equal budgets but where a row says so (most networks trained by "
        "reinforcement learning had a third to a half of the steps that the bundled experts had, "
        "and two seeds); networks of full size whose curve is flat, so that no row is called a "
        "ceiling of its mask; networks of the students' size with the expert as their teacher, the "
        f"strongest rival, in other tasks than `{TASKS[0].name}` under `limited`; students in two "
        "steps there too, and of more than one network of full size; how a student "
        "does against other experts than the bundled one; other tasks than these three.\n\n"
        "Made by `make results`, which trains, records, distils and measures every cell and keeps "
        "it in `docs/results/cells`; this page is written from those files by "
        "`python -m benchmarks.results.render`, which with `--single-seeds` prints what each "
        "training seed has. Returns are sums over the agents of a team and "
        f"over the steps of an episode, means of {EPISODES:,} evaluation episodes, with 95 % "
        "intervals in brackets (Student's t over seeds and episodes, see "
        "`docs/decisions/005-evaluation.md`; of the sides of `mpe/simple_adversary_v3`, but for "
        "rows played on the later seed, by a bootstrap, which covers about 83 % with five seeds "
        "and 54 % with two where seeds matter). *Kept* is (return - random) / (expert - random), "
        f"against the bundled expert in the same episodes. {budgets.WORDS} Rows of seed "
        f"{EVALUATION_SEED} are final: nothing was chosen by these episodes. Seed "
        f"{DEVELOPMENT_SEED} served development too, and the networks of those rows are gone, so "
        "that they cannot be played again; a comparison between rows of different seeds is "
        "unpaired. "
        "In two steps, a network of full size that learned to play under the mask, with the "
        "bundled expert as its teacher at first (`bundled:masked`), is recorded and distilled in "
        "the expert's place. "
        "Where sides play against each other, each side meets the expert's opponents and has rows "
        "of its own. A cell that was not made yet says *not measured*."
    )


def _task(task: Task) -> str:
    parts = [f"## {task.name}", _paper(task), _equal(task), *_tables(task), _costs(task)]
    parts += [_ablation(task), _rivals(task)]
    return "\n\n".join(part for part in parts if part)


def _paper(task: Task) -> str:
    rows = [PAPER_COLUMNS, tuple(f"{x:.1f}" for x in PAPER[task.slug])]
    return "The paper's Table II, on a scale of its own:\n\n" + table(rows)


def _equal(task: Task) -> str:
    """Say which networks were trained for as many steps as the expert, and which were not."""
    expert = _expert_steps(task)
    if expert is None:
        return ""
    steps = {cell.frames for cell in network_cells(task) if not cell.bundled and cell.frames}
    alike = [frames for frames in sorted(steps) if abs(frames / expert - 1) < 0.01]
    others = [f"{frames:,} ({frames / expert:.2f} times)" for frames in sorted(steps - {*alike})]
    same = f"those of the rows of {alike[0]:,} steps" if alike else "none"
    first = latest(masked_expert(task)) if task.masked else None
    more = (
        f" Students in two steps also take the {first['frames']:,} steps and the seconds of the "
        "network of full size."
        if first
        else ""
    )
    return (
        f"The bundled expert was trained for {expert:,} steps. Networks trained by reinforcement "
        f"learning at an equal budget: {same}; at other budgets: {', '.join(others)}. What "
        "students of the bundled expert take beside it is the recording and the seconds of their "
        f"rows, and no further step.{more}"
    )


def _tables(task: Task) -> Iterator[str]:
    """Return one table for each mask and side."""
    made = next((made for _, _, made in _rows(task) if made), None)
    sides = list((made or {}).get("greedy", {}).get("sides") or {})
    for side in sides if len(sides) > 1 else [""]:
        for mask in MASKS:
            found = [(t, c, m) for t, c, m in _rows(task) if c.mask == mask]
            rows = [*_references(task, side, found), *(_row(*each, side) for each in found)]
            words = f"Side *{side}*, mask `{mask}`:" if side else f"Mask `{mask}`:"
            yield f"{words}\n\n{table([_HEAD, *rows])}"


_HEAD = ("policy", *budgets.COLUMNS, "greedy", "kept", "sampled", "kept")


def _rows(task: Task) -> list[tuple[str, AnyCell, Cell | None]]:
    """Return each row's title, its cell and what was measured, if anything."""
    cells: dict[str, AnyCell] = {
        cell.group: cell for cell in network_cells(task) if cell.bundled != "default"
    }
    cells |= {cell.id: cell for cell in distilled_cells(task)}
    found: list[tuple[str, AnyCell, Cell | None]] = []
    for name, cell in cells.items():
        versions = [read(each) for each in (before(name), name)]
        known = [made for made in versions if made is not None]
        found += [(_title(cell), cell, made) for made in known or versions[:1]]
    return found


def _title(cell: AnyCell) -> str:
    size = "full size" if cell.widths is None else f"width {_widths(cell.widths)}"
    if isinstance(cell, DistilledCell):
        return f"{METHOD_NAMES[cell.method]}, {size}{_more(cell)}"
    size += ", one network an agent" if cell.bundled else ""
    return f"MAPPO, {size}{'' if cell.mask == 'full' else ', trained under the mask'}"


def _more(cell: DistilledCell) -> str:
    """Return what students had beside the files of the expert, in words."""
    return f", {_MORE.get(cell.label, cell.label)}" if cell.label else ""


_MORE = {
    TWO_STEPS: f"in {TWO_STEPS}",
    "and proximal": "then by reward and the expert throughout",
    "and kickstarted": "then by reward and the expert at first",
}


def _widths(widths: tuple[int, ...]) -> str:
    return str(widths[0]) if len(set(widths)) == 1 else ", ".join(map(str, widths))


def _row(title: str, cell: AnyCell, made: Cell | None, side: str) -> Row:
    if made is None:
        planned = budgets.planned(cell)
        return (title, *planned, *(MISSING,) * (len(_HEAD) - 1 - len(planned)))
    return (title, *_budget(cell, made), *_scores(made, side))


def _budget(cell: AnyCell, made: Cell) -> Row:
    steps = _expert_steps(cell.task)
    if isinstance(cell, DistilledCell) and cell.expert and steps is not None:
        first = read(cell.expert.group)
        steps = None if first is None else steps + int(first["frames"])
    return budgets.columns(cell, made, steps, "")


def _expert_steps(task: Task) -> int | None:
    made = read(network_cells(task)[0].group)
    return None if made is None else int(made["frames"])


def _references(
    task: Task, side: str, found: Sequence[tuple[str, AnyCell, Cell | None]]
) -> list[Row]:
    """Return the rows of the expert and of random play, on every seed that a row was played on."""
    cell = network_cells(task)[0]
    expert, rows = read(cell.group), []
    cells = [*([expert] if expert else []), *(made for _, _, made in found if made)]
    by_seed = {budgets.evaluation_seed(made): made for made in reversed(cells)}
    for seed in sorted(by_seed):
        had = (*_budget(cell, expert)[:-1], str(seed)) if expert else (*("",) * 5, str(seed))
        scores = [_scored(by_seed[seed], mode, side) for mode in MODES]
        whose = {
            "bundled expert": ("expert", had),
            "random play": ("random", (*("",) * 5, had[-1])),
        }
        for title, (party, budget) in whose.items():
            said = [x for score in scores for x in (estimate(score[party]), "")]
            rows.append((title, *budget, *said))
    return rows


def _scored(cell: Cell, mode: str, side: str) -> Cell:
    score: Cell = cell[mode]["sides"][side] if side else cell[mode]
    return score


def _scores(made: Cell, side: str = "") -> Row:
    """Return return and share kept, greedy and then sampled."""
    said: list[str] = []
    for mode in MODES:
        score = _scored(made, mode, side)
        kept = score["retention_intervals"]["normalised"]
        said += [estimate(score["student"]), percent(kept) if kept else ""]
    return tuple(said)


def estimate(value: dict[str, float]) -> str:
    """Return a mean with its interval."""
    return f"{value['mean']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"


def percent(value: dict[str, float]) -> str:
    """Return a share with its interval, in percent."""
    return f"{100 * value['mean']:.1f} % [{100 * value['low']:.1f}, {100 * value['high']:.1f}]"


def _costs(task: Task) -> str:
    rows: list[Row] = [
        ("students", "mask", "parameters", "FLOPs a team step", "fewer than the expert")
    ]
    for cell in distilled_cells(task):
        made = latest(cell)
        if made is None or cell.method != "kd-marl" or cell.label:
            continue
        cost = made["cost"]
        rows.append(
            (
                _widths(cell.widths),
                cell.mask,
                f"{cost['student']['parameters']:,}",
                f"{cost['student']['flops']:,}",
                f"{cost['flops_reduction']:.1f}x",
            )
        )
    note = "Costs after dropping hidden inputs."
    return f"{note}\n\n{table(rows)}" if len(rows) > 1 else ""


def _ablation(task: Task) -> str:
    """Return what each part of KD-MARL brings: whole minus ablated, in the same episodes."""
    ablated = ablation_cells(task)
    if not ablated:
        return ""
    whole = whole_cell(task)
    plain = next(c for c in distilled_cells(task) if (c.method, *_kind(c)) == ("kl", *_kind(whole)))
    rows: list[Row] = [_ABLATION]
    shown, by_seed = [], [f"seed {DEVELOPMENT_SEED}"]
    for cell in (whole, plain, *ablated):
        for name in (before(cell.id), cell.id):
            if made := read(name):
                gaps = [] if cell == whole else [_gap(whole, cell, made, mode) for mode in MODES]
                said = [_difference(gap) for gap in gaps] or ["", ""]
                rows.append((_part(cell), *_short(made), *_plain(made), *said))
                is_final = budgets.evaluation_seed(made) == EVALUATION_SEED
                if is_final and cell != whole and not read(f"{whole.id}.minus.{cell.id}"):
                    by_seed.append(f"the row {_part(cell)!r}")
                shown += [
                    f"{_part(cell)} ({m})"
                    for m, g in zip(MODES, gaps, strict=False)
                    if g and not g.low <= 0 <= g.high
                ]
        if latest(cell) is None:
            rows.append((_part(cell), *(MISSING,) * (len(_ABLATION) - 1)))
    claims = "; ".join(shown) or "none"
    return (
        "What the parts of KD-MARL bring, width 32 under `limited`: the whole minus what was "
        "ablated, in the same episodes. Intervals are over seeds and episodes; those of "
        f"{' and '.join(by_seed)} are over seeds alone. Only intervals that exclude zero show "
        f"anything: {claims}. Of other parts nothing is shown."
        f"\n\n{table(rows)}"
    )


_ABLATION = (
    *("KD-MARL", "K", "seconds", "played on", "greedy", "sampled"),
    *("whole minus this, greedy", "whole minus this, sampled"),
)


def _part(cell: DistilledCell) -> str:
    if cell.method == "kl":
        return "plain KL at KD-MARL's temperature" if cell.label else "plain KL at temperature 1"
    return cell.label.replace("no-", "without ") or "whole"


def _short(made: Cell) -> Row:
    return str(made["seeds"]), budgets.seconds(made), str(budgets.evaluation_seed(made))


def _plain(made: Cell) -> Row:
    return tuple(estimate(made[mode]["student"]) for mode in MODES)


def _gap(whole: DistilledCell, cell: DistilledCell, made: Cell, mode: str) -> Interval | None:
    """Return by how much the whole is above an ablated cell, None if they were played apart."""
    seed = budgets.evaluation_seed(made)
    paired = read(f"{whole.id}.minus.{cell.id}")
    if paired and paired["evaluation_seed"] == seed:
        return Interval(**paired[mode])
    for name in (whole.id, before(whole.id)):
        best = read(name)
        if best and budgets.evaluation_seed(best) == seed:
            return difference_interval(_means(best, mode), _means(made, mode))
    return None


def _means(made: Cell, mode: str) -> npt.NDArray[np.float64]:
    return np.array([[mean] for _, mean, _ in budgets.single_seeds(made, mode)])


def _difference(gap: Interval | None) -> str:
    return "-" if gap is None else estimate(gap._asdict())


def _rivals(task: Task) -> str:
    """Return by how much networks trained by RL are above students, in the same episodes."""
    rivals = {cell.compared_as for cell in rival_cells(task)}
    rivals |= {cell.compared_as for cell in with_environment(task)}
    rows: list[Row] = [("one", "minus", "K", "greedy", "sampled")]
    for one, other in comparisons(task):
        made = read(f"{one.compared_as}.minus.{other.compared_as}")
        if made and one.compared_as in rivals:
            seeds = " and ".join(map(str, made["seeds"]))
            gaps = [estimate(made[mode]) for mode in MODES]
            rows.append((_long(one), _long(other), seeds, *gaps))
    if len(rows) == 1:
        return ""
    return (
        "Rivals and students, difference of returns in the same episodes of seed "
        f"{EVALUATION_SEED}, with intervals over seeds and episodes:\n\n{table(rows)}"
    )


def _long(cell: AnyCell) -> str:
    if isinstance(cell, DistilledCell):
        return f"{_title(cell)}" if cell.label else f"{_title(cell)}, from files alone"
    return f"{_title(cell)}, {cell.frames:,} steps{_with(cell)}"


SINGLE = ("cell", "played on", "mode", "training seed: mean return (share won)")


def _single(task: Task) -> Iterator[Row]:
    cells: list[AnyCell] = [*network_cells(task), *distilled_cells(task), *ablation_cells(task)]
    names = dict.fromkeys(
        name for cell in cells for name in (cell.compared_as, before(cell.compared_as))
    )
    return single_seeds(names, PARTICLE.cells)


def single_seeds(names: Sequence[str] | dict[str, None], cells: Path) -> Iterator[Row]:
    """Return a row for each cell that is there and each mode, with the value of every seed."""
    for name in names:
        made = read(name, cells)
        for mode in MODES if made else ():
            values = budgets.single_seeds(made or {}, mode)
            said = ", ".join(
                f"{seed}: {mean:.2f}" + ("" if won is None else f" ({100 * won:.1f} %)")
                for seed, mean, won in values
            )
            yield name, str(budgets.evaluation_seed(made or {})), mode, said


def table(rows: Sequence[Row]) -> str:
    """Return a Markdown table; the first row is its head."""
    head, *body = rows
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in body])


if __name__ == "__main__":
    main()
