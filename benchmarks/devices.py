"""What seeds cost on a device, one after the other and at once.

    python -m benchmarks.devices                                  # one CPU core, 1 and 5 seeds
    python -m benchmarks.devices --device cuda --seeds 1,5,64     # a few minutes of a GPU

Prepares the default recipe on a small recording of simple_spread and on random episodes of the size
of SMAC's 3s5z (8 agents, 136 features, 14 actions, 60 steps), and takes steps of the training loop:
of each seed alone, and of all at once. Both ways take turns. Processor milliseconds of a step on a
CPU, else those of the clock, for all seeds together: medians, and the share of the two ways.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from kd_offline.datasets import ExpertBuffer
from kd_offline.distillation.recipe import distill_recipe
from kd_offline.distillation.run import Run, prepare
from kd_offline.distillation.train import Training, train_team
from kd_offline.recording.record import record
from kd_offline.testing.factories import environment_spec, tiny_dataset

SETTINGS = {"optimisation.epochs": 1000, "threads": 1}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda", "mps", "auto"])
    parser.add_argument("--seeds", default="1,5")
    parser.add_argument("--cases", default="spread,3s5z")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for case in given.cases.split(","):
            buffer = CASES[case](Path(folder))
            for count in map(int, given.seeds.split(",")):
                place = Path(folder) / f"{case}-{count}"
                apart, together = measured(buffer, place, count, given.device, given.repeats)
                print(
                    f"{case:8} {count:3} seeds: {apart:9.1f} ms apart, {together:9.1f} ms at once, "
                    f"{together / apart:.2f}",
                    flush=True,
                )


def spread(folder: Path) -> ExpertBuffer:
    """Record episodes of the bundled expert."""
    record("mpe/simple_spread_v3", folder / "spread.zarr", episodes=800, threads=1)
    return ExpertBuffer.open(folder / "spread.zarr")


def marines(folder: Path) -> ExpertBuffer:
    """Write random episodes of the size of 3s5z."""
    spec = environment_spec((136,) * 8, (14,) * 8, episode_limit=60)
    return tiny_dataset(folder / "3s5z.zarr", 300, [60 - k % 20 for k in range(300)], spec=spec)


CASES: dict[str, Callable[[Path], ExpertBuffer]] = {"spread": spread, "3s5z": marines}


def measured(
    buffer: ExpertBuffer, folder: Path, count: int, device: str, repeats: int
) -> tuple[float, float]:
    """Return the milliseconds of a step of all seeds, one after the other and at once."""
    # The critic of random episodes foretells nothing, so the policy gradient would be refused.
    more = {} if buffer.spec.id.startswith("mpe/") else {"weights.policy": 0.0}
    settings = SETTINGS | {"accelerator": device, "batched_seeds": True} | more
    recipe = distill_recipe(seeds=count, settings=settings)
    run = prepare(buffer, folder, recipe, "", "", False, False)
    steps = len(run.train) // min(recipe.optimisation.batch_episodes, len(run.train))
    alone, all_seeds = epochs(run, recipe.seeds[:1]), epochs(run, recipe.seeds)
    apart, together = [], []
    for turn in range(repeats + 1):
        first, second = timed(alone, run.device), timed(all_seeds, run.device)
        if turn:  # the first round warms up
            apart.append(1e3 * first * count / steps)
            together.append(1e3 * second / steps)
    return statistics.median(apart), statistics.median(together)


def epochs(run: Run, seeds: tuple[int, ...]) -> Iterator[object]:
    """Return a training whose every item is an epoch, alone of one seed and at once of several."""
    teams = [run.design.team(seed) for seed in seeds]
    pairs = zip(seeds, teams, strict=True)
    heads = [run.design.heads(seed, team, run.terms).to(run.device) for seed, team in pairs]
    teams = [team.to(run.device) for team in teams]
    if len(seeds) > 1:
        state = Training.begin_together(teams, heads, run.terms)
    else:
        state = Training.begin(teams[0], heads[0], run.recipe.optimisation)
    return train_team(state, run.train, None, run.terms, *seeds)


def timed(steps: Iterator[object], device: torch.device) -> float:
    """Return the seconds of the next epoch."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    began = clock()
    next(steps)  # the means of the epoch's losses are read, so a GPU is waited for
    return clock() - began


if __name__ == "__main__":
    main()
