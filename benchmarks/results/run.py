"""Fill the cells of the results page, one file a cell; what is there is not made again.

    python -m benchmarks.results.run --workers 2
    python -m benchmarks.results.render

Every training and distillation uses one thread, so that the figures can be made again bit for bit
on the same kind of processor, and several cells are made side by side. Stop at any time; the next
call continues.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.results.plan import (
    EPISODES,
    RL_SEEDS,
    TASKS,
    DistilledCell,
    NetworkCell,
    Task,
    ablation_cells,
    distilled_cells,
    network_cells,
)

WORK = Path("results/work")
CELLS = Path("docs/results/cells")


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--tasks", default=",".join(task.slug for task in TASKS))
    parser.add_argument("--only", default="datasets,networks,distilled,ablations")
    given = parser.parse_args()
    tasks = [task for task in TASKS if task.slug in given.tasks.split(",")]
    stages = given.only.split(",")
    for directory in (WORK, CELLS):
        directory.mkdir(parents=True, exist_ok=True)
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with ProcessPoolExecutor(given.workers, max_tasks_per_child=1) as pool:
        if "datasets" in stages:
            list(pool.map(make_dataset, tasks))
        if "networks" in stages:
            list(pool.map(make_network, [c for task in tasks for c in network_cells(task)]))
            groups = [c for task in tasks for c in network_cells(task) if c.seed == RL_SEEDS[0]]
            list(pool.map(measure_networks, groups))
        makers = {"distilled": distilled_cells, "ablations": ablation_cells}
        cells = [c for stage in makers if stage in stages for t in tasks for c in makers[stage](t)]
        list(pool.map(make_students, cells))


def make_dataset(task: Task) -> None:
    """Record the dataset that every student of a task learns from."""
    from kd_offline.recording.record import record

    path = dataset_path(task)
    if not (path / "manifest.json").is_file():
        record(task.name, path, episodes=task.dataset_episodes, threads=1, resume=True)
        say(f"recorded {path}")


def dataset_path(task: Task) -> Path:
    """Return where a task's dataset lies."""
    return WORK / f"{task.slug}.zarr"


def network_path(cell: NetworkCell) -> Path:
    """Return where a network lies."""
    return WORK / "networks" / cell.id


def make_network(cell: NetworkCell) -> None:
    """Train one network by RL under its mask."""
    from kd_offline.experts.train import train
    from kd_offline.schemas.expert import ExpertArchitecture, TrainRecipe

    # Under a mask they see what the students see; narrow ones are shaped as the students are.
    inputs = {"motion": cell.mask != "full", "last_action": cell.mask != "full"}
    architecture = ExpertArchitecture(**inputs)
    if cell.widths is not None:
        architecture = ExpertArchitecture(trunk=(32, 32), gru=32, widths=cell.widths, **inputs)
    recipe = TrainRecipe(
        environment=cell.task.name,
        mask=None if cell.mask == "full" else cell.mask,
        architecture=architecture,
        frames=cell.frames,
        seed=100 + cell.seed,
    )
    path = network_path(cell)
    if not (path / "expert.json").is_file() or not _finished(path):
        card = train(recipe, path, resume=True, threads=1)
        say(f"trained {cell.id} in {card.seconds:.0f} s: {card.greedy and card.greedy.returns}")


def _finished(path: Path) -> bool:
    return bool(json.loads((path / "expert.json").read_text(encoding="utf-8"))["finished"])


def measure_networks(cell: NetworkCell) -> None:
    """Measure all seeds of one kind of network against the bundled expert."""
    from kd_offline import environments
    from kd_offline.evaluation.evaluate import Plan, measure
    from kd_offline.evaluation.play import Contestants
    from kd_offline.experts.load import load

    name = group_name(cell)
    if (CELLS / f"{name}.json").is_file():
        return
    world = environments.load(cell.task.name)
    paths = [network_path(replace(cell, seed=seed)) for seed in RL_SEEDS]
    networks = tuple(load(path, world.spec) for path in paths)
    cards = [json.loads((path / "expert.json").read_text(encoding="utf-8")) for path in paths]
    who = Contestants(load("bundled", world.spec), networks)
    figures = measure(world, who, RL_SEEDS, Plan(EPISODES))
    keep(
        name,
        {
            "kind": "network",
            "mask": cell.mask,
            "widths": cell.widths,
            "seeds": len(RL_SEEDS),
            "frames": cell.frames,
            "seconds": [card["seconds"] for card in cards],
            "parameters": cards[0]["parameters"]["actor"],
            **{mode: score.model_dump(mode="json") for mode, score in figures.modes.items()},
        },
    )


def group_name(cell: NetworkCell) -> str:
    """Return the file name of what was measured of all seeds of a kind of network."""
    return cell.id.rsplit(".", 1)[0]


def make_students(cell: DistilledCell) -> None:
    """Distil the teams of a cell and measure them, with the best network known as ceiling."""
    from kd_offline.distillation.distill import distill
    from kd_offline.distillation.recipe import distill_recipe
    from kd_offline.evaluation.evaluate import evaluate

    if (CELLS / f"{cell.id}.json").is_file():
        return
    settings = {"optimisation.epochs": cell.task.epochs, "threads": 1, **dict(cell.settings)}
    recipe = distill_recipe(
        method=cell.method,
        mask=cell.mask,
        hidden=cell.widths,
        seeds=cell.seeds,
        settings=settings,
    )
    path = WORK / "runs" / cell.id
    if not _complete(path):
        distill(dataset_path(cell.task), path, recipe, resume=True)
    report = evaluate(path, episodes=EPISODES, ceiling=ceiling(cell))
    run = json.loads((path / "run.json").read_text(encoding="utf-8"))
    keep(
        cell.id,
        {
            "kind": "distilled",
            "mask": cell.mask,
            "method": cell.method,
            "widths": cell.widths,
            "label": cell.label,
            "seeds": len(cell.seeds),
            "seconds": [result["seconds"] for result in run["results"]],
            "held_out": [result["held_out"] for result in run["results"]],
            "dataset": run["dataset"]["id"],
            **report.model_dump(mode="json", exclude={"action_frequency", "command", "seconds"}),
        },
    )
    say(f"distilled {cell.id}: {report.greedy and report.greedy.retention}")


def ceiling(cell: DistilledCell) -> Path | None:
    """Return the best network that was trained under the cell's mask, of any size, if any.

    Best as measured: every side against the bundled expert's opponents, all sides summed.
    """
    found: list[tuple[float, Path]] = []
    for network in network_cells(cell.task) if cell.mask != "full" else ():
        group = CELLS / f"{group_name(network)}.json"
        if network.mask == cell.mask and group.is_file():
            score = json.loads(group.read_text(encoding="utf-8"))["greedy"]
            found.append((score["seeds"][network.seed]["mean"], network_path(network)))
    return max(found)[1] if found else None


def _complete(path: Path) -> bool:
    file = path / "run.json"
    return file.is_file() and json.loads(file.read_text(encoding="utf-8"))["status"] == "complete"


def keep(name: str, cell: dict[str, Any]) -> None:
    """Write a finished cell."""
    aside = CELLS / f"{name}.json.tmp"
    aside.write_text(json.dumps(cell, indent=1) + "\n", encoding="utf-8")
    aside.replace(CELLS / f"{name}.json")


def say(text: str) -> None:
    """Print a line with the time of day."""
    print(time.strftime("%H:%M:%S"), text, flush=True)


if __name__ == "__main__":
    main()
