"""Export to Flashbax Vaults, through TensorStore instead of JAX: a stream of steps for every leaf.

Leaves have the names of OG-MARL. Other arrays are in leaves ``infos/kd_*``: what belongs to the end
of an episode is in its last step, what belongs to a whole episode is in all its steps.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kd_offline.datasets.convert.embedded_manifest import manifest_text
from kd_offline.datasets.convert.interchange import ConvertOptions, row_ranges
from kd_offline.datasets.convert.vault import store
from kd_offline.datasets.format import layout
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.errors import UsageError
from kd_offline.files import refusal
from kd_offline.tracking.base import Observer
from kd_offline.types import Array

# A vault counts steps in int32.
_MOST_STEPS = 2**31 - 1
_UID = "Expert"
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
_WIDE = {"uint64": "uint32", "int64": "uint32"}


@dataclass(frozen=True, slots=True)
class _Window:
    """Rows of all ``steps`` arrays by bare name, with their episodes."""

    steps: dict[str, Array]
    episode: Array  # int64 [n]
    last: Array  # bool [n]


@dataclass(frozen=True, slots=True)
class _Leaf:
    """One leaf of a vault: dtype, shape of a row, and the function of its values."""

    dtype: str
    tail: tuple[int, ...]
    values: Callable[[_Window], Array]  # [n, *tail]


def write(
    buffer: ExpertBuffer, path: Path, options: ConvertOptions, observer: Observer
) -> list[str]:
    """Write a dataset as a vault: ``NAME.vlt/UID``, or ``NAME.vlt`` with the UID ``Expert``."""
    if buffer.n_steps > _MOST_STEPS:
        msg = f"a vault holds at most {_MOST_STEPS} steps, this dataset has {buffer.n_steps}: split"
        raise UsageError(msg)
    folder = path / _UID if path.suffix == ".vlt" else path
    leaves = _leaves(buffer)
    folder.mkdir(parents=True)
    try:
        return _write(buffer, folder, leaves, observer)
    except ValueError as error:  # TensorStore raises it for a full disk too
        raise _refusal(path, error) from error


def _write(
    buffer: ExpertBuffer, folder: Path, leaves: dict[str, _Leaf], observer: Observer
) -> list[str]:
    stores = store.create(folder, {n: (leaf.dtype, leaf.tail) for n, leaf in leaves.items()})
    for start, stop in row_ranges(buffer.n_steps, stores.rows):
        window = _window(buffer, start, stop)
        stores.write(start, {name: leaf.values(window) for name, leaf in leaves.items()})
        observer.progress(stop, buffer.n_steps, "steps")
    stores.finish(buffer.n_steps)
    store.write_metadata(folder, stores, buffer.n_steps, _own_metadata(buffer))
    return [_STATE_NOTE] if buffer.spec.state_is_obs else []


def _refusal(path: Path, error: ValueError) -> Exception:
    for code in _DISK:
        if os.strerror(code) in str(error):
            return refusal(path, OSError(code, os.strerror(code)))
    return error


_STATE_NOTE = "infos/state is the observations of all agents, joined"


def _own_metadata(buffer: ExpertBuffer) -> dict[str, Any]:
    """Return our additions to the metadata: the manifest, and masks of all episodes."""
    masks = {name: buffer.mask(name) for name in buffer.mask_names}
    fixed = {name: mask.tolist() for name, mask in masks.items() if mask.ndim == 2}
    return {store.MANIFEST_KEY: manifest_text(buffer), store.MASKS_KEY: json.dumps(fixed)}


def _window(buffer: ExpertBuffer, start: int, stop: int) -> _Window:
    rows = np.arange(start, stop)
    offsets = buffer.episodes("offset")
    episode = np.searchsorted(offsets, rows, side="right") - 1
    last = rows == (offsets + buffer.episodes("length") - 1)[episode]
    names = [name for name in buffer.names if name.startswith("steps/")]
    steps = {name.removeprefix("steps/"): buffer.read(name, start, stop) for name in names}
    return _Window(steps, episode, last)


def _leaves(buffer: ExpertBuffer) -> dict[str, _Leaf]:
    """Return path -> leaf of the vault."""
    spec = buffer.spec
    team = (spec.n_agents,)
    leaves = {
        "observations": _Leaf("float32", (*team, spec.obs_width), lambda w: w.steps["obs"]),
        "actions": _Leaf("int32", team, lambda w: w.steps["actions"].astype(np.int32)),
        "rewards": _Leaf("float32", team, lambda w: w.steps["reward"]),
        "terminals": _Leaf("bool", team, lambda w: _all_agents(w.steps["terminated"], team)),
        "truncations": _Leaf("bool", team, lambda w: _all_agents(w.steps["truncated"], team)),
        "infos/legals": _Leaf(
            "bool", (*team, spec.action_count), lambda w: w.steps["available_actions"]
        ),
        "infos/state": _Leaf("float32", (spec.state_width,), lambda w: _state(buffer, w)),
    }
    for name in buffer.names:
        if name.removeprefix("steps/") in store.LEAF_NAMES or _is_derived(name):
            continue
        if leaf := _extra_leaf(buffer, name):
            leaves[store.leaf_name(name)] = leaf
    return leaves


def _is_derived(name: str) -> bool:
    return name == "episodes/length" or (name != "episodes/split" and layout.rule_for(name).derived)


def _extra_leaf(buffer: ExpertBuffer, name: str) -> _Leaf | None:
    """Return the leaf of an array without a name in OG-MARL; None for fixed masks."""
    group, short = name.split("/", 1)
    stored = buffer.array(name).spec
    tail = stored.shape[1:]
    if group == "steps":
        return _Leaf(stored.dtype, tail, lambda w: w.steps[short])
    if group == "final":
        return _Leaf(stored.dtype, tail, lambda w: _in_last_step(w, _by_episode(buffer, name, w)))
    if group == "episodes":
        wide = stored.dtype in _WIDE
        dtype, tail = (_WIDE[stored.dtype], (*tail, 2)) if wide else (stored.dtype, tail)
        return _Leaf(dtype, tail, lambda w: store.split_64_bit(_by_episode(buffer, name, w)))
    if len(stored.shape) == len("ENO"):
        return _Leaf(stored.dtype, tail, lambda w: _by_episode(buffer, name, w))
    return None


def _by_episode(buffer: ExpertBuffer, name: str, window: _Window) -> Array:
    first, last = int(window.episode[0]), int(window.episode[-1])
    rows: Array = buffer.read(name, first, last + 1)[window.episode - first]
    return rows


def _in_last_step(window: _Window, values: Array) -> Array:
    out = np.zeros_like(values)
    out[window.last] = values[window.last]
    return out


def _all_agents(values: Array, team: tuple[int, ...]) -> Array:
    return np.repeat(values[:, None], team[0], axis=1)


def _state(buffer: ExpertBuffer, window: _Window) -> Array:
    if "state" in window.steps:
        return window.steps["state"]
    obs, widths = window.steps["obs"], buffer.spec.obs_widths
    return np.concatenate([obs[:, k, :width] for k, width in enumerate(widths)], axis=1)
