"""Work that is divided: recordings and sweeps on workers, tasks on Ray, merging many shards.

``workers``: episodes a second of ``record --on`` and trials a second of ``sweep --on``, in
processes and on a Ray cluster of this machine, with the share of N times what one worker does; all
start, load and put together within the time. ``ray``: seconds a task that does nothing takes on a
Ray cluster of this machine. ``shards``: seconds and memory of the merge of many small shards, and
of verifying what comes out. Figures are of one machine in one state: the load of the last minute is
printed beside them.

    python -m benchmarks.scaling --workers 1,2 --episodes 4000 --trials 8
    python -m benchmarks.scaling --workers 1,2 --places processes --trials 0
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def place_of(kind: str, count: int) -> Iterator[str]:
    """Yield the place of ``count`` workers; a Ray cluster with so many cores is there meanwhile."""
    if kind != "ray":
        yield f"{kind}:{count}"
        return
    require("ray", "ray")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray

        ray.init(num_cpus=count, include_dashboard=False, log_to_driver=False)
    try:
        yield "ray"
    finally:
        ray.shutdown()


def workers(what: str, kind: str, counts: list[int], work: Callable[[str], float]) -> Iterator[Row]:
    """Yield the rate of a piece of work by number of workers.

    ``work`` is done at a place, and returns how much was done.
    """
    first = 0.0
    for count in counts:
        with place_of(kind, count) as place:
            began = time.perf_counter()
            rate = work(place) / (time.perf_counter() - began)
        first = first or rate / count
        yield {
            "what": what,
            "place": kind,
            "workers": count,
            "a_second": round(rate, 3),
            "of_linear": round(rate / (first * count), 3),
            "load": os.getloadavg()[0],
        }


def recording(folder: Path, episodes: int, shards: int) -> Callable[[str], float]:
    """Return what records at a place, in ``shards`` shares."""

    def work(place: str) -> float:
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            settings: dict[str, Any] = {"episodes": episodes, "batch": episodes // shards}
            path = Path(temporary) / "d.zarr"
            record(ENVIRONMENT, path, on=place, shards=shards, threads=1, **settings)
        return episodes

    return work


def sweeping(folder: Path, trials: int) -> Callable[[str], float]:
    """Return what runs trials of a sweep at a place; all are students of one size."""
    require("sweep", "optuna")
    from kd_offline.distillation.recipe import distill_recipe
    from kd_offline.sweeps.sweep import sweep

    dataset = folder / "dataset.zarr"
    record(ENVIRONMENT, dataset, episodes=400, threads=1)
    recipe = distill_recipe(method="kl", settings={"optimisation.epochs": 20, "threads": 1})

    def work(place: str) -> float:
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            # Every width is another choice, so that no trial repeats the point of another.
            sweep(
                *(dataset, Path(temporary) / "sweep"),
                trials=trials,
                on=place,
                recipe=recipe,
                architectures=("gru",),
                widths=range(32, 32 + trials),
                precisions=("fp32",),
                judge="agreement",
            )
        return trials

    return work


def ray_tasks(count: int) -> Row:
    """Return the seconds that a task of nothing takes, without the start of the cluster."""
    with place_of("ray", os.cpu_count() or 1) as place, executor_on(place) as nodes:
        list(nodes.map(abs, range(8)))  # workers are started
        began, used = time.perf_counter(), time.process_time()
        list(nodes.map(abs, range(count)))
        seconds, processor = time.perf_counter() - began, time.process_time() - used
    return {
        "ray_tasks": count,
        "ms_a_task": round(1e3 * seconds / count, 2),
        "processor_ms_a_task_here": round(1e3 * processor / count, 2),
        "load": os.getloadavg()[0],
    }


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
    parser.add_argument("--workers", default="1,2", help="numbers of workers, with commas")
    parser.add_argument("--places", default="processes,ray", help="of workers, with commas")
    parser.add_argument("--episodes", type=int, default=4000, help="to record; 0: none")
    parser.add_argument("--trials", type=int, default=8, help="of a sweep; 0: none")
    parser.add_argument("--shards", default="", help="numbers of shards to merge, with commas")
    parser.add_argument("--ray", type=int, default=0, help="tasks to send to Ray")
    options = parser.parse_args()
    counts, shards = (
        [int(part) for part in text.split(",") if part]
        for text in (options.workers, options.shards)
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        works: dict[str, Callable[[str], float]] = {}
        if counts and options.episodes:
            works["episodes"] = recording(folder, options.episodes, 4 * max(counts))
        if counts and options.trials:
            works["trials"] = sweeping(folder, options.trials)
        for what, work in works.items():
            for kind in options.places.split(","):
                for row in workers(what, kind, counts, work):
                    print(json.dumps(row), flush=True)
        for row in merging(shards, folder):
            print(json.dumps(row), flush=True)
    if options.ray:
        print(json.dumps(ray_tasks(options.ray)), flush=True)


if __name__ == "__main__":
    main()
