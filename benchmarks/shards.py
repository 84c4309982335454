"""Many small shards: listing, opening, reading, verifying and merging them, by their number.

Every number of shards is measured in a process of its own, so that memory is that of one. Shards
hold four random episodes of 25 steps. Figures are of one machine in one state: the load of the
last minute is printed beside them, and processor time is what counts where it was busy.

    python -m benchmarks.shards --shards 16,256,1024,4096
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.scaling import write_shard
from kd_offline.datasets import ExpertBuffer, merge, verify, virtual_merge

Row = dict[str, float | int | str]


def measure(count: int, folder: Path) -> Row:
    """Return seconds of processor time and memory of every operation on ``count`` shards."""
    paths = [folder / "shards" / f"{number}.zarr" for number in range(1, count + 1)]
    for number, path in enumerate(paths, start=1):
        write_shard(path, number, count)
    whole, row = folder / "whole.zarr", Row(shards=count)

    def timed(name: str, action: Callable[[], Any]) -> Any:
        began, used = time.perf_counter(), time.process_time()
        result = action()
        row[f"{name}_s"] = round(time.perf_counter() - began, 3)
        row[f"{name}_processor_s"] = round(time.process_time() - used, 3)
        print(f"{count} shards: {name} {row[f'{name}_processor_s']} s", file=sys.stderr, flush=True)
        return result

    timed("list", lambda: virtual_merge(paths, whole))
    row["manifest_bytes"] = (whole / "manifest.json").stat().st_size
    row |= json.loads(opened := _child("--opening", str(whole)))
    print(opened, end="", file=sys.stderr, flush=True)
    quick = timed("verify_quick", lambda: verify(whole, quick=True))
    complete = timed("verify", lambda: verify(whole))
    timed("merge", lambda: merge(paths, folder / "merged.zarr"))
    same = ExpertBuffer.open(folder / "merged.zarr").id == ExpertBuffer.open(whole).id
    row["ok"] = str(quick.ok and complete.ok and same)
    row["largest_memory_mb"] = _largest_memory()
    return row | {"load": round(os.getloadavg()[0], 1)}


def opening(whole: Path) -> Row:
    """Return what opening the whole takes in a fresh process, and then reading all of it."""
    before, began, used = _memory(), time.perf_counter(), time.process_time()
    buffer = ExpertBuffer.open(whole)
    buffer.episodes("length")
    row: Row = {
        "open_s": round(time.perf_counter() - began, 3),
        "open_processor_s": round(time.process_time() - used, 3),
        "open_memory_mb": round(_memory() - before, 1),
    }
    before, used = _memory(), time.process_time()
    names = [name for name in buffer.names if name.startswith("steps/")]
    arrays = buffer.load(names)
    held = sum(values.nbytes for values in arrays.values()) / 2**20
    return row | {
        "read_processor_s": round(time.process_time() - used, 3),
        "read_memory_mb": round(_memory() - before - held, 1),
    }


def _memory() -> float:
    """Return the resident memory of this process, in MiB; Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def _largest_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def _child(*arguments: str) -> str:
    command = [sys.executable, "-m", "benchmarks.shards", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    """Print one line of JSON for each number of shards."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--shards", default="16,256,1024,4096", help="numbers, with commas")
    parser.add_argument("--opening", type=Path, help="measure this dataset alone")
    parser.add_argument("--one", type=int, help="measure this number in this process")
    options = parser.parse_args()
    if options.opening is not None:
        print(json.dumps(opening(options.opening)))
    elif options.one is not None:
        with tempfile.TemporaryDirectory() as temporary:
            print(json.dumps(measure(options.one, Path(temporary))))
    else:
        for count in options.shards.split(","):
            print(_child("--one", count), end="", flush=True)


if __name__ == "__main__":
    main()
