"""Batches of sequences (32 x 20, all distillation fields) a second, against other libraries.

The same random transitions (three agents, observations of 18, five actions, float16 embeddings of
128: 1.1 kB a step, episodes of 25 steps) are stored by every contender in its own format, then read

*in memory*: everything was read once, one process for each contender; they take turns,
``--seconds`` each, ``--rounds`` times; rates are by the clock and by the processor time of all
threads, which a busy machine disturbs less;

*cold*: a fresh process with the page cache dropped opens the data and makes 400 batches, or as many
as it can in 8 seconds; the time to the first one, and the rate over all of them, opening included,
imports not.

Contenders are used as their documentation shows, by what is their fastest documented way for
sequences. Minari reads whole episodes, from which sequences are cut; Flashbax does not respect the
ends of episodes and reads a Vault whole; TorchRL samples slices of trajectories from its
memory-mapped storage, and from tensors in memory; h5py holds one chunked, uncompressed dataset a
field, in memory by its core driver. Indexing NumPy arrays by hand is there for reference.

    python -m benchmarks.reading --json result.json
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders import COLD, FIELDS, MEMORY, WRITERS, kd_write
from benchmarks.libraries import require
from kd_offline.datasets import ExpertBuffer

COLD_BATCHES = 400
COLD_SECONDS = 8.0


def _place(root: Path, name: str) -> Path:
    return root / {"NumPy,": "h5py"}.get(word := name.split()[0], word)


def prepare(root: Path, episodes: int) -> dict[str, Any]:
    """Store the same transitions in every format; returns sizes on disk, or why there is none."""
    kd_write(root / "kd-offline", {"episodes": np.array(episodes)})
    buffer = ExpertBuffer.open(root / "kd-offline")
    data = {name: buffer.read(f"steps/{name}") for name in FIELDS}
    sizes: dict[str, Any] = {}
    for name, write in WRITERS.items():
        path = root / name
        if name != "kd-offline":
            path.mkdir() if name != "h5py" else None
            (path / "rows.json").write_text(str(len(data["reward"]))) if path.is_dir() else None
            write(path, data)
            shutil.rmtree(path / "scratch", ignore_errors=True)
        files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
        sizes[name] = sum(f.stat().st_size for f in files) / 1e6
    return sizes


def in_memory(root: Path, rounds: int, seconds: float) -> dict[str, list[list[float]]]:
    """Return batches a second of every round, by the clock and of processor time.

    Libraries in one process would disturb each other.
    """
    workers = {name: _worker(name, root, seconds) for name in MEMORY}
    rates: dict[str, list[list[float]]] = {name: [] for name in workers}
    for worker in workers.values():
        _answer(worker)
    for _ in range(rounds):
        for name, worker in workers.items():
            assert worker.stdin is not None
            worker.stdin.write("again\n")
            worker.stdin.flush()
            rates[name].append(_answer(worker))
    for worker in workers.values():
        worker.communicate()
    return rates


def _worker(name: str, root: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.reading"]
    command += ["--memory", name, "--root", str(root), "--seconds", str(seconds)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _answer(worker: subprocess.Popen[str]) -> list[float]:
    assert worker.stdout is not None
    for line in worker.stdout:
        if line.startswith("rate "):
            return [float(word) for word in line.split()[1:]]
    msg = "a contender died; run it alone to see why"
    raise RuntimeError(msg)


def serve(name: str, root: Path, seconds: float) -> None:
    """Measure the rate once for every line that comes."""
    draw = MEMORY[name](_place(root, name))
    for _ in range(20):
        draw()
    print("rate 0", flush=True)
    for _ in sys.stdin:
        began, used, count = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() < began + seconds:
            draw()
            count += 1
        wall, cpu = time.perf_counter() - began, time.process_time() - used
        print("rate", count / wall, count / cpu, flush=True)


def cold_once(name: str, root: Path) -> dict[str, float]:
    """Open and read in this process; imports are made before the clock starts."""
    _import(name)
    began = time.perf_counter()
    draw = COLD[name](_place(root, name))
    draw()
    first = time.perf_counter() - began
    count, total = 1, first
    while count < COLD_BATCHES and total < COLD_SECONDS:
        draw()
        count, total = count + 1, time.perf_counter() - began
    return {"first_batch_s": first, "batches_per_s": count / total}


def _import(name: str) -> None:
    if name == "Minari":
        import minari  # noqa: F401
    if name == "Flashbax":
        import flashbax.vault  # noqa: F401
        import jax

        jax.block_until_ready(jax.numpy.zeros(1))
    if name == "TorchRL memmap":
        import torchrl.data  # noqa: F401
    if name == "h5py":
        import h5py  # noqa: F401


def drop_cache(root: Path) -> str:
    """Drop the page cache for the data, and say how."""
    os.sync()
    for file in root.rglob("*"):
        if file.is_file():
            handle = os.open(file, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)
    try:
        Path("/proc/sys/vm/drop_caches").write_text("1")
    except OSError:
        return "posix_fadvise"
    return "drop_caches"


def cold(root: Path, rounds: int) -> tuple[dict[str, list[dict[str, float]]], str]:
    """Return the figures of fresh processes, contenders taking turns."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in COLD}
    how = ""
    for _ in range(rounds):
        for name in COLD:
            how = drop_cache(root)
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.reading"]
            command += ["--cold", name, "--root", str(root)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    return found, how


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):,.3g} ({min(values):,.3g} to {max(values):,.3g})"


def _median(rounds: list[list[float]], i: int) -> float:
    return statistics.median(values[i] for values in rounds)


def report(result: dict[str, Any]) -> None:
    """Print two Markdown tables: medians, spread, and the ratio of medians to the best library."""
    rates = result["in_memory"]
    others = [name for name in rates if not name.startswith(("kd-offline", "NumPy"))]
    best = [max(_median(rates[name], i) for name in others) for i in range(2)]
    print("| in memory | batches/s | of the best library | a processor second | of the best |")
    print("|---|---|---|---|---|")
    for name, rounds in rates.items():
        cells = []
        for i in range(2):
            cells += [_spread([r[i] for r in rounds]), f"{_median(rounds, i) / best[i]:.2f}"]
        print(f"| {name} | {' | '.join(cells)} |")
    print("\n| cold open | first batch, s | batches/s | MB on disk |\n|---|---|---|---|")
    for name, runs in result["cold"].items():
        first = _spread([run["first_batch_s"] for run in runs])
        rate = _spread([run["batches_per_s"] for run in runs])
        print(f"| {name} | {first} | {rate} | {result['size_mb'][name.split()[0]]:,.0f} |")


def main() -> None:
    """Measure everything, or one cold contender."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=8000, help="of 25 steps")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cold-rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--json", type=Path, help="where to write all figures")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    parser.add_argument("--cold", help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    require("convert,peers,bench", "h5py", "minari", "flashbax", "torchrl")
    if options.cold:
        print(json.dumps(cold_once(options.cold, options.root)))
        return
    if options.memory:
        serve(options.memory, options.root, options.seconds)
        return
    root = Path(tempfile.mkdtemp())
    try:
        sizes = prepare(root, options.episodes)
        runs, how = cold(root, options.cold_rounds)
        result = {
            "episodes": options.episodes,
            "cache": how,
            "size_mb": sizes,
            "cold": runs,
            "in_memory": in_memory(root, options.rounds, options.seconds),
        }
    finally:
        shutil.rmtree(root)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    report(result)


if __name__ == "__main__":
    main()
