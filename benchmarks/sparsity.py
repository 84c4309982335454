"""Sparse students beside full ones: what they keep, what they cost, and how long a step takes.

    python -m benchmarks.sparsity           # some 15 minutes of one core
    python -m benchmarks.sparsity --quick   # a minute; for trying the command, not for figures

A dataset of the bundled expert on simple_spread is recorded, and teams of three seeds are distilled
from it under the mask ``limited``: full ones, sparse ones of 64 units, and full ones of as many
multiply-accumulates as those. All play the same episodes. The exported C of each is linked for an
emulated Cortex-M4F, and timed here, all in turns. What is there is not made again. Figures go to
``docs/results/sparsity.json``, their table to stdout.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.resources import TASK, recorded

if TYPE_CHECKING:
    from kd_offline.evaluation.engines import LatencyTarget

MASK = "limited"
WIDE = 64


@dataclass(frozen=True, slots=True)
class Case:
    """Students of one kind: how wide, and how sparse."""

    name: str
    hidden: int = WIDE
    target: float | None = None
    block: int = 1
    like: str = ""  # as wide as the multiply-accumulates of that case allow; by units: gates

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the recipe beside the width."""
        if self.target is None:
            return {}
        return {"sparsity.target": self.target, "sparsity.block": self.block}


CASES = (
    Case("full, 64"),
    Case("full, 32", 32),
    Case("90 % zeros", target=0.9),
    Case("full, as 90 %", like="90 % zeros"),
    Case("90 % zeros, 4x1", target=0.9, block=4),
    Case("80 % zeros", target=0.8),
    Case("full, as 80 %", like="80 % zeros"),
    Case("95 % zeros", target=0.95),
    Case("full, as 95 %", like="95 % zeros"),
    Case("unit gates, as 90 %", like="90 % zeros"),
)


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is done."""

    episodes: int = 4000
    epochs: int = 10
    seeds: int = 3
    played: int = 1000
    rounds: int = 30


QUICK = Effort(episodes=200, epochs=2, seeds=2, played=50, rounds=2)


def main() -> None:
    """Measure what has no run folder yet, write the figures and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="little of everything, into --work")
    parser.add_argument("--work", type=Path, help="default: build/sparsity, build/sparsity-quick")
    given = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    work = given.work or Path("build/sparsity-quick" if given.quick else "build/sparsity")
    effort = QUICK if given.quick else Effort()
    rows = measured(work, effort)
    place = work if given.quick else Path("docs/results")
    document = {"task": TASK, "mask": MASK, "effort": asdict(effort), "rows": rows}
    (place / "sparsity.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(table(rows))


def measured(work: Path, effort: Effort) -> list[dict[str, Any]]:
    """Return a row for every case."""
    dataset = recorded(work, effort.episodes)
    macs: dict[str, int] = {}
    rows = []
    for case in CASES:
        rows.append(row(case, dataset, work, effort, macs.get(case.like, 0)))
        macs[case.name] = rows[-1]["macs"][0]
    times = timed({case.name: work / folder(case) for case in CASES}, effort.rounds, work)
    return [each | {"microseconds": times[each["name"]]} for each in rows]


def folder(case: Case) -> str:
    """Return the name of a case's run folder."""
    return "".join(c if c.isalnum() else "-" for c in case.name)


def row(case: Case, dataset: Path, work: Path, effort: Effort, like: int) -> dict[str, Any]:
    """Distil, play and export the teams of a case; ``like``: MACs of an agent."""
    from kd_offline.distillation.distill import distill
    from kd_offline.distillation.recipe import distill_recipe
    from kd_offline.evaluation.evaluate import evaluate
    from kd_offline.evaluation.evaluation_setup import student_shapes
    from kd_offline.exports.export import export
    from kd_offline.runs.folder import open_run
    from kd_offline.students.policy import load

    run = work / folder(case)
    settings = {"optimisation.epochs": effort.epochs, "threads": 1} | case.settings
    width = case.hidden
    if case.name.startswith("unit gates"):
        settings |= {"budget.max_macs": like, "budget.allocate": "gates"}
    elif case.like:
        width = largest(work / folder(CASES[0]), like)
    recipe = distill_recipe(
        method="kl", mask=MASK, hidden=width, seeds=effort.seeds, settings=settings
    )
    manifest = distill(dataset, run, recipe, resume=run.exists())
    played = open_run(run).evaluation() or evaluate(run, episodes=effort.played, modes=["greedy"])
    exported = export(
        run, work / f"{run.name}.export", to="c", microcontrollers=True, overwrite=True
    )
    assert played.greedy is not None
    kept = played.greedy.retention_intervals.normalised
    shapes = student_shapes(load(run)[0])
    core = next(one for one in exported.microcontrollers if one.core == "Cortex-M4F")
    return {
        **asdict(case),
        "width": width,
        "retention": None if kept is None else [kept.mean, kept.low, kept.high],
        "held_out_kl": [result.held_out["kl"] for result in manifest.results],
        "seconds": [result.seconds for result in manifest.results],
        "macs": [shape.cost().macs for shape in shapes],
        "tables": [getattr(shape.memory(), "flash", 0) for shape in shapes],
        "flash": core.flash_bytes,
        "instructions": core.instructions_per_step,
    }


def largest(run: Path, macs: int) -> int:
    """Return the largest width of all layers whose first agent needs at most ``macs``."""
    from kd_offline.students.cost_bounds import card_shape
    from kd_offline.students.policy import load

    card = load(run)[0].card
    return next(w for w in range(WIDE, 0, -1) if card_shape(card, 0, w).cost().macs <= macs)


def timed(runs: dict[str, Path], rounds: int, work: Path) -> dict[str, float]:
    """Return the median time of a step of the first agent's C, of all runs in turns."""
    from kd_offline.evaluation.engines import EngineSettings, c_engine
    from kd_offline.evaluation.timing import Plan, interleaved

    plan = Plan(("c",), (1,), rounds, 100, 0)
    samplers = {}
    for name, run in runs.items():
        place = work / f"{run.name}.timing"
        place.mkdir(exist_ok=True)
        samplers[("student", name, "c", 1)] = c_engine(_target(run), EngineSettings(1, place))
    times = interleaved(samplers, plan)
    return {key[1]: float(np.median(found)) / 1e3 for key, found in times.items()}


def _target(run: Path) -> LatencyTarget:
    from kd_offline.evaluation.latency import student_targets
    from kd_offline.students.policy import load

    return student_targets(load(run)[0])[0]


def table(rows: list[dict[str, Any]]) -> str:
    """Return the figures as Markdown; costs are of the first agent of the first seed."""
    heads = ["students", "MACs", "bytes of tables", "flash on a Cortex-M4F", "instructions there"]
    heads += ["C here, us", "held-out KL", "retention"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for one in rows:
        kept = one["retention"]
        width = (
            "" if not one["like"] or one["name"].startswith("unit") else f": {one['width']} wide"
        )
        cells = [
            f"{one['name']}{width}",
            f"{one['macs'][0]:,}",
            f"{one['tables'][0]:,}",
            f"{one['flash']:,}",
            f"{one['instructions']:,.0f}",
            f"{one['microseconds']:.2f}",
            f"{fmean(one['held_out_kl']):.3f}",
            "" if kept is None else f"{kept[0]:.3f} [{kept[1]:.3f}, {kept[2]:.3f}]",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
