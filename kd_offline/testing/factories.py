"""Small valid datasets of random numbers, for tests without an environment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.writing.blocks import EpisodeBlock
from kd_offline.datasets.writing.writer import DatasetWriter
from kd_offline.schemas.dataset import (
    Capture,
    ExpertRecord,
    MaskRecord,
    RecordingHeader,
    RecordingRecord,
)
from kd_offline.schemas.environment import EnvironmentSpec, FullObservation
from kd_offline.types import Array


def environment_spec(
    obs_widths: Sequence[int] = (6, 6, 6),
    action_counts: Sequence[int] | None = None,
    *,
    episode_limit: int = 25,
    state_width: int = 0,
    full_widths: Sequence[int] = (),
) -> EnvironmentSpec:
    """Return a made-up environment of ``len(obs_widths)`` agents on one side.

    Each observation has two blocks, ``own`` (the first half) and ``others`` (the rest). With
    ``full_widths`` it describes full observations of one block ``everything``.
    """
    counts = tuple(action_counts or (5,) * len(obs_widths))
    agents = tuple(f"agent_{i}" for i in range(len(obs_widths)))
    blocks = {
        agent: {"own": ((0, (width + 1) // 2),), "others": (((width + 1) // 2, width),)}
        for agent, width in zip(agents, obs_widths, strict=True)
    }
    return EnvironmentSpec(
        id="test/random_v0",
        version="1",
        agents=agents,
        obs_widths=tuple(obs_widths),
        action_counts=counts,
        action_names=tuple(tuple(f"a{k}" for k in range(count)) for count in counts),
        episode_limit=episode_limit,
        reward="per_agent",
        sides={"team": agents},
        state_width=state_width or sum(obs_widths),
        state_is_obs=state_width == 0,
        blocks=blocks,
        full=FullObservation(
            widths=tuple(full_widths),
            blocks={
                agent: {"everything": ((0, width),)}
                for agent, width in zip(agents, full_widths, strict=True)
            },
        )
        if full_widths
        else None,
    )


def header(
    spec: EnvironmentSpec | None = None, *, seed: int = 0, masks: Iterable[str] = ("full",)
) -> RecordingHeader:
    """Return the header of a recording of ``spec``."""
    expert = ExpertRecord(
        id=0,
        kind="random",
        reference="factory",
        parameters=0,
        digest="sha256:" + "0" * 64,
        capture=Capture(embedding="random numbers"),
        gamma=0.99,
        value_of="discounted mean reward of the agent's side",
    )
    return RecordingHeader(
        name="test/random",
        environment=spec or environment_spec(),
        experts=(expert,),
        recording=RecordingRecord(seed=seed, episodes=0),
        masks={name: MaskRecord(description=f"{name}, for tests") for name in masks},
        licence="CC0-1.0",
    )


def episode_block(
    spec: EnvironmentSpec,
    lengths: Sequence[int],
    *,
    seed: int = 0,
    hidden: int = 4,
    embedding_dtype: str = "float16",
    without: Iterable[str] = (),
) -> EpisodeBlock:
    """Return valid random episodes; ``without`` leaves out arrays by their full names.

    Every agent is alive throughout, actions are legal, log-probabilities follow from the logits,
    odd episodes end by truncation and even ones by termination.
    """
    rng = np.random.default_rng(seed)
    sizes = np.asarray(lengths, dtype=np.int64)
    rows, count = int(sizes.sum()), len(sizes)
    end = np.zeros(rows, dtype=bool)
    end[np.cumsum(sizes) - 1] = True
    is_odd = np.repeat(np.arange(count) % 2 == 1, sizes)
    steps: dict[str, Array] = _views(rng, spec, rows) | _expert(
        rng, spec, rows, hidden, embedding_dtype
    )
    steps |= _behaviour(rng, steps["logits"], steps["available_actions"])
    steps |= {
        "reward": rng.standard_normal((rows, spec.n_agents)).astype(np.float32),
        "terminated": end & ~is_odd,
        "truncated": end & is_odd,
    }
    final = _views(rng, spec, count)
    final["value"] = rng.standard_normal((count, spec.n_agents)).astype(np.float32)
    episodes: dict[str, Array] = {
        "length": sizes,
        "seed": rng.integers(0, 2**31, count).astype(np.uint64),
        "noise_level": np.zeros(count, dtype=np.float32),
        "expert_id": np.zeros(count, dtype=np.int16),
        "won": (np.arange(count) % 2).astype(np.int8),
    }
    left_out = set(without)
    return EpisodeBlock(
        _keep("steps", steps, left_out),
        _keep("final", final, left_out),
        _keep("episodes", episodes, left_out),
    )


def tiny_dataset(
    path: str | Path,
    episodes: int = 4,
    lengths: Sequence[int] | None = None,
    *,
    spec: EnvironmentSpec | None = None,
    seed: int = 0,
    hidden: int = 4,
    without: Iterable[str] = (),
    masks: Mapping[str, Array] | None = None,
) -> ExpertBuffer:
    """Write a random dataset at ``path`` and return it opened.

    ``lengths`` defaults to ragged ones below the episode limit; ``masks`` to ``full`` alone.
    """
    spec = spec or environment_spec()
    if lengths is None:
        lengths = [1 + (5 * i + 3) % spec.episode_limit for i in range(episodes)]
    all_masks = {"full": full_mask(spec)} if masks is None else masks
    with DatasetWriter.create(path, header(spec, seed=seed, masks=all_masks)) as writer:
        writer.append(episode_block(spec, lengths, seed=seed, hidden=hidden, without=without))
        writer.commit(all_masks)
    return ExpertBuffer.open(path)


def full_mask(spec: EnvironmentSpec) -> Array:
    """Return the mask that hides only the padding, bool [N, O]."""
    return np.arange(spec.obs_width) < np.array(spec.obs_widths)[:, None]


def _views(rng: np.random.Generator, spec: EnvironmentSpec, rows: int) -> dict[str, Array]:
    obs = rng.standard_normal((rows, spec.n_agents, spec.obs_width)).astype(np.float32)
    legal = rng.random((rows, spec.n_agents, spec.action_count)) < 0.8
    legal[..., 0] = True
    legal &= np.arange(spec.action_count) < np.array(spec.action_counts)[:, None]
    views: dict[str, Array] = {
        "obs": np.where(full_mask(spec), obs, np.float32(0)),  # a product would leave -0.0
        "available_actions": legal,
        "alive": np.ones((rows, spec.n_agents), dtype=bool),
    }
    if spec.full is not None:
        full = rng.standard_normal((rows, spec.n_agents, spec.full.width)).astype(np.float32)
        real = np.arange(spec.full.width) < np.array(spec.full.widths)[:, None]
        views["obs_full"] = np.where(real, full, np.float32(0))
    if not spec.state_is_obs:
        views["state"] = rng.standard_normal((rows, spec.state_width)).astype(np.float32)
    return views


def _expert(
    rng: np.random.Generator, spec: EnvironmentSpec, rows: int, hidden: int, dtype: str
) -> dict[str, Array]:
    shape = (rows, spec.n_agents)
    return {
        "logits": rng.standard_normal((*shape, spec.action_count)).astype(np.float32),
        "embedding": np.tanh(rng.standard_normal((*shape, hidden))).astype(dtype),
        "value": rng.standard_normal(shape).astype(np.float32),
    }


def _behaviour(rng: np.random.Generator, logits: Array, legal: Array) -> dict[str, Array]:
    """Sample legal actions from the softmax of the logits."""
    weights = np.exp(logits.astype(np.float64)) * legal
    probabilities = weights / weights.sum(axis=-1, keepdims=True)
    draw = rng.random(logits.shape[:-1])[..., None]
    actions = (np.cumsum(probabilities, axis=-1) <= draw * (1 - 1e-12)).sum(axis=-1)
    actions = np.minimum(actions, logits.shape[-1] - 1)
    chosen = np.take_along_axis(probabilities, actions[..., None], axis=-1)[..., 0]
    return {
        "actions": actions.astype(np.int16),
        "behaviour_logprob": np.log(chosen).astype(np.float32),
        "action_source": np.zeros(actions.shape, dtype=np.uint8),
    }


def _keep(group: str, arrays: Mapping[str, Array], left_out: set[str]) -> dict[str, Array]:
    return {name: values for name, values in arrays.items() if f"{group}/{name}" not in left_out}
