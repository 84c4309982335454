"""Work that is divided: recordings and sweeps on workers, tasks on Ray, merging many shards.

``workers``: one piece of work by the plain command (0 workers), and with 1, 2, ... workers in
processes or on a Ray cluster of this machine. Every measurement is a new process, which loads what
it needs before the clock starts; workers start within the time. A command with N workers gets N
processors (``--cores free``: all), so that one worker, whose command writes meanwhile, is not given
two. Each row has the episodes or trials a second, the processors used, the seconds until the first
episode or trial was there, and the rate from then on. ``side_by_side`` rows are N plain commands at
the same time, each with its part of the work and a processor of its own: what the machine gives
where nothing is coordinated. Last come, over the rounds, medians and ranges of the shares of
linear: N workers against N times one worker, N times the plain command, and N plain commands side
by side. ``ray``: seconds a task that does nothing takes on a Ray cluster of this machine.
``shards``: seconds and memory of the merge of many small shards, and of verifying what comes out.
Figures are of one machine in one state: the load of the last minute is printed beside them.

    python -m benchmarks.scaling --workers 0,1,2 --places processes --rounds 3
    python -m benchmarks.scaling --workers 1,2 --places ray --trials 0
    python -m benchmarks.scaling --workers "" --shards 64,256 --ray 200
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain
from multiprocessing.forkserver import _forkserver
from pathlib import Path
from typing import Any

from benchmarks.libraries import require
from kd_offline.datasets import DatasetWriter, merge, verify
from kd_offline.datasets.format.shards import share
from kd_offline.execution import executor_on
from kd_offline.recording.record import record
from kd_offline.seeding import episode_seeds
from kd_offline.testing.factories import environment_spec, episode_block, full_mask, header
from kd_offline.tracking.base import FunctionObserver, Observer

ENVIRONMENT = "mpe/simple_spread_v3"
SPEC = environment_spec((18, 18, 18))
BATCH = 500
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


def measured(what: str, kind: str, count: int, amount: int, folder: Path) -> Row:
    """Do a piece of work with ``count`` workers, and return how long it took; 0: without."""
    work = {"episodes": recording, "trials": sweeping}[what]
    times: list[tuple[float, int]] = []
    observer = FunctionObserver(progress=lambda n, *_: times.append((time.perf_counter(), n)))
    with place_of(kind, count) if count else nullcontext() as place:
        before, began = _processor_seconds(), time.perf_counter()
        work(folder, amount, place, observer)
        seconds = time.perf_counter() - began
    _forkserver._stop()  # type: ignore[attr-defined] # so that its children are counted
    # One is played ahead, but for the last: what is there before it came as evenly as the first.
    (first, done), *_, (last, most), _ = [(t, n) for t, n in times if n]
    return {
        "what": what,
        "place": kind if count else "here",
        "workers": count,
        "a_second": round(amount / seconds, 3),
        "processors": round((_processor_seconds() - before) / seconds, 2),
        "first_s": round(first - began, 2),
        "a_second_then": round((most - done) / (last - first), 3),
        "load": os.getloadavg()[0],
    }


def _processor_seconds() -> float:
    """Return the processor time of this process, and of workers that have ended."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(used.ru_utime + used.ru_stime for used in both)


def recording(folder: Path, episodes: int, place: str | None, observer: Observer) -> None:
    """Record at a place; None: by the plain command."""
    settings: dict[str, Any] = {"episodes": episodes, "batch": BATCH, "threads": 1}
    path = folder / "recorded.zarr"
    record(ENVIRONMENT, path, on=place, observers=[observer], **settings)


def sweeping(folder: Path, trials: int, place: str | None, observer: Observer) -> None:
    """Run the trials of a sweep at a place; all are students of nearly one size."""
    from kd_offline.distillation.recipe import distill_recipe
    from kd_offline.sweeps.sweep import sweep

    recipe = distill_recipe(method="kl", settings={"optimisation.epochs": 20, "threads": 1})
    # Every width is another choice, so that no trial repeats the point of another.
    sweep(
        *(folder.parent / "dataset.zarr", folder / "sweep"),
        trials=trials,
        on=place,
        recipe=recipe,
        architectures=("gru",),
        widths=range(32, 32 + trials),
        precisions=("fp32",),
        judge="agreement",
        observers=[observer],
    )


def in_new_process(row: Row, cores: int, folder: Path) -> Row:
    """Return :func:`measured` of a new process that runs on so many processors; 0: on all."""
    every = sorted(os.sched_getaffinity(0))
    chosen = every[:cores] or every
    with tempfile.TemporaryDirectory(dir=folder) as own:
        measured = _answer(_started(row, chosen, Path(own)))
    return measured | {"cores": len(chosen)}


