"""Rates of ``verify``, quick and in full, beside the rate of SHA-256 itself.

In each round follow each other: two threads hash as many bytes as the dataset stores, from memory
that stays in the cache; two threads do nothing but read and hash the dataset's files; ``verify
--quick``; and ``verify`` in full. Printed are medians over the rounds and the extremes; ``cpu``
rates are by processor time of the process, which other programs on the machine disturb less than
the clock. ``quick_of_sha256`` and ``quick_of_sha256_files`` compare ``verify --quick`` with the
first two: 1 would be a program that does nothing but hash.

    python benchmarks/verifying.py --json
    python benchmarks/verifying.py --dataset dataset.zarr --rounds 7
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from kd_offline.datasets import DatasetWriter, ExpertBuffer, verify
from kd_offline.testing.factories import environment_spec, episode_block, full_mask, header

SPEC = environment_spec((18, 18, 18))
EPISODES_PER_BLOCK, LENGTH = 500, 25
BYTES_PER_STEP = 1100
THREADS = 2
PIECE = 1 << 20


def make(path: Path, megabytes: int) -> None:
    """Write a dataset of about that many decoded megabytes: three agents, embeddings of 128."""
    blocks = [
        episode_block(SPEC, [LENGTH] * EPISODES_PER_BLOCK, seed=i, hidden=128) for i in range(3)
    ]
    count = math.ceil(megabytes * 1e6 / (BYTES_PER_STEP * EPISODES_PER_BLOCK * LENGTH))
    with DatasetWriter.create(path, header(SPEC)) as writer:
        for index in range(count):
            block = blocks[index % len(blocks)]
            seeds = np.arange(EPISODES_PER_BLOCK) + index * EPISODES_PER_BLOCK
            block.episodes["seed"][:] = seeds.astype(np.uint64)
            writer.append(block)
        writer.commit({"full": full_mask(SPEC)})


def hash_in_memory(total: int) -> None:
    """Hash ``total`` bytes in two threads, from memory that stays in the cache."""
    piece = bytes(PIECE)

    def work(count: int) -> None:
        values = hashlib.sha256()
        for _ in range(count):
            values.update(piece)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, [total // PIECE // THREADS] * THREADS))


def hash_files(path: Path, names: list[str]) -> None:
    """Read and hash files in two threads, and nothing else."""

    def work(first: int) -> None:
        for name in names[first::THREADS]:
            with (path / name).open("rb", buffering=0) as file:
                hashlib.file_digest(file, "sha256")

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))


def rates(action: Callable[[], object], size: int) -> tuple[float, float]:
    """Return bytes a second by the clock and by processor time, in MB."""
    began, used = time.perf_counter(), time.process_time()
    action()
    return (
        size / (time.perf_counter() - began) / 1e6,
        size / (time.process_time() - used) / 1e6,
    )


def measure(path: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Return median, lowest and highest rate of everything."""
    manifest = ExpertBuffer.open(path).manifest
    stored, names = manifest.size_bytes, [file.path for file in manifest.files]
    decoded = sum(
        math.prod(array.shape) * np.dtype(array.dtype).itemsize
        for array in manifest.arrays.values()
    )
    found: dict[str, list[float]] = {}

    def note(name: str, figures: tuple[float, float]) -> tuple[float, float]:
        found.setdefault(f"{name}_mb_per_s", []).append(figures[0])
        found.setdefault(f"{name}_mb_per_cpu_s", []).append(figures[1])
        return figures

    for _ in range(rounds):
        plain = note("sha256", rates(lambda: hash_in_memory(stored), stored))
        files = note("sha256_files", rates(lambda: hash_files(path, names), stored))
        quick = note("quick", rates(lambda: _whole(path, quick=True), stored))
        note("full_decoded", rates(lambda: _whole(path, quick=False), decoded))
        found.setdefault("quick_of_sha256", []).append(quick[0] / plain[0])
        found.setdefault("quick_of_sha256_cpu", []).append(quick[1] / plain[1])
        found.setdefault("quick_of_sha256_files", []).append(quick[0] / files[0])
        found.setdefault("quick_of_sha256_files_cpu", []).append(quick[1] / files[1])
    table = {
        name: {"median": statistics.median(values), "low": min(values), "high": max(values)}
        for name, values in found.items()
    }
    sizes = {"stored_mb": stored / 1e6, "decoded_mb": decoded / 1e6}
    return {name: {"median": size} for name, size in sizes.items()} | table


def _whole(path: Path, *, quick: bool) -> None:
    report = verify(path, quick=quick)
    assert report.ok, report.problems[:3]


def main() -> None:
    """Print the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", type=Path, help="dataset to verify (default: a new one)")
    parser.add_argument("--megabytes", type=int, default=400, help="of the new one, decoded")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp())
    try:
        path = options.dataset or root / "d.zarr"
        if options.dataset is None:
            make(path, options.megabytes)
        table = measure(path, options.rounds)
    finally:
        shutil.rmtree(root)
    if options.json:
        print(json.dumps(table))
        return
    for name, figures in table.items():
        print(f"{name:26}" + "  ".join(f"{k} {v:10,.2f}" for k, v in figures.items()))


if __name__ == "__main__":
    main()
