"""Batches of sequences (32 x 20, all distillation fields) a second, against other libraries.

The same random transitions (three agents, observations of 18, five actions, float16 embeddings of
128: 1.1 kB a step, episodes of 25 steps) are stored by every contender in its own format, then read

*in memory*: everything was read once, one process for each contender; they take turns,
``--seconds`` each, ``--rounds`` times;

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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kd_offline.datasets import DatasetWriter, ExpertBuffer
from kd_offline.datasets.loading import Loader
from kd_offline.datasets.plan import Windows
from kd_offline.testing.factories import environment_spec, episode_block, full_mask, header
from kd_offline.types import Array

BATCH, STEPS, LENGTH, COLD_BATCHES = 32, 20, 25, 400
COLD_SECONDS = 8.0
SPEC = environment_spec((18, 18, 18))
FIELDS = ["obs", "available_actions", "alive", "actions", "behaviour_logprob", "action_source"]
FIELDS += ["logits", "embedding", "value", "reward", "terminated", "truncated"]
BUDGET_MB = 64.0
Draw = Callable[[], Any]


def kd_write(path: Path, data: dict[str, Array]) -> None:
    """Write the dataset that the others are made from."""
    with DatasetWriter.create(path, header(SPEC)) as writer:
        for index in range(data["episodes"].item() // 500):
            writer.append(episode_block(SPEC, [LENGTH] * 500, seed=index, hidden=128))
        writer.commit({"full": full_mask(SPEC)})


def _kd(path: Path, memory_mb: float | None) -> Draw:
    names = [f"steps/{name}" for name in FIELDS]
    windows = Windows(STEPS, 1)
    stream = Loader.open(path, names, BATCH, windows=windows, memory_mb=memory_mb).batches()
    return lambda: next(stream)


def kd_memory(path: Path) -> Draw:
    """Everything decoded at open."""
    return _kd(path, None)


def kd_stream(path: Path) -> Draw:
    """Chunks decoded ahead, within a budget that is a fraction of the data."""
    return _kd(path, BUDGET_MB)


def h5_write(path: Path, data: dict[str, Array]) -> None:
    """One chunked, uncompressed dataset a field."""
    import h5py

    with h5py.File(path, "w") as file:
        for name in FIELDS:
            values = data[name]
            file.create_dataset(name, data=values, chunks=(1024, *values.shape[1:]))


def h5_stream(path: Path) -> Draw:
    """Slices of the file."""
    return _h5_slices(path)


def h5_memory(path: Path) -> Draw:
    """Slices of the file, held in memory by HDF5 itself."""
    return _h5_slices(path, driver="core")


def _h5_slices(path: Path, **options: Any) -> Draw:
    import h5py

    file = h5py.File(path, "r", **options)
    fields = {name: file[name] for name in FIELDS}
    starts = _starts(len(fields["reward"]))

    def draw() -> dict[str, Array]:
        chosen = starts()
        return {n: np.stack([f[s : s + STEPS] for s in chosen]) for n, f in fields.items()}

    return draw


def numpy_memory(path: Path) -> Draw:
    """Arrays indexed by hand."""
    import h5py

    with h5py.File(path) as file:
        fields = {name: file[name][:] for name in FIELDS}
    starts = _starts(len(fields["reward"]))

    def draw() -> dict[str, Array]:
        rows = starts()[:, None] + np.arange(STEPS)
        return {name: values[rows] for name, values in fields.items()}

    return draw


def minari_write(path: Path, data: dict[str, Array]) -> None:
    """Put what has no place of its own in Minari into infos, which have one step more."""
    import gymnasium
    import minari
    from minari.data_collector import EpisodeBuffer

    os.environ["MINARI_DATASETS_PATH"] = str(path)
    episodes: list[EpisodeBuffer] = []
    for first in range(0, len(data["reward"]), LENGTH):
        rows = slice(first, first + LENGTH)
        own = {name: data[name][rows] for name in FIELDS}
        infos = {
            name: np.concatenate([own[name], own[name][-1:]])
            for name in FIELDS
            if name not in ("obs", "actions", "terminated", "truncated")
        }
        episodes.append(
            EpisodeBuffer(
                id=len(episodes),
                observations=np.concatenate([own["obs"], own["obs"][-1:]]),
                actions=own["actions"],
                rewards=own["reward"].mean(1),
                terminations=own["terminated"],
                truncations=own["truncated"],
                infos=infos,
            )
        )
    minari.create_dataset_from_buffers(
        "bench/spread-v0",
        episodes,
        observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (3, 18), np.float32),
        action_space=gymnasium.spaces.Box(0, 5, (3,), np.int16),
    )


def _minari(path: Path) -> Any:
    import minari

    os.environ["MINARI_DATASETS_PATH"] = str(path)
    return minari.load_dataset("bench/spread-v0")


def _minari_cut(episodes: list[Any], rng: np.random.Generator) -> dict[str, Array]:
    first = rng.integers(0, LENGTH - STEPS + 1, len(episodes))
    cuts = [slice(s, s + STEPS) for s in first]
    pairs = list(zip(episodes, cuts, strict=True))
    out = {
        "obs": np.stack([e.observations[c] for e, c in pairs]),
        "actions": np.stack([e.actions[c] for e, c in pairs]),
        "terminated": np.stack([e.terminations[c] for e, c in pairs]),
        "truncated": np.stack([e.truncations[c] for e, c in pairs]),
    }
    for name in FIELDS:
        if name not in out:
            out[name] = np.stack([e.infos[name][c] for e, c in pairs])
    return out


def minari_stream(path: Path) -> Draw:
    """``sample_episodes`` from the file."""
    dataset = _minari(path)
    rng = np.random.default_rng(0)
    return lambda: _minari_cut(list(dataset.sample_episodes(BATCH)), rng)


def minari_memory(path: Path) -> Draw:
    """All episodes in a list."""
    episodes = list(_minari(path).iterate_episodes())
    rng = np.random.default_rng(0)
    last = len(episodes)
    return lambda: _minari_cut([episodes[i] for i in rng.integers(0, last, BATCH)], rng)


def vault_write(path: Path, data: dict[str, Array]) -> None:
    """One row of time that holds every transition."""
    import jax
    import jax.numpy as jnp
    from flashbax.buffers.trajectory_buffer import TrajectoryBufferState
    from flashbax.vault import Vault

    experience = {name: jnp.asarray(data[name])[None] for name in FIELDS}
    state = TrajectoryBufferState(
        experience=experience,
        current_index=jnp.zeros((), jnp.int32),
        is_full=jnp.ones((), bool),
    )
    shapes = jax.eval_shape(lambda: experience)
    Vault("bench", shapes, rel_dir=str(path), vault_uid="v").write(
        state, source_interval=(0, len(data["reward"]))
    )


def vault_memory(path: Path) -> Draw:
    """Read the Vault whole into a trajectory buffer, sampled by a compiled function."""
    import flashbax
    import jax
    from flashbax.vault import Vault

    state = Vault("bench", rel_dir=str(path), vault_uid="v").read()
    buffer = flashbax.make_trajectory_buffer(
        add_batch_size=1,
        sample_batch_size=BATCH,
        sample_sequence_length=STEPS,
        period=1,
        min_length_time_axis=STEPS,
        max_length_time_axis=state.experience["reward"].shape[1],
    )
    sample = jax.jit(buffer.sample)
    keys = [jax.random.key(0)]

    def draw() -> Any:
        keys[0], key = jax.random.split(keys[0])
        return jax.block_until_ready(sample(state, key))

    return draw


def _torchrl(storage: Any) -> Any:
    from torchrl.data import ReplayBuffer
    from torchrl.data.replay_buffers.samplers import SliceSampler

    sampler = SliceSampler(slice_len=STEPS, traj_key="episode", cache_values=True)
    return ReplayBuffer(storage=storage, sampler=sampler, batch_size=BATCH * STEPS)


def _torchrl_data(data: dict[str, Array]) -> Any:
    import torch
    from tensordict import TensorDict

    rows = len(data["reward"])
    tensors = {name: torch.from_numpy(data[name]) for name in FIELDS}
    return TensorDict(tensors | {"episode": torch.arange(rows) // LENGTH}, batch_size=[rows])


def torchrl_write(path: Path, data: dict[str, Array]) -> None:
    """Dump a replay buffer over memory-mapped storage."""
    from torchrl.data import LazyMemmapStorage

    buffer = _torchrl(LazyMemmapStorage(len(data["reward"]), scratch_dir=path / "scratch"))
    buffer.extend(_torchrl_data(data))
    buffer.dumps(path / "dump")


def torchrl_memmap(path: Path) -> Draw:
    """Slices of the memory-mapped storage."""
    from torchrl.data import LazyMemmapStorage

    rows = json.loads((path / "rows.json").read_text())
    buffer = _torchrl(LazyMemmapStorage(rows))
    buffer.loads(path / "dump")
    return lambda: buffer.sample()


def torchrl_tensors(path: Path) -> Draw:
    """Slices of tensors in memory."""
    from tensordict import TensorDict
    from torchrl.data import LazyMemmapStorage, LazyTensorStorage

    rows = json.loads((path / "rows.json").read_text())
    held = _torchrl(LazyMemmapStorage(rows))
    held.loads(path / "dump")
    everything = TensorDict(dict(held[:].items()), batch_size=[rows]).clone()
    buffer = _torchrl(LazyTensorStorage(rows))
    buffer.extend(everything)
    return lambda: buffer.sample()


def _starts(rows: int) -> Callable[[], Array]:
    rng = np.random.default_rng(0)
    last = LENGTH - STEPS + 1

    def draw() -> Array:
        return rng.integers(0, rows // LENGTH, BATCH) * LENGTH + rng.integers(0, last, BATCH)

    return draw


WRITERS = {
    "kd-offline": kd_write,
    "h5py": h5_write,
    "Minari": minari_write,
    "Flashbax": vault_write,
    "TorchRL": torchrl_write,
}
MEMORY: dict[str, Callable[[Path], Draw]] = {
    "kd-offline": kd_memory,
    "h5py": h5_memory,
    "NumPy, by hand": numpy_memory,
    "Minari": minari_memory,
    "Flashbax": vault_memory,
    "TorchRL tensors": torchrl_tensors,
    "TorchRL memmap": torchrl_memmap,
}
COLD: dict[str, Callable[[Path], Draw]] = {
    "kd-offline": kd_stream,
    "kd-offline in memory": kd_memory,
    "h5py": h5_stream,
    "Minari": minari_stream,
    "Flashbax": vault_memory,
    "TorchRL memmap": torchrl_memmap,
}


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


def in_memory(root: Path, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Return batches a second of every round; libraries in one process would disturb each other."""
    workers = {name: _worker(name, root, seconds) for name in MEMORY}
    rates: dict[str, list[float]] = {name: [] for name in workers}
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