def side_by_side(row: Row, folder: Path) -> Row:
    """Return the sums of :func:`measured` of plain commands that share the amount."""
    count = int(row["count"])
    part = row | {"count": 0, "amount": int(row["amount"]) // count}
    every = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(dir=folder) as own:
        places = [Path(own) / str(number) for number in range(count)]
        for place in places:
            place.mkdir()
        if row["what"] == "trials":
            (Path(own) / "dataset.zarr").symlink_to(folder / "dataset.zarr")
        started = [
            _started(part, [every[number % len(every)]], place)
            for number, place in enumerate(places)
        ]
        rows = [_answer(process) for process in started]
    sums: Row = {
        name: round(sum(float(one[name]) for one in rows), 3)
        for name in ("a_second", "a_second_then", "processors")
    }
    first = max(float(one["first_s"]) for one in rows)
    same: Row = {"place": "side_by_side", "workers": count, "first_s": first, "cores": count}
    return rows[-1] | sums | same


def _started(row: Row, processors: list[int], folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.scaling", "--one", json.dumps(row), str(folder)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, processors),
    )


def _answer(process: subprocess.Popen[str]) -> Row:
    printed, _ = process.communicate()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    answer: Row = json.loads(printed.splitlines()[-1])
    return answer


def shares_of_linear(rows: list[Row]) -> Iterator[Row]:
    """Yield, for each number of workers at each place, its shares of the rates that are linear."""
    rounds: dict[tuple[Any, ...], dict[tuple[Any, ...], Row]] = {}
    for row in rows:
        turn = rounds.setdefault((row["what"], row["cores_wanted"], row["round"]), {})
        turn[row["place"], row["workers"]] = row
    for what, cores in dict.fromkeys(key[:2] for key in rounds):
        chosen = [turn for key, turn in rounds.items() if key[:2] == (what, cores)]
        divided = {key for turn in chosen for key in turn if key[1] > 1}
        for place, count in sorted(divided):
            for base, times, name in (
                ((place, 1), count, "one worker"),
                (("here", 0), count, "the plain command"),
                (("side_by_side", count), 1, "plain commands side by side"),
            ):
                for rate in ("a_second", "a_second_then") if base != (place, count) else ():
                    shares = sorted(
                        float(turn[place, count][rate]) / float(turn[base][rate]) / times
                        for turn in chosen
                        if base in turn and (place, count) in turn
                    )
                    if shares:
                        yield {
                            "what": what,
                            "place": place,
                            "cores": cores,
                            "workers": count,
                            "rate": rate,
                            "of_linear_by": name,
                            "median": round(statistics.median(shares), 3),
                            "least": round(shares[0], 3),
                            "most": round(shares[-1], 3),
                        }


def measurements(counts: list[int], places: list[str]) -> Iterator[tuple[str, int]]:
    """Yield what a round measures: places with numbers of workers; 0: the plain command."""
    processors = len(os.sched_getaffinity(0))
    for count in counts:
        if count == 0:
            yield "here", 0
            continue
        yield from ((place, count) for place in places)
        if 1 < count <= processors:
            yield "side_by_side", count


def scaling(options: argparse.Namespace, counts: list[int], folder: Path) -> Iterator[Row]:
    """Yield the measurements of all rounds, and then the shares of linear."""
    if options.trials:
        require("sweep", "optuna")
        record(ENVIRONMENT, folder / "dataset.zarr", episodes=400, threads=1)
    rows: list[Row] = []
    for turn in range(options.rounds):
        for what, amount in (("episodes", options.episodes), ("trials", options.trials)):
            for kind, count in measurements(counts, options.places.split(",")) if amount else ():
                wanted: Row = {"what": what, "kind": kind, "count": count, "amount": amount}
                cores = 0 if options.cores == "free" else max(1, count)
                if kind == "side_by_side":
                    row = side_by_side(wanted, folder)
                else:
                    row = in_new_process(wanted, cores, folder)
                rows.append(row | {"round": turn, "cores_wanted": options.cores})
                yield row
    yield from shares_of_linear(rows)


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
    parser.add_argument("--workers", default="0,1,2", help="numbers of workers, with commas")
    parser.add_argument("--places", default="processes", help="of workers, with commas")
    parser.add_argument("--cores", choices=("each", "free"), default="each", help="for the command")
    parser.add_argument("--rounds", type=int, default=3, help="of all measurements of workers")
    parser.add_argument("--episodes", type=int, default=16000, help="to record; 0: none")
    parser.add_argument(
        "--trials", type=int, default=8, help="of a sweep, 4 a worker or more; 0: none"
    )
    parser.add_argument("--shards", default="", help="numbers of shards to merge, with commas")
    parser.add_argument("--ray", type=int, default=0, help="tasks to send to Ray")
    parser.add_argument("--one", nargs=2, metavar=("ROW", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(**json.loads(options.one[0]), folder=Path(options.one[1]))))
        return
    counts, shards = (
        [int(part) for part in text.split(",") if part]
        for text in (options.workers, options.shards)
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for row in chain(scaling(options, counts, folder), merging(shards, folder)):
            print(json.dumps(row), flush=True)
    if options.ray:
        print(json.dumps(ray_tasks(options.ray)), flush=True)


if __name__ == "__main__":
    main()
