"""Fill the cells of a results page, one file a cell; what is there is not made again.

    python -m benchmarks.results.run --workers 2
    python -m benchmarks.results.run --study combat --workers 2

Every training and distillation uses one thread, so that the figures can be made again bit for bit
on the same kind of processor, and several cells are made side by side. Stop at any time; the next
call continues.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import tomllib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.results import curves
from benchmarks.results.combat import COMBAT
from benchmarks.results.plan import PARTICLE, DistilledCell, NetworkCell, Study

if TYPE_CHECKING:
    from kd_offline.schemas.expert import TrainRecipe

STUDIES = {"particle": PARTICLE, "combat": COMBAT}
STAGES = ("networks", "datasets", "distilled", "ablations", "latency")
EXPERT = "bundled"
LATENCY_ENGINES = ("torch", "onnx", "c")
# What is kept of an evaluation lies in the cell; heat maps are drawn beside it.
_LEFT_OUT = {"action_frequency", "command", "seconds"}
Do = Callable[[Callable[..., object], Sequence[Any]], object]


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", choices=STUDIES, default="particle")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--tasks", help="slugs with commas; default: all")
    parser.add_argument("--only", default=",".join(STAGES), help="stages with commas")
    parser.add_argument("--work", type=Path, help="where datasets and networks are kept")
    parser.add_argument("--cells", type=Path, help="where the cells are kept")
    given = parser.parse_args()
    study = STUDIES[given.study]
    names = given.tasks.split(",") if given.tasks else [task.slug for task in study.tasks]
    study = replace(
        study,
        work=given.work or study.work,
        cells=given.cells or study.cells,
        tasks=tuple(task for task in study.tasks if task.slug in names),
    )
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with ProcessPoolExecutor(given.workers, max_tasks_per_child=1) as pool:
        fill(study, given.only.split(","), lambda make, cells: list(pool.map(make, cells)))


def fill(study: Study, stages: Sequence[str], do: Do) -> None:
    """Make the missing cells of ``stages``; ``do`` calls a function for each of several cells."""
    for directory in (study.work, study.cells):
        directory.mkdir(parents=True, exist_ok=True)
    makers = {"distilled": study.distilled, "ablations": study.ablations}
    students = {
        stage: [cell for task in study.tasks for cell in cells_of(task)]
        for stage, cells_of in makers.items()
        if cells_of is not None
    }
    missing = {
        stage: [cell for cell in cells if not _measured(study, cell.id)]
        for stage, cells in students.items()
    }
    unmade = [cell for cells in missing.values() for cell in cells]
    groups = [cell for task in study.tasks for cell in study.groups(task)]
    groups = [cell for cell in groups if not _measured(study, group_name(cell))]
    if "networks" in stages:
        do(partial(make_network, study), _networks(study, groups, unmade))
        do(partial(measure_networks, study), groups)
    if "datasets" in stages:
        whose = {dataset_path(study, cell): cell for cell in unmade}
        do(partial(make_dataset, study), list(whose.values()))
    for stage, cells in missing.items():
        if stage in stages:
            do(partial(make_students, study), cells)
    if "latency" in stages and study.latency_rounds:
        # One after another and nothing beside them, so that all are timed alike.
        for cell in students["distilled"]:
            time_students(study, cell)


def _measured(study: Study, name: str) -> bool:
    return (study.cells / f"{name}.json").is_file()


def _networks(
    study: Study, groups: Sequence[NetworkCell], students: Sequence[DistilledCell]
) -> list[NetworkCell]:
    """Return the networks that are to be measured, or beside which ``students`` are measured."""
    names = {group_name(cell) for cell in groups}
    beside = {(cell.task.slug, cell.mask) for cell in students if cell.mask != "full"}
    return [
        cell
        for task in study.tasks
        for cell in study.networks(task)
        if group_name(cell) in names or (task.slug, cell.mask) in beside
    ]


def make_dataset(study: Study, cell: DistilledCell) -> None:
    """Record the dataset that the students of a cell learn from, and those of others."""
    from kd_offline.recording.record import record

    path = dataset_path(study, cell)
    if not (path / "manifest.json").is_file():
        episodes = cell.episodes or cell.task.dataset_episodes
        expert, name = expert_of(study, cell), cell.task.name
        record(name, path, expert=expert, episodes=episodes, threads=1, resume=True)
        say(f"recorded {path}")


def dataset_path(study: Study, cell: DistilledCell) -> Path:
    """Return where the dataset of a cell lies."""
    part = f".{cell.episodes}" if cell.episodes else ""
    whose = cell.task.slug if cell.expert is None else group_name(cell.expert)
    return study.work / f"{whose}{part}.zarr"


def expert_of(study: Study, cell: DistilledCell) -> str:
    """Return whose play the students of a cell learn from, as a reference."""
    if cell.expert is None:
        return EXPERT
    bundled = cell.expert.bundled
    return f"{EXPERT}:{bundled}" if bundled else str(network_path(study, cell.expert))


def network_path(study: Study, cell: NetworkCell) -> Path:
    """Return where a network lies; a bundled one is a folder of the package."""
    from kd_offline.experts.load import bundled_folder

    if cell.bundled:
        return bundled_folder(cell.task.name, cell.bundled)
    return study.work / "networks" / cell.id


def recipe_of(cell: NetworkCell) -> TrainRecipe:
    """Return how a network is trained."""
    from kd_offline.experts.recipe import train_recipe

    # Under a mask they see what the students see; narrow ones are shaped as the students are.
    settings: dict[str, Any] = {"seed": 100 + cell.seed, **dict(cell.task.training)}
    if cell.mask != "full":
        settings |= {"mask": cell.mask, "architecture.motion": True}
        settings |= {"architecture.last_action": True}
    if cell.widths is not None:
        settings |= {"architecture.trunk": (32, 32), "architecture.gru": 32}
        settings |= {"architecture.widths": cell.widths}
    if cell.frames is not None:
        settings["frames"] = cell.frames
    file = dict(cell.task.recipes).get(cell.algorithm)
    if file is not None:  # a file runs no code, so the script that one names is named beside it
        stated = tomllib.loads(file.read_text("utf-8")).get("kickstart", {}).get("teacher")
        settings |= {} if stated is None else {"kickstart.teacher": stated}
    return train_recipe(cell.task.name, algorithm=cell.algorithm, file=file, settings=settings)


def make_network(study: Study, cell: NetworkCell) -> None:
    """Train one network by RL under its mask."""
    from kd_offline.experts.train import train

    path = network_path(study, cell)
    if not (cell.bundled or _finished(path)):
        scored = study.episodes
        card = train(recipe_of(cell), path, resume=True, threads=1, score_episodes=scored)
        greedy = card.greedy
        say(f"trained {cell.id} in {card.seconds:.0f} s: {greedy and (greedy.returns, greedy.won)}")


def _finished(path: Path) -> bool:
    card = path / "expert.json"
    return card.is_file() and bool(json.loads(card.read_text(encoding="utf-8"))["finished"])


def measure_networks(study: Study, cell: NetworkCell) -> None:
    """Measure all seeds of one kind of network against the expert."""
    from kd_offline import environments
    from kd_offline.evaluation.cost import team_cost
    from kd_offline.evaluation.evaluate import Plan, measure
    from kd_offline.evaluation.parties import expert_shapes
    from kd_offline.evaluation.play import Contestants
    from kd_offline.experts.load import load

    world = environments.load(cell.task.name)
    paths = [network_path(study, replace(cell, seed=seed)) for seed in study.rl_seeds]
    networks = tuple(load(path, world.spec, with_value=False) for path in paths)
    cards = [json.loads((path / "expert.json").read_text(encoding="utf-8")) for path in paths]
    who = Contestants(load(EXPERT, world.spec, with_value=False), networks)
    figures = measure(world, who, study.rl_seeds, Plan(study.episodes))
    spec, (play, *_) = world.spec, figures.sides.values()
    acted = play.students[0].alive_steps.mean(axis=0).tolist()
    length = next(iter(figures.modes.values())).length["student"]
    shapes = expert_shapes(networks[0], spec)
    cost = team_cost(spec.agents, shapes, acted, length, spec.episode_limit)
    keep(
        study,
        group_name(cell),
        {
            "algorithm": cell.algorithm,
            "mask": cell.mask,
            "widths": cell.widths,
            "seeds": len(study.rl_seeds),
            "frames": cards[0]["frames"],
            "curve": curves.read(paths[0] / "curve.jsonl"),
            "parameters": cards[0]["parameters"]["actor"],
            "cost": cost.model_dump(mode="json", exclude={"agents"}),
            **{mode: score.model_dump(mode="json") for mode, score in figures.modes.items()},
        },
    )


def group_name(cell: NetworkCell) -> str:
    """Return the file name of what was measured of all seeds of a kind of network."""
    return cell.id.rsplit(".", 1)[0]


def make_students(study: Study, cell: DistilledCell) -> None:
    """Distil the teams of a cell and measure them, with the best network known as ceiling."""
    from kd_offline.distillation.distill import distill
    from kd_offline.distillation.recipe import distill_recipe
    from kd_offline.evaluation.evaluate import evaluate

    settings = {"optimisation.epochs": cell.task.epochs, "threads": 1, **dict(cell.settings)}
    recipe = distill_recipe(
        method=cell.method,
        mask=cell.mask,
        hidden=cell.widths,
        seeds=cell.seeds,
        settings=settings,
    )
    path = study.work / "runs" / cell.id
    if not _complete(path):
        distill(dataset_path(study, cell), path, recipe, resume=True)
    report = evaluate(
        path,
        episodes=study.episodes,
        expert=expert_of(study, cell),
        ceiling=ceiling(study, cell),
    )
    if cell.heat:
        draw_heat(study, cell, report.action_frequency)
    run = json.loads((path / "run.json").read_text(encoding="utf-8"))
    keep(
        study,
        cell.id,
        {
            "mask": cell.mask,
            "method": cell.method,
            "widths": cell.widths,
            "label": cell.label,
            "seeds": len(cell.seeds),
            "seconds": [result["seconds"] for result in run["results"]],
            "held_out": [result["held_out"] for result in run["results"]],
            "dataset": run["dataset"]["id"],
            **report.model_dump(mode="json", exclude=_LEFT_OUT),
        },
    )
    say(f"distilled {cell.id}: {report.greedy and report.greedy.retention}")


def time_students(study: Study, cell: DistilledCell) -> None:
    """Add to a finished cell how long a decision takes, expert and students in one run."""
    from kd_offline.evaluation.latency import bench_latency

    file = study.cells / f"{cell.id}.json"
    made = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    if made is None or "latency" in made:
        return
    run, expert = study.work / "runs" / cell.id, expert_of(study, cell)
    report = bench_latency(run, expert=expert, engines=LATENCY_ENGINES, rounds=study.latency_rounds)
    shown = ("who", "engine", "agents", "p50_us", "p99_us", "macs")
    rows = [{name: row.model_dump(mode="json")[name] for name in shown} for row in report.rows]
    keep(study, cell.id, made | {"latency": rows})
    say(f"timed {cell.id}")


def draw_heat(study: Study, cell: DistilledCell, heats: Sequence[Any]) -> None:
    """Draw how often each action is taken at each step, as a file of its own."""
    from kd_offline.reports import plots, svg

    with svg.style():
        drawn = svg.standalone(plots.heat_plot(heats))
    (study.cells / f"{cell.id}.heat.svg").write_text(drawn, encoding="utf-8")


def ceiling(study: Study, cell: DistilledCell) -> Path | None:
    """Return the best network that was trained under the cell's mask, of any size, if any.

    Best as measured: every side against the expert's opponents, all sides summed.
    """
    found: list[tuple[float, Path]] = []
    for network in study.networks(cell.task) if cell.mask != "full" else ():
        group = study.cells / f"{group_name(network)}.json"
        if network.mask == cell.mask and group.is_file():
            score = json.loads(group.read_text(encoding="utf-8"))["greedy"]
            best = score["seeds"][study.rl_seeds.index(network.seed)]["mean"]
            found.append((best, network_path(study, network)))
    return max(found)[1] if found else None


def _complete(path: Path) -> bool:
    file = path / "run.json"
    return file.is_file() and json.loads(file.read_text(encoding="utf-8"))["status"] == "complete"


def keep(study: Study, name: str, cell: dict[str, Any]) -> None:
    """Write a finished cell."""
    aside = study.cells / f"{name}.json.tmp"
    aside.write_text(json.dumps(cell, indent=1) + "\n", encoding="utf-8")
    aside.replace(study.cells / f"{name}.json")


def say(text: str) -> None:
    """Print a line with the time of day."""
    print(time.strftime("%H:%M:%S"), text, flush=True)


if __name__ == "__main__":
    main()
