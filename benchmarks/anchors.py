"""The table of anchors: what small students keep and cost beside what the KD-MARL paper claims.

    python -m benchmarks.anchors                 # hours; stop at any time, the next call continues
    python -m benchmarks.anchors --quick         # minutes; for trying the command, not for figures

For every task: record an expert of the paper's size, distil students that need 40 times fewer FLOPs
or less still, play both on the same episodes, export the students as int8 C and run that on an
emulated Cortex-M4F, and time one step of the expert and of the student in C, in turns. What is
there is not made again. Figures are rows in ``docs/anchors.json``, and ``docs/anchors.md`` is
their table.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.results.plan import DEVELOPMENT_SEED, EVALUATION_SEED

if TYPE_CHECKING:
    from kd_offline.schemas.evaluation import EvaluationReport
    from kd_offline.schemas.export import ExportManifest
    from kd_offline.schemas.latency import LatencyReport

EXPERT = "bundled"
"""About 100,000 to 200,000 parameters in each task; with its partner, where there is one."""


@dataclass(frozen=True, slots=True)
class Paper:
    """What the paper's text and its tables say of a task: returns, or win rates in percent."""

    factor: str
    expert: float
    students: float  # LH
    mixed: float  # LH+A


@dataclass(frozen=True, slots=True)
class Task:
    """A task, its data, the teams that are distilled (mask and widths), and the paper's claim."""

    name: str
    slug: str
    episodes: int
    epochs: int
    teams: tuple[tuple[str, tuple[int, ...]], ...]
    paper: Paper
    depth: int = 2
    """Layers before the GRU: the narrower the input, the more a wide GRU alone is worth."""


TASKS = (
    Task(
        "mpe/simple_spread_v3",
        "spread",
        30_000,
        36,
        (("full", (20, 20, 20)), ("limited", (18, 18, 18)), ("limited", (24, 14, 14))),
        Paper("30.0", -46.0, -48.5, -50.5),
        depth=0,
    ),
    Task(
        "mpe/simple_speaker_listener_v4",
        "speaker-listener",
        4_000,
        20,
        (("full", (16, 16)), ("limited", (16, 16)), ("limited", (8, 16))),
        Paper("26.7", -46.0, -48.0, -50.0),
    ),
    Task(
        "mpe/simple_adversary_v3",
        "adversary",
        6_000,
        20,
        (("full", (16, 16, 16)), ("limited", (16, 16, 16)), ("limited", (8, 16, 16))),
        Paper("29.1", 18.0, 16.8, 16.5),
    ),
    Task(
        "smax/3m",
        "3m",
        10_000,
        20,
        (("full", (15, 15, 15)), ("paper", (15, 15, 15))),
        Paper("3.3 to 11.7", 98.12, 94.78, 90.39),
        depth=1,
    ),
    Task(
        "smax/3s5z",
        "3s5z",
        6_000,
        12,
        (("full", (11,) * 8), ("paper", (10,) * 8)),
        Paper("3.3 to 11.7", 68.31, 60.28, 58.17),
        depth=1,
    ),
)


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is done; ``share`` of a task's episodes and epochs."""

    share: float = 1.0
    seeds: int = 3
    played: int = 4000
    rounds: int = 50


QUICK = Effort(share=0.02, seeds=1, played=100, rounds=5)


