"""Joint steps a second: the rollout alone, and the same rollout recorded with everything written.

    python -m benchmarks.recording --repeats 5

Both are measured in turns in one run. The rollout is policy, critic, environment and noise with
every step kept in memory; recording adds casts, compression, digests and files. Give a --folder on
a disk where nothing was deleted in the last minutes: ext4 is slow to make files for a while after.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from kd_offline import environments
from kd_offline.environments.protocol import BatchedEnvironment
from kd_offline.experts.load import load
from kd_offline.recording import noise
from kd_offline.recording.partner import load_partner, with_partner
from kd_offline.recording.record import record
from kd_offline.recording.setup import play_in_parallel
from kd_offline.rollout.collect import collect
from kd_offline.schemas.record_recipe import DEFAULT_NOISE, RecordRecipe
from kd_offline.seeding import episode_seeds
from kd_offline.types import SeedArray


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--environment", default="mpe/simple_spread_v3")
    parser.add_argument("--expert", default="bundled:large")
    parser.add_argument("--partner", default="bundled", help="as of kd-offline record")
    parser.add_argument("--episodes", type=int, default=16_000)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="where to write (a disk)")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rolled, recorded = [], []
    folder = Path(tempfile.mkdtemp(dir=given.folder))
    for turn in range(given.repeats + 1):
        pair = rollout_rate(given), recording_rate(given, folder / f"{turn}.zarr")
        if turn:  # the first pair warms up
            rolled.append(pair[0])
            recorded.append(pair[1])
            print(f"{pair[0]:9,.0f} rolled {pair[1]:9,.0f} recorded", file=sys.stderr)
    shutil.rmtree(folder)
    ratios = [b / a for a, b in zip(rolled, recorded, strict=True)]
    result = {
        name: {"median": statistics.median(x), "min": min(x), "max": max(x)}
        for name, x in (("rollout", rolled), ("recording", recorded), ("ratio", ratios))
    }
    if given.json:
        print(json.dumps(result))
        return
    for name, figures in result.items():
        print(f"{name:10s} " + "  ".join(f"{k} {v:,.2f}" for k, v in figures.items()))


def rollout_rate(given: argparse.Namespace) -> float:
    """Return joint steps a second of the record loop without a disk."""
    worlds = [environments.load(given.environment) for _ in range(given.threads)]
    expert = load(given.expert, worlds[0].spec)
    partner = load_partner(given.partner, worlds[0].spec, RecordRecipe().partner_share)
    starts = range(0, given.episodes, given.batch)
    parts = [episode_seeds(0, first, given.batch, "record") for first in starts]

    def play(world: BatchedEnvironment, seeds: SeedArray) -> int:
        levels = noise.episode_levels(seeds, DEFAULT_NOISE)
        behaviour = with_partner(seeds, noise.perturbed(seeds, levels), partner)
        return int(collect(world, expert, seeds, behaviour).length.sum())

    began = time.perf_counter()
    steps = sum(play_in_parallel(play, worlds, parts))
    return steps / (time.perf_counter() - began)


def recording_rate(given: argparse.Namespace, output: Path) -> float:
    """Return joint steps a second of a whole recording, from the call to the commit."""
    began = time.perf_counter()
    manifest = record(
        given.environment,
        output,
        expert=given.expert,
        partner=given.partner,
        episodes=given.episodes,
        batch=given.batch,
        threads=given.threads,
    )
    return manifest.statistics.steps / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
