"""Fill the cells of a results page, one file a cell; what is there is not made again.

    python -m benchmarks.results.run --on processes:2
    python -m benchmarks.results.run --study combat --on ray
    python -m benchmarks.results.run --study methods --quick

Every training and distillation uses one thread, so that the figures can be made again bit for bit
on the same kind of processor, and several cells are made side by side. Stop at any time; the next
call continues. ``--only scores`` measures the networks that are there and trains none.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmarks.results import curves
from benchmarks.results.combat import COMBAT
from benchmarks.results.ddn import DDN
from benchmarks.results.methods import METHODS, quick
from benchmarks.results.plan import (
    EVALUATION_SEED,
    PARTICLE,
    DistilledCell,
    NetworkCell,
    Study,
)
from kd_offline.execution import executor_on

if TYPE_CHECKING:
    from kd_offline.schemas.expert import TrainRecipe
    from kd_offline.types import TeamPolicy

STUDIES = {"particle": PARTICLE, "combat": COMBAT, "ddn": DDN, "methods": METHODS}
STAGES = ("networks", "scores", "datasets", "distilled", "ablations", "comparisons", "latency")
EXPERT = "bundled"
LATENCY_ENGINES = ("torch", "onnx", "c")
# What is kept of an evaluation lies in the cell; heat maps are drawn beside it.
_LEFT_OUT = {"action_frequency", "command", "seconds"}
_OF_EXPERT = {"expert", "retention", "retention_intervals", "agreement"}
AnyCell = NetworkCell | DistilledCell
Do = Callable[[Callable[..., object], Sequence[Any]], object]


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", choices=STUDIES, default="particle")
    parser.add_argument("--on", default="processes", help="as of kd-offline: processes:4 or ray")
    parser.add_argument("--tasks", help="slugs with commas; default: all")
    parser.add_argument("--only", default=",".join(STAGES), help="stages with commas")
    parser.add_argument("--work", type=Path, help="where datasets and networks are kept")
    parser.add_argument("--cells", type=Path, help="where the cells are kept")
    parser.add_argument("--quick", action="store_true", help="minutes; the figures mean nothing")
    given = parser.parse_args()
    if given.quick and given.study != "methods":
        parser.error("--quick is there for --study methods alone")
    study = quick(METHODS) if given.quick else STUDIES[given.study]
    names = given.tasks.split(",") if given.tasks else [task.slug for task in study.tasks]
    study = replace(
        study,
        work=given.work or study.work,
        cells=given.cells or study.cells,
        tasks=tuple(task for task in study.tasks if task.slug in names),
    )
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    _make_folders(study)
    with executor_on(given.on, folders=[study.work, study.cells], logs=study.work) as workers:
        fill(study, given.only.split(","), lambda make, cells: list(workers.map(make, cells)))


def _make_folders(study: Study) -> None:
    for folder in (study.work, study.cells):
        folder.mkdir(parents=True, exist_ok=True)


def fill(study: Study, stages: Sequence[str], do: Do) -> None:
    """Make the missing cells of ``stages``; ``do`` calls a function for each of several cells."""
    _make_folders(study)
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
    groups = [group for task in study.tasks for group in study.groups(task)]
    if "networks" in stages:
        short = [group for group in groups if _seeds(study, group[0].group) < len(group)]
        # One seed of every kind before the next, so that a study that is stopped compares kinds.
        do(
            partial(make_network, study),
            sorted((cell for group in short for cell in group), key=lambda cell: cell.seed),
        )
    if "scores" in stages:
        do(partial(measure_networks, study), [group for group in groups if _more(study, group)])
    if "datasets" in stages:
        whose = {dataset_path(study, cell): cell for cell in unmade}
        do(partial(make_dataset, study), list(whose.values()))
    for stage, cells in missing.items():
        if stage in stages:
            do(partial(make_students, study), cells)
    if "comparisons" in stages and study.comparisons is not None:
        for task in study.tasks:
            for pair in study.comparisons(task):
                compare(study, *pair)
    if "latency" in stages and study.latency_rounds:
        # One after another and nothing beside them, so that all are timed alike.
        for cell in students["distilled"]:
            time_students(study, cell)


def _measured(study: Study, name: str) -> bool:
    return (study.cells / f"{name}.json").is_file()


def _seeds(study: Study, name: str) -> int:
    """Return how many training seeds a cell was measured with, 0 where it was not made."""
    file = study.cells / f"{name}.json"
    return int(json.loads(file.read_text(encoding="utf-8"))["seeds"]) if file.is_file() else 0


def _seeds_of(study: Study, cell: AnyCell) -> int:
    """Return with how many seeds a cell takes part in a comparison, 0 where it was not made."""
    if isinstance(cell, NetworkCell) and cell.apart:
        return len(_trained(study, [cell]))
    return _seeds(study, cell.compared_as)


def _more(study: Study, group: Sequence[NetworkCell]) -> bool:
    """Tell whether more networks of a kind are there than were measured."""
    return len(_trained(study, group)) > _seeds(study, group[0].group)


def _trained(study: Study, group: Sequence[NetworkCell]) -> list[NetworkCell]:
    return [cell for cell in group if cell.bundled or _finished(network_path(study, cell))]


def make_dataset(study: Study, cell: DistilledCell) -> None:
    """Record the dataset that the students of a cell learn from, and those of others."""
    from kd_offline.recording.record import record

    path = dataset_path(study, cell)
    if not (path / "manifest.json").is_file():
        episodes = cell.episodes or cell.task.dataset_episodes
        record(
            cell.task.name,
            path,
            expert=expert_of(study, cell),
            environment_kwargs=dict(cell.task.environment),
            episodes=episodes,
            threads=1,
            resume=True,
        )
        say(f"recorded {path}")


def dataset_path(study: Study, cell: DistilledCell) -> Path:
    """Return where the dataset of a cell lies."""
    part = f".{cell.episodes}" if cell.episodes else ""
    whose = cell.task.slug if cell.expert is None else cell.expert.id
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
    return study.work / "networks" / cell.id / (cell.part or "")


def recipe_of(cell: NetworkCell) -> TrainRecipe:
    """Return how a network is trained."""
    from kd_offline.experts.recipe import train_recipe

    # Under a mask they see what the students see; narrow ones are shaped as the students are.
    settings: dict[str, Any] = {"seed": 100 + cell.seed, **dict(cell.task.training)}
    settings |= {f"environment_kwargs.{name}": value for name, value in cell.task.environment}
    if cell.mask != "full":
        settings |= {"mask": cell.mask, "architecture.motion": True}
        settings |= {"architecture.last_action": True}
    if cell.widths is not None:
        settings |= {"architecture.trunk": (32, 32), "architecture.gru": 32}
        settings |= {"architecture.widths": cell.widths}
    if cell.frames is not None:
        settings["frames"] = cell.frames
    settings |= dict(cell.settings)
    file = cell.task.taught if cell.teacher else dict(cell.task.recipes).get(cell.algorithm)
    if file is not None:  # a file runs no code, so the script that one names is named beside it
        stated = tomllib.loads(file.read_text("utf-8")).get("kickstart", {}).get("teacher")
        settings |= {} if stated is None else {"kickstart.teacher": stated}
    return train_recipe(cell.task.name, algorithm=cell.algorithm, file=file, settings=settings)


def make_network(study: Study, cell: NetworkCell) -> None:
    """Train one network by RL under its mask, with the parts that the training leaves."""
    from kd_offline.experts.train import train

    cell = replace(cell, part=None)
    path = network_path(study, cell)
    if not (cell.bundled or _finished(path)):
        scored, used = study.episodes, _processor_file(study, cell)
        before = processor_seconds(study, cell) - time.process_time()
        try:
            card = train(recipe_of(cell), path, resume=True, threads=1, score_episodes=scored)
        finally:
            used.write_text(f"{before + time.process_time():.1f}\n", encoding="utf-8")
        greedy = card.greedy
        say(f"trained {cell.id} in {card.seconds:.0f} s: {greedy and (greedy.returns, greedy.won)}")


def processor_seconds(study: Study, cell: NetworkCell) -> float:
    """Return the seconds of processor time that a network took, all its tries; 0: not kept."""
    file = _processor_file(study, cell)
    return float(file.read_text(encoding="utf-8")) if file.is_file() else 0.0


def _processor_file(study: Study, cell: NetworkCell) -> Path:
    return study.work / f"{cell.id}.processor-seconds"


def _finished(path: Path) -> bool:
    card = path / "expert.json"
    return card.is_file() and bool(json.loads(card.read_text(encoding="utf-8"))["finished"])


def measure_networks(study: Study, group: Sequence[NetworkCell]) -> None:
    """Measure all networks of one kind that are trained, against the expert where there is one."""
    from kd_offline import environments
    from kd_offline.evaluation.cost import team_cost
    from kd_offline.evaluation.evaluate import INTERVALS, Plan, measure
    from kd_offline.evaluation.play import PolicySet
    from kd_offline.experts.load import load
    from kd_offline.rollout.policies import RandomPolicy

    cells = _trained(study, group)
    cell, seeds = cells[0], [each.seed for each in cells]
    world = environments.load(cell.task.name, **dict(cell.task.environment))
    paths = [network_path(study, each) for each in cells]
    networks = tuple(load(path, world.spec, with_value=False) for path in paths)
    cards = [json.loads((path / "expert.json").read_text(encoding="utf-8")) for path in paths]
    known = cell.task.bundled
    expert = load(EXPERT, world.spec, with_value=False) if known else RandomPolicy(drawn=True)
    who = PolicySet(expert, networks)
    figures = measure(world, who, seeds, Plan(study.episodes, EVALUATION_SEED))
    spec = world.spec
    # Each side's agents act in the play of their own side.
    acted = np.zeros(spec.n_agents)
    for play in figures.sides.values():
        steps = np.mean([done.alive_steps.mean(axis=0) for done in play.students], axis=0)
        acted[list(play.agents)] = steps[list(play.agents)]
    length = next(iter(figures.modes.values())).length["student"]
    shapes = networks[0].actor_shapes()
    cost = team_cost(spec.agents, shapes, acted.tolist(), length, spec.episode_limit)
    keep(
        study,
        cell.group,
        {
            "algorithm": cell.algorithm,
            "mask": cell.mask,
            "widths": cell.widths,
            "seeds": len(cells),
            "frames": cards[0]["frames"],
            "teacher": cards[0]["recipe"].get("kickstart"),
            "seconds": [card["seconds"] for card in cards],
            "processor_seconds": [processor_seconds(study, each) for each in cells],
            "curves": [] if cell.part else [curves.read(path / "curve.jsonl") for path in paths],
            "parameters": cards[0]["parameters"]["actor"],
            "cost": cost.model_dump(mode="json", exclude={"agents"}),
            "episodes": study.episodes,
            "evaluation_seed": EVALUATION_SEED,
            "intervals": INTERVALS,
            **{
                mode: score.model_dump(mode="json", exclude=set() if known else _OF_EXPERT)
                for mode, score in figures.modes.items()
            },
        },
    )
    say(f"measured {cell.group}, {len(cells)} seeds")


def make_students(study: Study, cell: DistilledCell) -> None:
    """Distil the teams of a cell and measure them."""
    from kd_offline.evaluation.evaluate import evaluate

    path = make_run(study, cell)
    report = evaluate(
        path,
        episodes=study.episodes,
        seed=EVALUATION_SEED,
        expert=expert_of(study, cell),
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
            "seconds": _seconds_of(study, cell),
            "held_out": [result["held_out"] for result in run["results"]],
            "dataset": run["dataset"]["id"],
            **report.model_dump(mode="json", exclude=_LEFT_OUT),
            **(beside_bundled(study, cell) if cell.expert and cell.task.bundled else {}),
        },
    )
    say(f"distilled {cell.id}: {report.greedy and report.greedy.retention}")


def beside_bundled(study: Study, cell: DistilledCell) -> dict[str, Any]:
    """Return the scores of students beside the bundled expert, whose play they did not learn from.

    What teams in two steps keep is stated against the same expert as what all others keep.
    """
    from kd_offline import environments
    from kd_offline.evaluation.evaluate import Plan, measure
    from kd_offline.evaluation.play import PolicySet
    from kd_offline.experts.load import load
    from kd_offline.runs.complete import complete_run

    world = environments.load(cell.task.name, **dict(cell.task.environment))
    teams = complete_run(study.work / "runs" / cell.id).teams
    who = PolicySet(load(EXPERT, world.spec, with_value=False), tuple(teams))
    figures = measure(world, who, cell.seeds, Plan(study.episodes, EVALUATION_SEED))
    scores = {mode: score.model_dump(mode="json") for mode, score in figures.modes.items()}
    return {"beside": EXPERT, **scores}


def make_run(study: Study, cell: DistilledCell) -> Path:
    """Distil the teams of a cell, or let those of the cell without label go on."""
    from kd_offline.distillation.distill import distill
    from kd_offline.distillation.recipe import distill_recipe
    from kd_offline.online.ppd import ppd

    path = study.work / "runs" / cell.id
    if _complete(path):
        return path
    if cell.further:
        begun, further = make_run(study, _begun(cell)), dict(cell.further)
        ppd(begun, path, frames=further.pop("frames"), settings=further, threads=1, resume=True)
        return path
    settings: dict[str, Any] = {"optimisation.epochs": cell.task.epochs, "threads": 1}
    settings |= dict(study.settings) | dict(cell.settings)
    recipe = distill_recipe(
        method=cell.method,
        mask=cell.mask,
        hidden=cell.widths,
        seeds=cell.seeds,
        settings=settings,
    )
    distill(dataset_path(study, cell), path, recipe, resume=True)
    return path


def _begun(cell: DistilledCell) -> DistilledCell:
    """Return the students that those of a cell go on from."""
    return replace(cell, label="", further=())


def _seconds_of(study: Study, cell: DistilledCell) -> list[float]:
    """Return the seconds of each seed, with those of the students that it goes on from."""
    text = (study.work / "runs" / cell.id / "run.json").read_text(encoding="utf-8")
    took = [float(result["seconds"]) for result in json.loads(text)["results"]]
    before = _seconds_of(study, _begun(cell)) if cell.further else [0.0] * len(took)
    return [round(sum(both), 2) for both in zip(took, before, strict=True)]


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


def compare(study: Study, one: AnyCell, other: AnyCell) -> None:
    """Keep by how much the return of one kind of policy is above that of another.

    Both are played in the same episodes. Where networks or students are not there, nothing is kept.
    """
    from kd_offline.evaluation.intervals import difference_interval

    pair = one, other
    names = [cell.compared_as for cell in pair]
    seeds, name = [_seeds_of(study, cell) for cell in pair], ".minus.".join(names)
    file = study.cells / f"{name}.json"
    made = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"seeds": None}
    if made["seeds"] == seeds or not all(seeds) or not all(_playable(study, c) for c in pair):
        return
    first, second = (_returns(study, cell) for cell in pair)
    keep(
        study,
        name,
        {
            "one": names[0],
            "other": names[1],
            "seeds": [len(played["greedy"]) for played in (first, second)],
            "episodes": study.episodes,
            "evaluation_seed": EVALUATION_SEED,
            **{mode: difference_interval(first[mode], second[mode])._asdict() for mode in first},
        },
    )
    say(f"compared {name}")


def _playable(study: Study, cell: AnyCell) -> bool:
    if isinstance(cell, DistilledCell):
        return _complete(study.work / "runs" / cell.id)
    return bool(_trained(study, _alike(study, cell)))


def _alike(study: Study, cell: NetworkCell) -> tuple[NetworkCell, ...]:
    """Return the cells of all seeds of its kind, or it alone where it is compared apart."""
    if cell.apart:
        return (cell,)
    return next(g for g in study.groups(cell.task) if g[0].group == cell.group)


@lru_cache(maxsize=4)  # what others are compared with is played once
def _returns(study: Study, cell: AnyCell) -> dict[str, npt.NDArray[np.float64]]:
    """Return what the whole team of each seed earned in each episode [K, E], by mode."""
    from kd_offline import environments
    from kd_offline.evaluation.evaluate import MODES
    from kd_offline.evaluation.play import EvaluationRunner
    from kd_offline.experts.load import load
    from kd_offline.runs.complete import complete_run
    from kd_offline.seeding import episode_seeds

    world = environments.load(cell.task.name, **dict(cell.task.environment))
    teams: list[TeamPolicy]
    if isinstance(cell, DistilledCell):
        run = complete_run(study.work / "runs" / cell.id)
        teams = [*run.teams]
    else:
        paths = [network_path(study, each) for each in _trained(study, _alike(study, cell))]
        teams = [load(path, world.spec, with_value=False) for path in paths]
    seeds = episode_seeds(EVALUATION_SEED, 0, study.episodes, "evaluation")
    runner = EvaluationRunner(world, seeds)
    return {
        mode: np.stack(
            [runner.play(team, greedy=mode == "greedy").returns.sum(axis=1) for team in teams]
        )
        for mode in MODES
    }


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
