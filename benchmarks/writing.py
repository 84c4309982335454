"""Rates of the dataset writer alone, and the codecs it could use.

Blocks of ready-made episodes (three agents, observations of 18, five actions, float16 embeddings
of 128: about 1.1 kB a step) are appended as fast as the writer takes them. ``cpu_us`` is the
processor time of the whole process for one step, so ``cpu_us * rate / 1e6`` is the number of cores
that recording at ``rate`` steps a second spends on writing. ``--codecs`` compares codecs instead,
on the first rows of a recorded ``--dataset``, or without one on those of an untrained GRU.

    python benchmarks/writing.py --json
    python benchmarks/writing.py --codecs --dataset dataset.zarr
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kd_offline.datasets import DatasetWriter, EpisodeBlock, ExpertBuffer, verify
from kd_offline.testing.factories import environment_spec, episode_block, full_mask, header
from kd_offline.types import Array

SPEC = environment_spec((18, 18, 18))
EPISODES_PER_BLOCK, LENGTH = 500, 25


def write(path: Path, blocks: list[EpisodeBlock], count: int) -> dict[str, float]:
    """Record ``count`` blocks in turn and return the rates."""
    bytes_per_step = sum(v.nbytes for v in blocks[0].flat().values()) / len(blocks[0].steps["obs"])
    began, used = time.perf_counter(), time.process_time()
    with DatasetWriter.create(path, header(SPEC)) as writer:
        for index in range(count):
            writer.append(blocks[index % len(blocks)])
        manifest = writer.commit({"full": full_mask(SPEC)})
        steps = writer.steps_done
    wall, cpu = time.perf_counter() - began, time.process_time() - used
    return {
        "steps": steps,
        "raw_bytes_per_step": bytes_per_step,
        "stored_bytes_per_step": manifest.size_bytes / steps,
        "steps_per_s": steps / wall,
        "raw_mb_per_s": steps * bytes_per_step / wall / 1e6,
        "cpu_us": cpu / steps * 1e6,
        "raw_mb_per_cpu_s": steps * bytes_per_step / cpu / 1e6,
    }


def read(path: Path) -> dict[str, float]:
    """Open, load and verify the dataset and return the times in seconds."""
    began = time.perf_counter()
    buffer = ExpertBuffer.open(path)
    opened = time.perf_counter() - began
    return {
        "open_s": opened,
        "load_s": _best(lambda: buffer.load(buffer.names), 1),
        "verify_quick_s": _best(lambda: verify(path, quick=True), 1),
        "verify_s": _best(lambda: verify(path), 1),
    }


def codec_rows(dataset: Path | None, rows: int = 8192) -> list[dict[str, Any]]:
    """Compare codecs on a chunk of hidden states, logits and observations."""
    from numcodecs import Blosc, blosc
    from numcodecs.zstd import Zstd

    blosc.use_threads = False
    codecs = {f"zstd {level}": Zstd(level, checksum=True) for level in (-50, -7, -1, 1, 3)}
    codecs |= {
        "blosc lz4 shuffle": Blosc("lz4", 5, Blosc.SHUFFLE),
        "blosc zstd bitshuffle": Blosc("zstd", 1, Blosc.BITSHUFFLE),
    }
    table = []
    chunks = _realistic(rows) if dataset is None else _recorded(dataset, rows)
    for name, values in chunks.items():
        size = values.nbytes
        for codec_name, codec in codecs.items():
            stored = codec.encode(values)
            encode, decode = (
                _best(partial(codec.encode, values)),
                _best(partial(codec.decode, stored)),
            )
            rates = {"encode_mb_per_s": size / encode / 1e6, "decode_mb_per_s": size / decode / 1e6}
            table.append({"array": name, "codec": codec_name, "ratio": len(stored) / size, **rates})
        rate = size / _best(partial(hashlib.sha256, values.data)) / 1e6
        table.append({"array": name, "codec": "sha256", "ratio": 0.0, "encode_mb_per_s": rate})
    return table


def _recorded(dataset: Path, rows: int) -> dict[str, Array]:
    buffer = ExpertBuffer.open(dataset)
    stop = min(rows, buffer.n_steps)
    return {name: buffer.read(f"steps/{name}", 0, stop) for name in ("embedding", "logits", "obs")}


def _realistic(rows: int) -> dict[str, Array]:
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    episodes = rows * 3 // LENGTH + 1
    obs = torch.randn(episodes, 1, 18) + 0.1 * torch.randn(episodes, LENGTH, 18).cumsum(1)
    obs[..., 14:] = 0
    gru, head = torch.nn.GRU(18, 128, batch_first=True), torch.nn.Linear(128, 5)
    with torch.no_grad():
        hidden, _ = gru(2 * obs)
        logits = 5 * head(hidden)
    cut = rows * 3
    return {
        "embedding": hidden.reshape(-1, 128)[:cut].numpy().astype(np.float16),
        "logits": logits.reshape(-1, 5)[:cut].numpy().copy(),
        "obs": obs.reshape(-1, 18)[:cut].numpy().copy(),
    }


def _best(action: Callable[[], object], repeats: int = 3) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return min(times)


def main() -> None:
    """Print the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=40, help="blocks of 500 episodes")
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    parser.add_argument("--codecs", action="store_true", help="compare codecs instead")
    parser.add_argument("--dataset", type=Path, help="recorded dataset to compare them on")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = (
        codec_rows(options.dataset) if options.codecs else [measure(options.folder, options.blocks)]
    )
    for row in rows:
        if options.json:
            print(json.dumps(row))
        else:
            print(
                "  ".join(
                    f"{k} {v:,.3f}" if isinstance(v, float) else f"{v}" for k, v in row.items()
                )
            )


def measure(folder: Path | None, count: int) -> dict[str, float]:
    """Write and read one dataset and return all figures."""
    blocks = [
        episode_block(SPEC, [LENGTH] * EPISODES_PER_BLOCK, seed=i, hidden=128) for i in range(3)
    ]
    root = Path(tempfile.mkdtemp(dir=folder))
    try:
        return write(root / "d.zarr", blocks, count) | read(root / "d.zarr")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
