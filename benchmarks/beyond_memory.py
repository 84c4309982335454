"""Distil a dataset that is larger than the memory it may use, and say what was used.

A valid dataset of random episodes (three agents, observations of 18, five actions, float16
embeddings of 128: 1.1 kB a step) is written to a temporary folder, distilled by the command line
within ``--memory-mb``, and deleted. ``peak_rss_mb`` is the largest resident memory of the
distilling process, PyTorch and Python included.

    python benchmarks/beyond_memory.py --gb 10 --memory-mb 800
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from kd_offline.datasets import DatasetWriter, EpisodeBlock, ExpertBuffer
from kd_offline.testing.factories import environment_spec, episode_block, full_mask, header
from kd_offline.types import Array

SPEC = environment_spec((18, 18, 18))
EPISODES, LENGTH, GAMMA = 1000, 25, 0.99


def with_critic(block: EpisodeBlock, rng: np.random.Generator) -> EpisodeBlock:
    """Return the block with values that explain most of its returns, as a critic's would."""
    reward = block.steps["reward"].reshape(EPISODES, LENGTH, -1).mean(-1, keepdims=True)
    value = np.zeros((EPISODES, LENGTH, SPEC.n_agents), np.float32)
    following: Array = np.zeros((EPISODES, 1), np.float32)
    for t in range(LENGTH - 1, -1, -1):
        following = reward[:, t] + GAMMA * following
        value[:, t] = following
    value += 0.3 * rng.standard_normal(value.shape).astype(np.float32)
    steps = dict(block.steps) | {"value": value.reshape(-1, SPEC.n_agents)}
    return replace(block, steps=steps)


def write(path: Path, gigabytes: float) -> ExpertBuffer:
    """Write about so many decoded gigabytes."""
    rng = np.random.default_rng(0)
    blocks = [
        with_critic(episode_block(SPEC, [LENGTH] * EPISODES, seed=i, hidden=128), rng)
        for i in range(4)
    ]
    size = sum(values.nbytes for values in blocks[0].flat().values())
    with DatasetWriter.create(path, header(SPEC)) as writer:
        for index in range(round(gigabytes * 1e9 / size)):
            block = blocks[index % len(blocks)]
            seeds = np.arange(index * EPISODES, (index + 1) * EPISODES, dtype=np.uint64)
            writer.append(replace(block, episodes=dict(block.episodes) | {"seed": seeds}))
        writer.commit({"full": full_mask(SPEC)})
    return ExpertBuffer.open(path)


def distil(path: Path, run: Path, memory_mb: float, batch: int, method: str) -> dict[str, float]:
    """Distil for one epoch and return what it took."""
    command = [sys.executable, "-m", "kd_offline", "distill", str(path), "-o", str(run), "--json"]
    command += ["--memory-mb", str(memory_mb), "--epochs", "1", "--batch", str(batch)]
    command += ["--method", method, "--quiet"]
    began = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    manifest = json.loads((run / "run.json").read_text())
    assert json.loads(done.stdout)
    result = manifest["results"][0]
    return {
        "steps": result["updates"],
        "peak_rss_mb": peak * 1024 / 1e6,
        "seconds": seconds,
        "training_seconds": result["seconds"],
    }


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, default=10.0, help="decoded size of the dataset")
    parser.add_argument("--memory-mb", type=float, default=800.0)
    parser.add_argument("--batch", type=int, default=512, help="episodes")
    parser.add_argument("--method", default="kd-marl")
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        buffer = write(root / "d.zarr", options.gb)
        arrays = buffer.manifest.arrays.values()
        decoded = sum(int(np.prod(a.shape)) * np.dtype(a.dtype).itemsize for a in arrays)
        figures: dict[str, float] = {
            "decoded_gb": decoded / 1e9,
            "stored_gb": buffer.manifest.size_bytes / 1e9,
            "episodes": buffer.n_episodes,
            "memory_mb": options.memory_mb,
        }
        figures |= distil(
            root / "d.zarr", root / "run", options.memory_mb, options.batch, options.method
        )
        print(json.dumps({name: round(value, 2) for name, value in figures.items()}))
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
