"""Work that is divided: recording on workers, tasks on Ray, merging many shards.

``workers``: episodes a second of ``record --on processes:N``, with the share of N times what one
worker does; all start, load and merge within the time. ``ray``: seconds a task that does nothing
takes on a Ray cluster of this machine. ``shards``: seconds and memory of the merge of many small
shards, and of verifying what comes out. Figures are of one machine in one state: the load of the
last minute is printed beside them.

    python -m benchmarks.scaling --workers 1,2 --episodes 4000
    python -m benchmarks.scaling --workers "" --shards 64,256 --ray 200
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.libraries import require
from kd_offline.datasets import DatasetWriter, merge, verify
from kd_offline.datasets.format.shards import share
from kd_offline.execution import executor_on
from kd_offline.recording.record import record
from kd_offline.seeding import episode_seeds
from kd_offline.testing.factories import environment_spec, episode_block, full_mask, header

ENVIRONMENT = "mpe/simple_spread_v3"
SPEC = environment_spec((18, 18, 18))
EPISODES_OF_A_SHARD, LENGTH = 4, 25

Row = dict[str, float | int | str]


def workers(counts: list[int], episodes: int, folder: Path) -> Iterator[Row]:
    """Yield the rate of a recording by number of worker processes."""
    first = 0.0
    for count in counts:
        began = time.perf_counter()
        shards = 4 * max(counts)
        settings: dict[str, Any] = {"episodes": episodes, "batch": episodes // shards, "threads": 1}
        place = f"processes:{count}"
        record(ENVIRONMENT, folder / f"{count}.zarr", on=place, shards=shards, **settings)
        rate = episodes / (time.perf_counter() - began)
        first = first or rate / count
        yield {
            "workers": count,
            "episodes_per_s": round(rate, 1),
            "of_linear": round(rate / (first * count), 3),
            "load": os.getloadavg()[0],
        }


def ray_tasks(count: int) -> Row:
    """Return the seconds that a task of nothing takes, without the start of the cluster."""
    require("ray", "ray")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray

        ray.init(include_dashboard=False, log_to_driver=False)
    try:
        with executor_on("ray") as nodes:
            list(nodes.map(abs, range(8)))  # workers are started
            began = time.perf_counter()
            list(nodes.map(abs, range(count)))
            seconds = time.perf_counter() - began
    finally:
        ray.shutdown()
    return {"ray_tasks": count, "ms_a_task": round(1e3 * seconds / count, 2)}


def write_shard(path: Path, number: int, count: int) -> None:
    """Write a shard of random episodes with the seeds of its place."""
    place = share(f"{number}/{count}", count * EPISODES_OF_A_SHARD, EPISODES_OF_A_SHARD)
    block = episode_block(SPEC, [LENGTH] * EPISODES_OF_A_SHARD, seed=number % 16, hidden=16)
    block.episodes["seed"][:] = episode_seeds(0, place.first, EPISODES_OF_A_SHARD, "record")
    head = header(SPEC).model_copy(update={"lineage": (place.record(),)})
    with DatasetWriter.create(path, head) as writer:
        writer.append(block)
        writer.commit({"full": full_mask(SPEC)})


def merging(counts: list[int], folder: Path) -> Iterator[Row]:
    """Yield what it takes to merge that many shards, and to verify the result."""
    for count in counts:
        paths = [folder / f"{count}" / f"{number}.zarr" for number in range(1, count + 1)]
        for number, path in enumerate(paths, start=1):
            write_shard(path, number, count)
        began, used = time.perf_counter(), time.process_time()
        merge(paths, folder / f"merged-{count}.zarr")
        merged, processor = time.perf_counter(), time.process_time()
        report = verify(folder / f"merged-{count}.zarr")
        row: Row = {
            "shards": count,
            "merge_s": round(merged - began, 2),
            "merge_processor_s": round(processor - used, 2),
            "verify_processor_s": round(time.process_time() - processor, 2),
            "largest_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
            "load": os.getloadavg()[0],
        }
        yield row | {"ok": str(report.ok)}


def main() -> None:
    """Print one line of JSON for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--workers", default="1,2", help="numbers of processes, with commas")
    parser.add_argument("--episodes", type=int, default=4000, help="to record")
    parser.add_argument("--shards", default="", help="numbers of shards to merge, with commas")
    parser.add_argument("--ray", type=int, default=0, help="tasks to send to Ray")
    options = parser.parse_args()
    counts, shards = (
        [int(part) for part in text.split(",") if part]
        for text in (options.workers, options.shards)
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for row in workers(counts, options.episodes, folder) if counts else ():
            print(json.dumps(row), flush=True)
        for row in merging(shards, folder):
            print(json.dumps(row), flush=True)
    if options.ray:
        print(json.dumps(ray_tasks(options.ray)), flush=True)


if __name__ == "__main__":
    main()