def main() -> None:
    """Make the rows that are missing, and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="little of everything, into --work")
    parser.add_argument("--tasks", help="slugs with commas; default: all")
    parser.add_argument("--work", type=Path, help="default: build/anchors, build/anchors-quick")
    given = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    work = given.work or Path("build/anchors-quick" if given.quick else "build/anchors")
    place = work if given.quick else Path("docs")
    names = given.tasks.split(",") if given.tasks else [task.slug for task in TASKS]
    fill(place, work, QUICK if given.quick else Effort(), names)
    text = page(_rows(place))
    (place / "anchors.md").write_text(text, encoding="utf-8")
    print(text)


def fill(place: Path, work: Path, effort: Effort, slugs: list[str]) -> None:
    """Measure every team that has no row in ``place/anchors.json``, and add it there."""
    work.mkdir(parents=True, exist_ok=True)
    for task in (task for task in TASKS if task.slug in slugs):
        for mask, widths in task.teams:
            name, rows = _name(task, mask, widths), _rows(place)
            if name not in rows:
                rows[name] = measured(task, mask, widths, work, effort)
                text = json.dumps(rows, indent=2, sort_keys=True) + "\n"
                (place / "anchors.json").write_text(text, encoding="utf-8")


def _rows(place: Path) -> dict[str, Any]:
    file = place / "anchors.json"
    return json.loads(file.read_text("utf-8")) if file.exists() else {}


def _name(task: Task, mask: str, widths: tuple[int, ...]) -> str:
    return f"{task.slug}.{mask}.{'-'.join(map(str, widths))}"


def measured(
    task: Task, mask: str, widths: tuple[int, ...], work: Path, effort: Effort
) -> dict[str, Any]:
    """Return the row of one team; finished steps of an earlier call are used again."""
    from kd_offline.distillation.distill import distill
    from kd_offline.distillation.recipe import distill_recipe
    from kd_offline.evaluation.evaluate import evaluate
    from kd_offline.evaluation.latency import bench_latency
    from kd_offline.exports.export import export
    from kd_offline.recording.record import record

    dataset, run = work / f"{task.slug}.zarr", work / _name(task, mask, widths)
    episodes = max(200, round(effort.share * task.episodes))
    if not dataset.exists():
        part = work / f"{task.slug}.part.zarr"
        record(
            *(task.name, part),
            expert=EXPERT,
            episodes=episodes,
            name=task.slug,
            threads=1,
            resume=part.exists(),
        )
        part.rename(dataset)
    epochs = max(1, round(effort.share * task.epochs))
    settings = {"optimisation.epochs": epochs, "student.depth": task.depth, "threads": 1}
    recipe = distill_recipe(mask=mask, hidden=widths, seeds=effort.seeds, settings=settings)
    distill(dataset, run, recipe, resume=run.exists())
    played = evaluate(run, episodes=effort.played, seed=EVALUATION_SEED, modes=["greedy"])
    carried = export(
        run, to="c", precision="int8", least_agreement=0.0, microcontrollers=True, overwrite=True
    )
    int8 = evaluate(
        run,
        episodes=effort.played,
        seed=EVALUATION_SEED,
        modes=["greedy"],
        export=run / "export-int8",
    )
    timed = bench_latency(run, engines=("c",), rounds=effort.rounds)
    return row(task, mask, widths, played, int8, carried, timed) | {"effort": asdict(effort)}


def row(
    task: Task,
    mask: str,
    widths: tuple[int, ...],
    played: EvaluationReport,
    int8: EvaluationReport,
    carried: ExportManifest,
    timed: LatencyReport,
) -> dict[str, Any]:
    """Return the figures of one team; of several agents, those of the slowest and the largest."""
    kept = [_kept(report) for report in (played, int8)]
    students = [one for one in timed.rows if one.who == "student"]
    experts = [one.p50_us for one in timed.rows if one.who == "expert"]
    cores = [core for core in carried.microcontrollers if core.core == "Cortex-M4F"]
    return {
        "task": task.name,
        "mask": mask,
        "widths": widths,
        "evaluation_seed": played.evaluation_seed,
        "retention": kept[0],
        "retention_int8": kept[1],
        "expert_parameters": max(one.parameters for one in played.cost.expert.agents),
        "expert_flops": played.cost.expert.flops,
        "student_flops": played.cost.student.flops,
        "factor": played.cost.flops_reduction,
        "expert_c_us": max(experts),
        "student_c_us": max(one.p50_us for one in students),
        "faster": min(one.faster for one in students if one.faster is not None),
        "flash_bytes": max(core.flash_bytes for core in cores),
        "ram_bytes": max(core.ram_bytes for core in cores),
        "machine": timed.machine.processor,
    }


def _kept(report: EvaluationReport) -> tuple[float, float, float] | None:
    if report.greedy is None:
        return None
    kept = report.greedy.retention_intervals
    found = kept.normalised if kept.ratio is None else kept.ratio
    return None if found is None else (found.mean, found.low, found.high)


HEAD = """# Anchors

