"""How much of the gap to the masked ceiling DAgger closes, beside equally many expert episodes.

    python -m benchmarks.dagger               # some 30 minutes of one core; can be stopped
    python -m benchmarks.dagger --task spread
    python -m benchmarks.dagger --quick       # a minute; for trying the command, not for figures

Students are distilled from the bundled expert under a mask. They go on in rounds that each add
episodes, in four ways: the episodes are played by the students or recorded from the expert that
labels them, and that expert is the bundled one or ``bundled:masked``, which sees what the students
see. All four add equally many episodes, and make nearly equally many updates. With the bundled
expert and students that play, a round is one of::

    kd-offline record TASK -o d.zarr --episodes N
    kd-offline distill d.zarr -o first/ --mask MASK --seeds 3 --epochs E --batched \
        --set weights.policy=0
    kd-offline dagger first/ -o dagger/ --rounds R --episodes M

The policy gradient is left out, since it needs the values of whoever plays. With
``bundled:masked``, students go on from its labels alone, since two experts that label the same
states differently would contradict each other. The ceiling is ``bundled:masked`` itself, in the
same greedy episodes. What is there is not made again. Figures of a task go to
``docs/results/dagger/TASK.json``, their table to stdout.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmarks.results.plan import EVALUATION_SEED

if TYPE_CHECKING:
    from kd_offline.evaluation.intervals import Interval
    from kd_offline.recording.recipe import RecordSettings
    from kd_offline.types import FloatArray, TeamPolicy

CEILING = "bundled:masked"
LABELS = ("bundled", CEILING)
PLAYS = ("expert", "students")  # what students are compared with is first


@dataclass(frozen=True, slots=True)
class Study:
    """A task, and how much is recorded, learned and played in it."""

    task: str
    slug: str
    mask: str
    recorded: int
    epochs: int
    added: int
    seeds: int = 3
    rounds: int = 2
    played: int = 2000


STUDIES = (
    Study("mpe/simple_spread_v3", "spread", "limited", recorded=6000, epochs=12, added=3000),
    *(
        Study(f"smax/{name}", slug, "paper", recorded=3000, epochs=10, added=1500, played=1000)
        for name, slug in (("3m", "3m"), ("5m_vs_6m", "5m-vs-6m"))
    ),
)


class Arm(NamedTuple):
    """Who labels the added episodes, and who plays them."""

    labels: str
    play: str

    @property
    def name(self) -> str:
        """Of a folder."""
        return f"{self.labels.replace(':', '-')}.{self.play}"


ARMS = tuple(Arm(*pair) for pair in product(LABELS, PLAYS))


class Played(NamedTuple):
    """Greedy episodes of teams: returns of all agents, and 1 for a win, both [K, E].

    ``won`` is -1 where a task has no wins.
    """

    returns: FloatArray
    won: FloatArray


def main() -> None:
    """Measure what is missing, write the figures and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="little of everything, into --work")
    parser.add_argument("--work", type=Path, help="default: build/dagger, build/dagger-quick")
    parser.add_argument("--task", choices=[study.slug for study in STUDIES], help="only this one")
    parser.add_argument("--labels", choices=LABELS, help="only rounds that this expert labels")
    given = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    work = given.work or Path("build/dagger-quick" if given.quick else "build/dagger")
    place = work if given.quick else Path("docs/results/dagger")
    place.mkdir(parents=True, exist_ok=True)
    for study in STUDIES:
        if given.task in (None, study.slug):
            chosen = quick(study) if given.quick else study
            rows: list[dict[str, Any]] = []
            arms = [arm for arm in ARMS if given.labels in (None, arm.labels)]
            for row in measured(chosen, arms, work / study.slug):
                rows.append(row)
                text = json.dumps({"study": asdict(chosen), "rows": rows}, indent=2) + "\n"
                (place / f"{study.slug}.json").write_text(text, encoding="utf-8")
            print(f"{study.task}, {study.mask}\n{table(rows)}")


