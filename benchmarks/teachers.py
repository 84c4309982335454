"""Whether episodes of weaker experts help or harm beside those of the best one.

    python -m benchmarks.teachers             # some 15 minutes of one core
    python -m benchmarks.teachers --quick     # a minute; for trying the command, not for figures

Three experts of unequal strength record equally many episodes. Students learn from the best one's
alone, and from all three recordings by every rule of ``multi-teacher``, with equally many updates.
All play the same greedy episodes. What is there is not made again. It does for each task what these
commands do::

    kd-offline record TASK --expert bundled --expert second/ --expert third/ -o all.zarr
    kd-offline distill all.zarr -o run/ --method multi-teacher --set terms.teachers.rule=RULE

Figures of a task go to ``docs/results/teachers/TASK.json``, their table to stdout.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.dagger import Played, differences, means, played, shown
from benchmarks.results.plan import RECIPES

BEST = "bundled"


class Trained(NamedTuple):
    """A weak expert: how many joint steps it was trained for, and its seed."""

    frames: int
    seed: int


@dataclass(frozen=True, slots=True)
class Study:
    """A task, its weaker experts, and how much is recorded, learned and played.

    ``episodes`` are those of each expert, ``epochs`` those of all episodes.
    """

    task: str
    slug: str
    mask: str
    weaker: tuple[str | Trained, ...]
    recipe: Path | None = None
    episodes: int = 2000
    epochs: int = 6
    seeds: int = 3
    played: int = 2000


STUDIES = (
    Study(
        "mpe/simple_spread_v3",
        "spread",
        "limited",
        ("bundled:mlp", Trained(100_000, 0)),
    ),
    Study(
        "smax/3m",
        "3m",
        "paper",
        (Trained(800_000, 0), Trained(300_000, 1)),
        RECIPES / "bundled" / "smax-3m-default.toml",
        epochs=5,
    ),
)
QUICK_FRAMES = 5000


class Arm(NamedTuple):
    """What students learn from, and by which settings of the term."""

    name: str
    everything: bool = True
    settings: tuple[tuple[str, Any], ...] = ()


ARMS = (
    Arm("best alone", everything=False),
    *(Arm(rule, settings=(("rule", rule),)) for rule in ("validation", "own", "value")),
)


def main() -> None:
    """Measure what is missing, write the figures and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="little of everything, into --work")
    parser.add_argument("--work", type=Path, help="default: build/teachers, build/teachers-quick")
    parser.add_argument("--task", choices=[study.slug for study in STUDIES], help="only this one")
    given = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    work = given.work or Path("build/teachers-quick" if given.quick else "build/teachers")
    place = work if given.quick else Path("docs/results/teachers")
    place.mkdir(parents=True, exist_ok=True)
    for study in STUDIES:
        if given.task in (None, study.slug):
            chosen = _quick(study) if given.quick else study
            experts: list[dict[str, Any]] = []
            rows: list[dict[str, Any]] = []
            for kind, row in measured(chosen, work / study.slug):
                (experts if kind == "expert" else rows).append(row)
                document = {"study": asdict(chosen), "experts": experts, "rows": rows}
                text = json.dumps(document, indent=2, default=str) + "\n"
                (place / f"{study.slug}.json").write_text(text, encoding="utf-8")
            print(f"{study.task}, {study.mask}\n{table(experts, rows)}")


def _quick(study: Study) -> Study:
    weaker = tuple(
        one if isinstance(one, str) else one._replace(frames=QUICK_FRAMES) for one in study.weaker
    )
    return replace(study, weaker=weaker, episodes=100, epochs=1, seeds=2, played=50)


def measured(study: Study, work: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``expert`` or ``students`` with the figures of one of them."""
    from kd_offline.distillation.distill import distill
    from kd_offline.distillation.recipe import distill_recipe
    from kd_offline.recording.record import record

    work.mkdir(parents=True, exist_ok=True)
    experts = [BEST, *(_trained(study, one, work) for one in study.weaker)]
    for number, expert in enumerate(experts):
        found = played(study.task, expert, study.played, work / f"expert-{number}.npz")
        yield "expert", {"expert": _named(study, number), **figures(found)}
    alone, everything = work / "best.zarr", work / "all.zarr"
    for dataset, whose in ((alone, experts[:1]), (everything, experts)):
        episodes = study.episodes * len(whose)
        record(study.task, dataset, expert=whose, episodes=episodes, threads=1, resume=True)
    best: Played | None = None
    for number, arm in enumerate(ARMS):
        run = work / f"run-{number}"
        settings = {f"terms.teachers.{name}": value for name, value in arm.settings}
        times = 1 if arm.everything else len(experts)  # as many updates
        settings |= {"optimisation.epochs": study.epochs * times, "threads": 1}
        recipe = distill_recipe(
            method="multi-teacher",
            mask=study.mask,
            seeds=study.seeds,
            settings={**settings, "batched_seeds": True},
        )
        distill(everything if arm.everything else alone, run, recipe, resume=True)
        now = played(study.task, run, study.played, work / f"run-{number}.npz")
        yield "students", {"learn": arm.name, **figures(now, best)}
        best = now if best is None else best


def _trained(study: Study, expert: str | Trained, work: Path) -> str:
    """Return the reference of an expert, which is trained where it is not there."""
    from kd_offline.experts.recipe import train_recipe
    from kd_offline.experts.train import train

    if isinstance(expert, str):
        return expert
    folder = work / f"trained-{expert.frames}-{expert.seed}"
    settings = {"frames": expert.frames, "seed": expert.seed}
    recipe = train_recipe(study.task, file=study.recipe, settings=settings)
    train(recipe, folder, resume=True, threads=1, score_episodes=0)
    return str(folder)


def _named(study: Study, number: int) -> str:
    if number == 0:
        return f"`{BEST}`"
    weaker = study.weaker[number - 1]
    return f"`{weaker}`" if isinstance(weaker, str) else f"trained for {weaker.frames:,} steps"


def figures(now: Played, best: Played | None = None) -> dict[str, Any]:
    """Return means, and differences to the students of the best expert alone."""
    row: dict[str, Any] = means(now)
    return row if best is None else row | {"more_than_best_alone": differences(now, best)}


def table(experts: list[dict[str, Any]], rows: list[dict[str, Any]]) -> str:
    """Return the figures as Markdown: of the last measure, wins where there are any."""
    measure = "won" if "won" in experts[0] else "returns"
    scale = 100 if measure == "won" else 1
    head = "battles won, %" if measure == "won" else "return"
    lines = [f"| | {head} | more than from the best alone |", "|---|---|---|"]
    for row in (*experts, *rows):
        more = row.get("more_than_best_alone")
        cells = [
            f"expert: {row['expert']}" if "expert" in row else f"students: {row['learn']}",
            shown(row[measure]["own"], scale),
            shown(more and more[measure], scale),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