def _answer(worker: subprocess.Popen[str]) -> float:
    assert worker.stdout is not None
    for line in worker.stdout:
        if line.startswith("rate "):
            return float(line.split()[1])
    msg = "a contender died; run it alone to see why"
    raise RuntimeError(msg)


def serve(name: str, root: Path, seconds: float) -> None:
    """Measure the rate once for every line that comes."""
    draw = MEMORY[name](_place(root, name))
    for _ in range(20):
        draw()
    print("rate 0", flush=True)
    for _ in sys.stdin:
        began, count = time.perf_counter(), 0
        while time.perf_counter() < began + seconds:
            draw()
            count += 1
        print("rate", count / (time.perf_counter() - began), flush=True)


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


def report(result: dict[str, Any]) -> None:
    """Print two Markdown tables: medians, spread, and the ratio of medians to the best library."""
    rates = result["in_memory"]
    others = [n for n in rates if not n.startswith(("kd-offline", "NumPy"))]
    best = max(statistics.median(rates[name]) for name in others)
    print("| in memory | batches/s | to the best library |\n|---|---|---|")
    for name, values in rates.items():
        print(f"| {name} | {_spread(values)} | {statistics.median(values) / best:.2f} |")
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
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--json", type=Path, help="where to write all figures")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    parser.add_argument("--cold", help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cold:
        print(json.dumps(cold_once(options.cold, options.root)))
        return
    if options.memory:
        serve(options.memory, options.root, options.seconds)
        return
    root = Path(tempfile.mkdtemp())
    try:
        sizes = prepare(root, options.episodes)
        runs, how = cold(root, options.rounds)
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
