"""Three ways to spend a budget: unit gates learned in training, the allocator, one width for all.

    python -m benchmarks.resources               # some 25 minutes of one core
    python -m benchmarks.resources --quick       # a minute; for trying the command, not for figures

A dataset of the bundled expert on simple_spread is recorded, and for every budget teams of three
seeds are distilled from it: with gates on their hidden units and a penalty on the expected cost,
with the widths that the allocator gives before training, and with the largest width that is the
same for all layers and agents. All play the same episodes. What is there is not made again.
Figures go to ``docs/results/resources.json``, their table to stdout.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kd_offline.networks.arithmetic import DeployedShape
    from kd_offline.schemas.run import RunManifest

TASK = "mpe/simple_spread_v3"
WIDEST = 32
WAYS = ("gates", "worth", "uniform")


@dataclass(frozen=True, slots=True)
class Case:
    """What students see, and what each agent's device allows."""

    mask: str
    limit: str
    value: float

    @property
    def name(self) -> str:
        """Of run folders."""
        return f"{self.mask}.{self.limit}-{self.value:g}"


CASES = (
    Case("full", "macs", 2500),
    Case("limited", "macs", 1200),
    Case("limited", "flash_kb", 8),
)


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is done."""

    episodes: int = 6000
    epochs: int = 24
    seeds: int = 3
    played: int = 4000


QUICK = Effort(episodes=200, epochs=2, seeds=2, played=50)


def main() -> None:
    """Measure what has no run folder yet, write the figures and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="little of everything, into --work")
    parser.add_argument("--work", type=Path, help="default: build/resources, build/resources-quick")
    given = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    work = given.work or Path("build/resources-quick" if given.quick else "build/resources")
    effort = QUICK if given.quick else Effort()
    rows = measured(work, effort)
    place = work if given.quick else Path("docs/results")
    document = {"task": TASK, "effort": asdict(effort), "widest": WIDEST, "rows": rows}
    text = json.dumps(document, indent=2) + "\n"
    (place / "resources.json").write_text(text, encoding="utf-8")
    print(table(rows))


def measured(work: Path, effort: Effort) -> list[dict[str, Any]]:
    """Return a row for every budget and way to spend it."""
    dataset = recorded(work, effort.episodes)
    return [row(case, way, dataset, work, effort) for case in CASES for way in WAYS]


def recorded(work: Path, episodes: int) -> Path:
    """Return the dataset in ``work``, recorded where it is not there or not complete."""
    from kd_offline.recording.record import record

    path = work / "spread.zarr"
    work.mkdir(parents=True, exist_ok=True)
    record(TASK, path, episodes=episodes, threads=1, resume=True)
    return path


def row(case: Case, way: str, dataset: Path, work: Path, effort: Effort) -> dict[str, Any]:
    """Distil and play the teams of one way to spend a budget."""
    from kd_offline.distillation.distill import distill
    from kd_offline.distillation.recipe import distill_recipe
    from kd_offline.evaluation.evaluate import evaluate
    from kd_offline.runs.folder import open_run

    run = work / f"{case.name}.{way}"
    settings: dict[str, Any] = {"optimisation.epochs": effort.epochs, "threads": 1}
    width = WIDEST
    if way == "uniform":
        width = largest(case, work / f"{case.name}.worth")
    else:
        settings |= {f"budget.max_{case.limit}": case.value, "budget.allocate": way}
    recipe = distill_recipe(mask=case.mask, hidden=width, seeds=effort.seeds, settings=settings)
    manifest = distill(dataset, run, recipe, resume=run.exists())
    played = open_run(run).evaluation() or evaluate(run, episodes=effort.played, modes=["greedy"])
    assert played.greedy is not None
    kept = played.greedy.retention_intervals.normalised
    return {
        **asdict(case),
        "way": way,
        "retention": None if kept is None else [kept.mean, kept.low, kept.high],
        "return": played.greedy.student.mean,
        "expert_return": played.greedy.expert.mean,
        "held_out_kl": [result.held_out["kl"] for result in manifest.results],
        "seconds": [result.seconds for result in manifest.results],
        "teams": teams(run, manifest),
    }


def largest(case: Case, run: Path) -> int:
    """Return the largest width of all layers of all agents that meets a budget."""
    from kd_offline.schemas.budget import Budget
    from kd_offline.students.cost_bounds import Bounds
    from kd_offline.students.policy import load

    card = load(run)[0].card
    bounds = Bounds.of(card, Budget.model_validate({f"max_{case.limit}": case.value}))
    agents = range(len(card.widths))
    fitting = (
        width
        for width in range(WIDEST, 0, -1)
        if not any(bounds.exceeded(bounds.cost(i, width)) for i in agents)
    )
    return next(fitting)


def table_bytes(shape: DeployedShape) -> int:
    """Return the bytes of the tables of a network's C; 0 where there is none."""
    memory = shape.memory()
    return 0 if memory is None else memory.flash or 0


def teams(run: Path, manifest: RunManifest) -> list[dict[str, Any]]:
    """Return widths and costs of every seed's team, as it is exported."""
    from kd_offline.evaluation.evaluation_setup import student_shapes
    from kd_offline.students.policy import load

    found = []
    for seed, team in zip(manifest.seeds, load(run), strict=True):
        shapes = student_shapes(team)
        found.append(
            {
                "seed": seed,
                "layers": [[*shape.trunk, *([shape.gru] if shape.gru else [])] for shape in shapes],
                "macs": sum(shape.cost().macs for shape in shapes),
                "bytes": sum(
                    memory.flash or 0 for memory in (s.memory() for s in shapes) if memory
                ),
            }
        )
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Return the figures as Markdown; costs are of a team, means over seeds."""
    heads = ["budget of an agent", "widths by", "layers of the first team", "MACs", "bytes"]
    heads += ["held-out KL", "retention"]
    names = {"macs": "MACs", "flash_kb": "KB of flash"}
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for one in rows:
        layers = ", ".join("-".join(map(str, agent)) for agent in one["teams"][0]["layers"])
        kept = one["retention"]
        cells = [
            f"{one['value']:,g} {names[one['limit']]}, mask `{one['mask']}`",
            one["way"],
            layers,
            f"{fmean(team['macs'] for team in one['teams']):,.0f}",
            f"{fmean(team['bytes'] for team in one['teams']):,.0f}",
            f"{fmean(one['held_out_kl']):.3f}",
            "" if kept is None else f"{kept[0]:.3f} [{kept[1]:.3f}, {kept[2]:.3f}]",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