def quick(study: Study) -> Study:
    """Return a study of a minute that shows that everything runs; its figures mean nothing."""
    return replace(study, recorded=200, epochs=2, seeds=2, rounds=1, added=100, played=50)


def measured(study: Study, arms: Sequence[Arm], work: Path) -> Iterator[dict[str, Any]]:
    """Yield the ceiling, the first students, and the students of every round of every arm."""
    from kd_offline.distillation.distill import distill
    from kd_offline.distillation.recipe import distill_recipe
    from kd_offline.recording.record import record

    work.mkdir(parents=True, exist_ok=True)
    dataset, run = work / "dataset.zarr", work / "first"
    record(study.task, dataset, episodes=study.recorded, threads=1, resume=True)
    settings = _settings(study.epochs)
    recipe = distill_recipe(mask=study.mask, seeds=study.seeds, settings=settings)
    distill(dataset, run, recipe, resume=True)
    ceiling, first = (
        played(study.task, name, study.played, work / f"{label}.npz")
        for name, label in ((CEILING, "ceiling"), (run, "first"))
    )
    yield {"what": CEILING, **compared(ceiling, None, ceiling)}
    yield {"what": "first", "episodes": study.recorded, **compared(first, None, ceiling)}
    control = first
    # Where the next round of an arm begins: its dataset, and its students.
    begun = {arm: (dataset if arm.labels == LABELS[0] else None, run) for arm in arms}
    for number, arm in ((k + 1, arm) for k in range(study.rounds) for arm in arms):
        begun[arm] = go_on(study, work, arm, number, *begun[arm])
        kept = work / f"{arm.name}.{number}.npz"
        now = played(study.task, begun[arm][1], study.played, kept)
        row = {**arm._asdict(), "round": number, **compared(now, first, ceiling)}
        row["episodes"] = study.recorded + number * study.added
        if arm.play == "expert":
            control = now
        else:
            row["more_than_expert_episodes"] = differences(now, control)
        yield row


def go_on(
    study: Study, work: Path, arm: Arm, number: int, former: Path | None, students: Path
) -> tuple[Path, Path]:
    """Make a round, and return its dataset and its run."""
    from kd_offline.datasets import merge
    from kd_offline.distillation.distill import distill
    from kd_offline.distillation.recipe import distill_recipe
    from kd_offline.recording.record import record
    from kd_offline.seeding import derive

    folder = work / f"{arm.name}.{number}"
    folder.mkdir(exist_ok=True)
    recorded = folder / "recorded.zarr"
    settings: RecordSettings = {"expert": arm.labels, "episodes": study.added, "threads": 1}
    settings["seed"] = derive(0, "dagger", number)
    if arm.play == "students":  # as the command: those of the first seed play every agent
        settings |= {"noise_mixture": (), "partner": str(students)}
        settings |= {"partner_share": 1.0, "partner_agents": 1.0}
    record(study.task, recorded, resume=True, **settings)
    dataset = recorded
    if former is not None:
        dataset = folder / "dataset.zarr"
        merge([former, recorded], dataset, arrays="common", resume=True)
    epochs = epochs_of(study, number, alone=arm.labels != LABELS[0])
    distill(
        dataset,
        folder / "run",
        distill_recipe(start=students, settings=_settings(epochs)),
        resume=True,
    )
    return dataset, folder / "run"


def epochs_of(study: Study, number: int, *, alone: bool) -> int:
    """Return the epochs of a round: half of those of the first students, as of the command.

    Without the first dataset (``alone``) as many more that there are as many updates.
    """
    half, added = study.epochs // 2, number * study.added
    return round(half * (study.recorded + added) / added) if alone else half


def _settings(epochs: int) -> dict[str, Any]:
    """Return the settings of every distillation."""
    return {
        "optimisation.epochs": epochs,
        "threads": 1,
        "batched_seeds": True,
        "weights.policy": 0.0,
    }