Not shown: that anything else could not do as well at these costs, since no network of this size was
trained by reinforcement learning, with the expert as its teacher or without; more than three
distillation seeds; episodes that served nothing else (rows of evaluation seed 0 were played on
those of development); the paper's own game and networks. Rows are not at equal budgets: students
learn from recordings of experts that were trained for 2 to 8 million steps, and the paper states
none of its own.

Students beside the expert that they were distilled from, and beside what the KD-MARL paper
(arXiv 2604.06691) claims. `make anchors` makes this page.

Retention is (student - random) / (expert - random), greedy, in combat the quotient of the win
rates, with a 95 % interval over three distillation seeds and episodes (of rows made before, by a
bootstrap, which covers about 77 % where seeds matter; as int8, one seed). FLOPs are two for each
multiply-accumulate of a team step, of the expert's actors and of the exported students. Times are
medians of single steps of one agent, the slowest, in turns on one thread, expert and student in C
with float32 weights; *faster* is the smallest quotient of an agent. Flash and static RAM are
those of the largest agent's int8 firmware for Cortex-M4F, as linked and run in QEMU. The
paper's retention is the quotient of the returns in its Table II (LH; for unequal widths LH+A),
inverted where they are negative, since it states no return of random play, and of the win rates
in its Table I, whose game is SMAC while ours is SMAX. Where less is kept than the paper claims,
the [results](results.md) and those [in combat](results-combat.md) tell whether a network of
full size that is trained under the
mask, or wider students, would keep more.

"""
COLUMNS = (
    *("task", "mask", "widths", "retention", "as int8", "expert FLOPs", "student FLOPs", "fewer"),
    *("expert, C", "student, C", "faster", "flash", "RAM"),
    *("paper: fewer", "paper: retention"),
)


def page(rows: dict[str, Any]) -> str:
    """Return the Markdown of the table; teams without a row stand in it as not measured."""
    lines = [COLUMNS, ("---",) * 3 + ("---:",) * (len(COLUMNS) - 3)]
    missing = ("not measured",) * 10
    for task in TASKS:
        for mask, widths in task.teams:
            found = rows.get(_name(task, mask, widths))
            figures = missing if found is None else _cells(found)
            claimed = (task.paper.factor, _claimed(task.paper, widths))
            lines.append((task.name, mask, ", ".join(map(str, widths)), *figures, *claimed))
    return HEAD + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n" + _said(rows)


def _cells(found: dict[str, Any]) -> tuple[str, ...]:
    return (
        _share(found["retention"]),
        _share(found["retention_int8"]),
        f"{found['expert_flops']:,}",
        f"{found['student_flops']:,}",
        f"{found['factor']:.1f}",
        f"{found['expert_c_us']:.2f} us",
        f"{found['student_c_us']:.2f} us",
        f"{found['faster']:.0f}",
        f"{found['flash_bytes']:,} B",
        f"{found['ram_bytes']:,} B",
    )


def _share(kept: list[float] | None) -> str:
    if kept is None:
        return "undefined"
    mean, low, high = (100 * value for value in kept)
    return f"{mean:.1f} % ({low:.1f} to {high:.1f})"


def _claimed(paper: Paper, widths: tuple[int, ...]) -> str:
    """Return the paper's retention; costs (negative returns) are divided the other way round."""
    ours = paper.students if len(set(widths)) == 1 else paper.mixed
    kept = ours / paper.expert if paper.expert > 0 else paper.expert / ours
    return f"{100 * kept:.1f} %"


def _said(rows: dict[str, Any]) -> str:
    if not rows:
        return ""
    efforts = {json.dumps(one["effort"], sort_keys=True): one["effort"] for one in rows.values()}
    played = " and ".join(
        f"{e['seeds']} distillation seeds and {e['played']:,} episodes" for e in efforts.values()
    )
    seeds = {one.get("evaluation_seed", DEVELOPMENT_SEED) for one in rows.values()}
    played += f" of evaluation seed {' or '.join(map(str, sorted(seeds)))}"
    machines = ", ".join(sorted({one["machine"] for one in rows.values()}))
    largest = max(one["expert_parameters"] for one in rows.values())
    return (
        f"\nAn expert's actor is recurrent and has up to {largest:,} parameters. Played: {played}. "
        f"Timed on {machines}.\n"
    )


if __name__ == "__main__":
    main()
