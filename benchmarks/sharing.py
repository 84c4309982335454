"""Rates of pulling a dataset from a web server, against what merely moves the bytes.

nginx serves a dataset of ready-made episodes on the loopback interface. In turns, each to a fresh
target: ``copy`` reads and writes every file one after the other, ``curl`` fetches all of them with
16 connections and checks nothing, ``pull`` fetches, checks every sha256 and commits, ``push``
checks the source, copies it to another folder and commits. With ``--cold`` the pages of the served
files are dropped before each (as far as the system allows), so that the disk is read as well. Rates
are of stored bytes; ``cpu_s`` is the processor time of this process for a gigabyte.

    python benchmarks/sharing.py --json
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from kd_offline.datasets import DatasetWriter, ExpertBuffer
from kd_offline.datasets.sharing.share import pull, push
from kd_offline.testing.factories import environment_spec, episode_block, full_mask, header
from tests import servers

SPEC = environment_spec((18, 18, 18))
EPISODES_PER_BLOCK, LENGTH = 500, 25


def write(path: Path, blocks: int) -> ExpertBuffer:
    """Record ``blocks`` times the same episodes, some 13 MB each."""
    block = episode_block(SPEC, [LENGTH] * EPISODES_PER_BLOCK, hidden=128)
    with DatasetWriter.create(path, header(SPEC)) as writer:
        for _ in range(blocks):
            writer.append(block)
        writer.commit({"full": full_mask(SPEC)})
    return ExpertBuffer.open(path)


def measure(base: Path, blocks: int, repeats: int, cold: bool) -> dict[str, float]:
    """Return the median rates in MB/s and their ratios."""
    with servers.nginx(base) as server:
        buffer = write(server.www / "d.zarr", blocks)
        url, source = f"{server.url}/d.zarr", server.www / "d.zarr"
        paths = [file.path for file in buffer.manifest.files] + ["manifest.json"]
        size = sum((source / path).stat().st_size for path in paths)
        ways: dict[str, Callable[[Path], object]] = {
            "copy": lambda target: shutil.copytree(source, target),
            "curl": lambda target: _curl(url, paths, target),
            "pull": lambda target: pull(url, target),
            "push": lambda target: push(source, target),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        used: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(repeats):
            for way, action in ways.items():
                if cold:
                    _forget(source)
                target = base / "target.zarr"
                began, cpu = time.perf_counter(), time.process_time()
                action(target)
                times[way].append(time.perf_counter() - began)
                used[way].append(time.process_time() - cpu)
                shutil.rmtree(target)
    rates = {f"{way}_mb_s": size / statistics.median(t) / 1e6 for way, t in times.items()}
    return {
        "mb": size / 1e6,
        "files": len(paths),
        **rates,
        "pull_cpu_s": statistics.median(used["pull"]) / size * 1e9,
        "push_cpu_s": statistics.median(used["push"]) / size * 1e9,
        "pull_of_curl": rates["pull_mb_s"] / rates["curl_mb_s"],
        "push_of_copy": rates["push_mb_s"] / rates["copy_mb_s"],
    }


def _curl(url: str, paths: list[str], target: Path) -> None:
    lines = [f'url = "{url}/{path}"\noutput = "{target / path}"' for path in paths]
    listing = target.parent / "curl.txt"
    listing.write_text("\n".join(lines))
    command = [
        "curl",
        "--silent",
        "--show-error",
        "--no-progress-meter",
        "--fail",
        "--create-dirs",
        "--parallel",
        "--parallel-max",
        "16",
    ]
    subprocess.run([*command, "--config", str(listing)], check=True)


def _forget(folder: Path) -> None:
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    """Print the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=40, help="of about 13 MB")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    parser.add_argument("--cold", action="store_true", help="drop the served files' pages first")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    base = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        row = measure(base, options.blocks, options.repeats, options.cold)
    finally:
        shutil.rmtree(base)
    figures = row.items()
    print(json.dumps(row) if options.json else "  ".join(f"{k} {v:,.2f}" for k, v in figures))


if __name__ == "__main__":
    main()
