"""What the reading benchmark compares: how each library stores the transitions and gives batches.

Every opener returns a function that makes the next batch of ``BATCH`` sequences of ``STEPS`` steps.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kd_offline.datasets import DatasetWriter, Loader, Windows
from kd_offline.testing.factories import environment_spec, episode_block, full_mask, header
from kd_offline.types import Array

BATCH, STEPS, LENGTH = 32, 20, 25
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
