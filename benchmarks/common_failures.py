"""By how much ``distill --diverse`` lowers the failures that all seeds share, and what it costs.

For each task, mask, method and group of seeds students are distilled from all training episodes and
from a share of them, and audited beside each other. A line of the results file is kept for each, so
that a later call continues where this one stopped; datasets and runs stay in a folder until then.
Printed are the changes of all lines, in percent points and in return.

    python -m benchmarks.common_failures --rounds 1 --keep docs/results/common-failures.jsonl

It does for each line what these commands do::

    kd-offline record TASK -o d.zarr --episodes 4000
    kd-offline distill d.zarr -o plain/ --method kl --mask limited --hidden 16 --seeds 0,1,2,3,4,5 \
        --epochs 16 --batched
    kd-offline distill d.zarr -o half/ --diverse ... (the same)
    kd-offline audit half/ --against plain/ --episodes 2000 --perturbations noise:0.3,dead
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kd_offline.distillation.distill import distill
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.recording.record import record
from kd_offline.robustness.audit import audit
from kd_offline.runs.folder import RUN, open_run
from kd_offline.schemas.evaluation import Estimate
from kd_offline.schemas.robustness import PerturbedPlay, RobustnessReport

PLACES = (
    ("mpe/simple_spread_v3", "limited"),
    ("mpe/simple_spread_v3", "full"),
    ("mpe/simple_speaker_listener_v4", "limited"),
    ("smax/3m", "paper"),
)
METHODS = ("kl", "kd-marl")
SHARES = (0.5, 0.2)
PERTURBATIONS = ("noise:0.3", "dead")


@dataclass(frozen=True, slots=True)
class Case:
    """One comparison: students from a share of the episodes beside students from all of them."""

    task: str
    mask: str
    method: str
    share: float
    seeds: tuple[int, ...]

    @property
    def key(self) -> str:
        """A name of the case."""
        return f"{self.task} {self.mask} {self.method} {self.share} {self.seeds}"


@dataclass(frozen=True, slots=True)
class Size:
    """How much is recorded, learnt and played."""

    recorded: int = 4000
    epochs: int = 16
    hidden: int = 16
    episodes: int = 2000
    seeds: int = 6


def main() -> None:
    """Distil and audit what is missing, and print the changes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1, help="groups of seeds")
    parser.add_argument("--keep", type=Path, default=Path("docs/results/common-failures.jsonl"))
    parser.add_argument("--place", type=Path, default=Path("build/common-failures"))
    parser.add_argument("--task", action="append", help="only this one; repeatable")
    for name, value in asdict(Size()).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    size = Size(**{name: getattr(given, name) for name in asdict(Size())})
    there = [json.loads(line) for line in lines(given.keep)]
    done = {(row["key"], json.dumps(row["size"])) for row in there}
    given.place.mkdir(parents=True, exist_ok=True)
    with given.keep.open("a", encoding="utf-8") as kept:
        for case in cases(given.rounds, size.seeds):
            if given.task and case.task not in given.task:
                continue
            if (case.key, json.dumps(asdict(size))) in done:
                continue
            row = {"key": case.key, **asdict(case), "size": asdict(size)}
            row |= measured(case, size, given.place)
            print(json.dumps(row), file=kept, flush=True)
            there.append(row)
            show(row)
    print(f"{len(there)} lines in {given.keep}")


def lines(path: Path) -> list[str]:
    """Return the lines that were kept; none where there is no file."""
    return path.read_text("utf-8").splitlines() if path.is_file() else []


def cases(rounds: int, seeds: int) -> Iterator[Case]:
    """Yield all cases, one group of seeds after the other."""
    for turn in range(rounds):
        group = tuple(range(turn * seeds, (turn + 1) * seeds))
        for (task, mask), method, share in itertools.product(PLACES, METHODS, SHARES):
            yield Case(task, mask, method, share, group)


def measured(case: Case, size: Size, place: Path) -> dict[str, Any]:
    """Make what is missing of a case, and return what the audit found."""
    started = time.perf_counter()
    name = case.task.replace("/", "-")
    dataset = place / f"{name}-{size.recorded}.zarr"
    record(case.task, dataset, episodes=size.recorded, seed=0, resume=dataset.exists())
    runs = []
    for share in (case.share, None):
        parts = (name, case.mask, case.method, share or "all", *asdict(size).values())
        run = place / ("-".join(map(str, parts)) + f"-{case.seeds[0]}")
        recipe = distill_recipe(
            method=case.method,
            mask=case.mask,
            hidden=size.hidden,
            seeds=case.seeds,
            settings={
                "optimisation.epochs": size.epochs,
                "batched_seeds": True,
                "diverse": share,
            },
        )
        if not (run / RUN).exists() or open_run(run).manifest().status != "complete":
            distill(dataset, run, recipe, resume=run.exists())
        runs.append(run)
    own, plain = runs
    report = audit(
        own,
        against=plain,
        dataset=dataset,
        episodes=size.episodes,
        perturbations=PERTURBATIONS,
        resume=True,
    )
    return {"seconds": round(time.perf_counter() - started), **found(report)}


def found(report: RobustnessReport) -> dict[str, Any]:
    """Return the figures of a line."""
    scores, beside = report.greedy, report.comparison
    assert scores is not None
    assert beside is not None
    rows = {play.perturbation: figures(play) for play in (scores.unperturbed, *scores.plays)}
    errors = None
    if report.errors is not None and beside.errors is not None:
        errors = {
            "together": [report.errors.together.mean, beside.errors.together.mean],
            "together_change": ends(beside.errors_change),
            "wrong_change": ends(beside.wrong_change),
            "correlation": [report.errors.correlation, beside.errors.correlation],
        }
    return {"plays": rows, "errors": errors, "students": report.students, "expert": report.expert}


def figures(play: PerturbedPlay) -> dict[str, Any]:
    """Return the figures of one perturbation: of the share, of all episodes, and changes."""
    own, beside = play.failures, play.comparison
    if own is None or beside is None or play.students is None:
        return {}
    return {
        "together": [own.together.mean, beside.failures.together.mean],
        "together_change": ends(beside.together_change),
        "failed_change": ends(beside.failed_change),
        "correlation": [own.correlation, beside.failures.correlation],
        "returns": [play.students.returns.mean, beside.returns.mean],
        "returns_change": ends(beside.returns_change),
    }


def ends(estimate: Estimate | None) -> list[float] | None:
    """Return mean and interval of a change."""
    return None if estimate is None else [estimate.mean, estimate.low, estimate.high]


def show(row: dict[str, Any]) -> None:
    """Print a line in words."""
    print(f"{row['key']}, {row['seconds']} s")
    for name, play in row["plays"].items():
        if play:
            together, one = (
                [100 * x for x in play[k]] for k in ("together_change", "failed_change")
            )
            returns = play["returns_change"]
            print(
                f"  {name}: every seed fails {together[0]:+.1f} [{together[1]:+.1f}, "
                f"{together[2]:+.1f}], one seed {one[0]:+.1f} [{one[1]:+.1f}, {one[2]:+.1f}], "
                f"return {returns[0]:+.2f} [{returns[1]:+.2f}, {returns[2]:+.2f}]"
            )


if __name__ == "__main__":
    main()
