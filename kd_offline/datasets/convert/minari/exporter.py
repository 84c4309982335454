"""Export to Minari datasets stored as HDF5: a group for each episode, agents as keys of ``Dict``.

Arrays without a name in Minari are in ``infos``, with one row more than there are steps, as usual
in Minari: the last row is that after the last step, or zeros.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kd_offline.datasets.convert.embedded_manifest import manifest_text
from kd_offline.datasets.convert.hdf5_writing import create_hdf5
from kd_offline.datasets.convert.interchange import (
    ConvertOptions,
    episode_blocks,
    team_reward,
)
from kd_offline.datasets.convert.minari import store
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.writing.blocks import EpisodeBlock
from kd_offline.errors import UsageError
from kd_offline.files import write_file
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.tracking.base import Observer
from kd_offline.types import Array

# The oldest Minari with this layout of files; newer ones read it.
_MINARI_VERSION = "0.5.0"
_ID = re.compile(r"[-_\w]+-v\d+")
_SPACE_OF = {"obs": "observations", "actions": "actions"}
_ROOT = {"terminated": "terminations", "truncated": "truncations"}


def is_id(name: str) -> bool:
    """Tell whether a name is a Minari id, which ends in a version such as ``-v0``."""
    return _ID.fullmatch(name) is not None


def write(
    buffer: ExpertBuffer, path: Path, options: ConvertOptions, observer: Observer
) -> list[str]:
    """Write a dataset as the Minari dataset ``NAME-vN``, a folder for Minari's root."""
    if not is_id(path.name):
        msg = (
            f"{path.name!r} is no name of a Minari dataset: end it with a version, as in spread-v0"
        )
        raise UsageError(msg)
    if unusable_names := [agent for agent in buffer.spec.agents if "/" in agent or agent == "."]:
        msg = f"Minari cannot name the agent {unusable_names[0]!r}: rename it in the environment"
        raise UsageError(msg)
    data = path / "data"
    data.mkdir(parents=True)
    _write_episodes(buffer, data / store.DATA_FILE, observer)
    size = (data / store.DATA_FILE).stat().st_size
    document = _metadata(buffer, path.name, size)
    write_file(data / store.METADATA_FILE, json.dumps(document))
    return list(_notes(buffer))


def _write_episodes(buffer: ExpertBuffer, file: Path, observer: Observer) -> None:
    masks = [name for name in buffer.mask_names if len(_mask_shape(buffer, name)) == len("ENO")]
    with create_hdf5(file, track_order=True, libver=("v108", "v110")) as out:
        done = 0
        for first, block in episode_blocks(buffer):
            stops = np.cumsum(block.lengths)
            for k, stop in enumerate(stops):
                group = out.create_group(f"episode_{first + k}")
                episode = _Episode(buffer.spec, block, k, slice(int(stop - block.lengths[k]), stop))
                _write_attributes(group, block, first, k)
                _write_episode(group, episode)
                for name in masks:
                    mask = buffer.read(f"masks/{name}", first + k, first + k + 1)[0]
                    group.create_dataset(f"{store.EPISODE_MASKS_GROUP}/{name}", data=mask)
            done += int(block.lengths.sum())
            observer.progress(done, buffer.n_steps, "steps")


@dataclass(frozen=True, slots=True)
class _Episode:
    """Episode ``index`` of a block, with its steps ``rows``."""

    spec: EnvironmentSpec
    block: EpisodeBlock
    index: int
    rows: slice

    def with_last(self, name: str) -> Array:
        """Return an array [T + 1, ...]: the steps, and the row after the last step or zeros."""
        steps, final = self.block.steps.get(name), self.block.final.get(name)
        like = steps if steps is not None else final
        if like is None:
            raise KeyError(name)
        length = self.rows.stop - self.rows.start
        out = np.zeros((length + 1, *like.shape[1:]), like.dtype)
        if steps is not None:
            out[:-1] = steps[self.rows]
        if final is not None:
            out[-1] = final[self.index]
        return out


def _write_attributes(group: Any, block: EpisodeBlock, first: int, k: int) -> None:
    group.attrs["id"] = first + k
    group.attrs["total_steps"] = int(block.lengths[k])
    for name, values in block.episodes.items():
        if name == "seed":
            group.attrs["seed"] = values[k]
        elif name not in ("offset", "length", "return", "agent_return"):
            group.attrs[f"{store.ATTRIBUTE_PREFIX}{name}"] = values[k]


def _write_episode(group: Any, episode: _Episode) -> None:
    spec, steps = episode.spec, episode.block.steps
    observed = episode.with_last("obs")
    for n, agent in enumerate(spec.agents):
        _put(group, f"observations/{agent}", observed[:, n, : spec.obs_widths[n]])
        _put(group, f"actions/{agent}", steps["actions"][episode.rows, n].astype(np.int64))
    _put(group, "rewards", team_reward(spec, steps["reward"][episode.rows]))
    for name, minari_name in _ROOT.items():
        _put(group, minari_name, steps[name][episode.rows])
    for name in dict.fromkeys((*steps, *episode.block.final)):
        if name not in _SPACE_OF and name not in _ROOT:
            _put(group, f"infos/{name}", episode.with_last(name))


def _put(group: Any, name: str, values: Array) -> None:
    # Arrays are small, so chunks and filters would only add overhead.
    group.create_dataset(name, data=np.ascontiguousarray(values))


def _metadata(buffer: ExpertBuffer, name: str, size: int) -> dict[str, Any]:
    manifest, spec = buffer.manifest, buffer.spec
    masks = {n: buffer.mask(n).tolist() for n in buffer.mask_names if buffer.mask(n).ndim == 2}
    return {
        "total_episodes": buffer.n_episodes,
        "total_steps": buffer.n_steps,
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "observation_space": _spaces(spec, lambda n: _box(spec.obs_widths[n])),
        "action_space": _spaces(spec, lambda n: _discrete(spec.action_counts[n])),
        "dataset_id": name,
        "dataset_size": round(size / 1e6, 1),
        "minari_version": _MINARI_VERSION,
        "algorithm_name": ", ".join(expert.kind for expert in manifest.experts),
        "description": manifest.description or manifest.name,
        store.MANIFEST_KEY: manifest_text(buffer),
        store.MASKS_KEY: json.dumps(masks),
    }


def _spaces(spec: EnvironmentSpec, space: Callable[[int], dict[str, Any]]) -> str:
    subspaces = {agent: space(n) for n, agent in enumerate(spec.agents)}
    return json.dumps({"type": "Dict", "subspaces": subspaces})


def _box(width: int) -> dict[str, Any]:
    limits = {"low": [-float("inf")] * width, "high": [float("inf")] * width}
    return {"type": "Box", "dtype": "float32", "shape": [width], **limits}


def _discrete(count: int) -> dict[str, Any]:
    return {"type": "Discrete", "dtype": "int64", "start": 0, "n": count}


def _mask_shape(buffer: ExpertBuffer, name: str) -> tuple[int, ...]:
    return buffer.array(f"masks/{name}").spec.shape


def _notes(buffer: ExpertBuffer) -> list[str]:
    notes = ["the reward of every agent is in infos/reward; rewards is the mean over the agents"]
    if len(buffer.spec.sides) > 1:
        side = next(iter(buffer.spec.sides))
        notes = [
            f"the reward of every agent is in infos/reward; rewards is the mean of side {side}"
        ]
    if not buffer.has("final/obs"):
        notes.append("no observation was recorded after the last step: that row is zero")
    return notes