def played(task: str, policy: str | Path, episodes: int, kept: Path) -> Played:
    """Return greedy episodes of an expert, or of the students of all seeds of a run; ``kept``.

    They are those of every final table (``EVALUATION_SEED``).
    """
    from kd_offline import environments
    from kd_offline.evaluation.rollout import rollout
    from kd_offline.experts.load import load
    from kd_offline.runs.folder import RUN
    from kd_offline.seeding import episode_seeds
    from kd_offline.students.policy import load as load_students

    if not kept.is_file():
        world = environments.load(task)
        seeds = episode_seeds(EVALUATION_SEED, 0, episodes, "evaluation")
        teams: list[TeamPolicy]
        if (Path(policy) / RUN).is_file():
            teams = list(load_students(policy))
        else:
            teams = [load(policy, world.spec, with_value=False)]
        found = [rollout(world, team, seeds, greedy=True) for team in teams]
        returns = np.stack([each.returns.sum(1) for each in found])
        won = np.stack([each.won.astype(float) for each in found])
        with kept.open("wb") as file:
            np.savez(file, returns=returns, won=won)
    with np.load(kept) as tables:
        return Played(tables["returns"], tables["won"])


def compared(now: Played, first: Played | None, ceiling: Played) -> dict[str, Any]:
    """Return means, changes since the first students, and the share of the gap that they are."""
    from kd_offline.evaluation.intervals import mean_interval, quotient_interval

    row = means(now)
    for name, figures in row.items() if first is not None else ():
        # Each seed goes on from its own students, so that they are paired.
        before = getattr(first, name)
        changed = getattr(now, name) - before
        closed = quotient_interval(changed, getattr(ceiling, name) - before)
        figures["change"] = _ends(mean_interval(changed))
        figures["closed"] = None if closed is None else _ends(closed)
    return row


def means(now: Played) -> dict[str, Any]:
    """Return means of all seeds with intervals, and of each."""
    from kd_offline.evaluation.intervals import mean_interval, rate_interval

    kinds = {"returns": mean_interval, "won": rate_interval}
    tables = {name: getattr(now, name) for name in _measures(now)}
    return {
        name: {"own": _ends(kinds[name](table)), "seeds": table.mean(1).tolist()}
        for name, table in tables.items()
    }


def differences(one: Played, other: Played) -> dict[str, Any]:
    """Return by how much students that began alike differ, paired by seed and episode."""
    from kd_offline.evaluation.intervals import mean_interval

    return {
        name: _ends(mean_interval(getattr(one, name) - getattr(other, name)))
        for name in _measures(one)
    }


def _measures(played: Played) -> tuple[str, ...]:
    return ("returns", "won") if (played.won >= 0).all() else ("returns",)


def _ends(interval: Interval) -> dict[str, float]:
    return interval._asdict()


def table(rows: list[dict[str, Any]]) -> str:
    """Return the figures as Markdown: of the last measure, wins where there are any."""
    measure = "won" if "won" in rows[0] else "returns"
    scale = 100 if measure == "won" else 1
    head = "battles won, %" if measure == "won" else "return"
    heads = ["labels", "played by", "round", "episodes", head, "of the gap closed, %"]
    heads += ["more than by expert episodes"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        figures, more = row[measure], row.get("more_than_expert_episodes")
        labels, play = row.get("labels", row.get("what")), row.get("play", "")
        cells = [
            f"`{labels}`" if labels in LABELS else "first students",
            {"expert": "the same expert"}.get(play, play),
            str(row.get("round", "")),
            f"{row['episodes']:,}" if "episodes" in row else "",
            shown(figures["own"], scale),
            shown(figures.get("closed"), 100),
            shown(more and more[measure], scale),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def shown(found: Mapping[str, float] | None, scale: float) -> str:
    """Return a mean and its interval, times ``scale``, as text; nothing where there is none."""
    if found is None:
        return ""
    mean, low, high = (scale * found[name] for name in ("mean", "low", "high"))
    digits = 1 if scale == 100 else 2
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


if __name__ == "__main__":
    main()
