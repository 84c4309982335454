"""Import flat HDF5 in the layout of D4RL: one agent, or several of a known environment."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from kd_offline.datasets.convert import untrusted_hdf5
from kd_offline.datasets.convert.foreign_arrays import (
    LegalityCount,
    boolean_array,
    discrete_actions,
    find_mask_name,
    is_one_hot,
    legal_actions,
    loses_precision,
    with_executed_legal,
)
from kd_offline.datasets.convert.inferred_metadata import (
    InferredEnvironment,
    environment_spec,
    full_mask,
    import_header,
    single_agent_spec,
)
from kd_offline.datasets.convert.interchange import (
    ConvertOptions,
    ImportedDataset,
    episode_ranges,
    foreign_error,
    rounding_losses,
    row_ranges,
)
from kd_offline.datasets.format.layout import RULES
from kd_offline.datasets.writing.blocks import EpisodeBlock
from kd_offline.errors import MismatchError, Remedy
from kd_offline.schemas.dataset import ExpertRecord
from kd_offline.schemas.dataset_outputs import NotHeld
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.types import Array, BoolArray, IntArray

DESCRIPTION = "metadata/kd_offline"
_REQUIRED = ("observations", "actions", "rewards", "terminals")
_END_FLAGS = ("timeouts", "episode_terminals")
_KNOWN = {*_REQUIRED, *_END_FLAGS, "next_observations", "infos", "metadata"}


@dataclass(frozen=True, slots=True)
class _Flat:
    """The checked arrays of a file, its environment, and our arrays in ``infos``."""

    arrays: dict[str, Any]
    spec: EnvironmentSpec
    infos: dict[str, Any]
    mask: str | None = None  # path of the legal actions in a file of others


def recognise(path: Path) -> bool:
    """Tell whether ``path`` is an HDF5 file with D4RL's arrays."""
    if not untrusted_hdf5.is_hdf5(path):
        return False
    with untrusted_hdf5.open_hdf5(path) as file:
        return {"observations", "actions", "rewards", "terminals"} <= set(
            untrusted_hdf5.member_names(file)
        )


@contextmanager
def read(path: Path, options: ConvertOptions) -> Iterator[ImportedDataset]:
    """Open the dataset in a flat HDF5 file, written by kd-offline or by others.

    Raises
    ------
    ForeignError
        It is damaged, or holds what an expert buffer cannot, such as continuous actions.
    """
    with untrusted_hdf5.open_hdf5(path) as file:
        arrays = _arrays(path, file)
        ended = _ended(path, arrays)
        stops = np.flatnonzero(ended) + 1
        if not len(stops):
            raise foreign_error(
                path, "no episode ends in it: terminals and timeouts are never true"
            )
        lengths = np.diff(stops, prepend=0)
        described = _embedded_description(path, file)
        if described and options.spec is None:
            options = replace(options, spec=described[0])
        mask = None if described else _mask_path(file)
        if mask is not None:
            arrays[mask] = untrusted_hdf5.checked_dataset(file, mask)
        spec = _spec(path, arrays, lengths, options, mask)
        infos = _own_infos(path, file, len(ended)) if described else {}
        flat = _Flat(arrays, spec, infos, mask)
        legality = _count_legality(path, flat, int(stops[-1]))
        yield ImportedDataset(
            header=import_header(spec, path, "d4rl", options, experts=_sole_expert(described)),
            blocks=_blocks(path, flat, lengths),
            steps=int(stops[-1]),
            masks=full_mask(spec),
            not_held=(*_not_held(file, flat), *_rounding_losses(arrays), *legality.not_held()),
            notes=tuple(_notes(flat, len(ended) - int(stops[-1]))),
        )


def _arrays(path: Path, file: Any) -> dict[str, Any]:
    names = [
        *_REQUIRED,
        *(n for n in (*_END_FLAGS, "next_observations") if n in untrusted_hdf5.member_names(file)),
    ]
    arrays = {name: untrusted_hdf5.checked_dataset(file, name) for name in names}
    rows = len(arrays["observations"]) if arrays["observations"].ndim == 2 else 0
    if rows == 0 or any(len(array) != rows for array in arrays.values() if array.ndim):
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
        raise foreign_error(path, f"its arrays have not one row for every step ({shapes})")
    actions = arrays["actions"]
    if actions.ndim > 2:
        what = f"its actions have {actions.ndim} axes ({actions.dtype} {list(actions.shape)})"
        raise foreign_error(path, what, "only one discrete action of every agent is read")
    next_observations = arrays.get("next_observations")
    if next_observations is not None and next_observations.shape != arrays["observations"].shape:
        raise foreign_error(path, "next_observations are not shaped as observations are")
    return arrays


def _ended(path: Path, arrays: dict[str, Any]) -> Array:
    flags = [
        boolean_array(
            path,
            name,
            untrusted_hdf5.read_all(arrays[name]).reshape(len(arrays["observations"]), -1),
        )
        for name in ("terminals", *_END_FLAGS)
        if name in arrays
    ]
    if any(values.shape[1] != 1 for values in flags):
        raise foreign_error(path, "its terminals and timeouts are not one of every step")
    return np.asarray(np.any(flags, axis=0)).reshape(-1)


def _embedded_description(
    path: Path, file: Any
) -> tuple[EnvironmentSpec, tuple[ExpertRecord, ...]] | None:
    """Return the environment and experts that our exporter wrote, or None."""
    text = untrusted_hdf5.read_bytes(file, DESCRIPTION)
    if text is None:
        return None
    try:
        document = json.loads(text)
        spec = EnvironmentSpec.model_validate(document["environment"]).local
        experts = tuple(ExpertRecord.model_validate(expert) for expert in document["experts"])
        agent = document["agent"]
    except (ValidationError, ValueError, LookupError, TypeError, RecursionError):
        raise foreign_error(path, f"{DESCRIPTION} in it is damaged") from None
    return (spec if agent is None else single_agent_spec(spec, str(agent))), experts


def _sole_expert(
    described: tuple[EnvironmentSpec, tuple[ExpertRecord, ...]] | None,
) -> tuple[ExpertRecord, ...]:
    """Return the expert if there is one; the file does not tell which of several acted."""
    experts = described[1] if described else ()
    return experts if len(experts) == 1 else ()


def _spec(
    path: Path, arrays: dict[str, Any], lengths: Array, options: ConvertOptions, mask: str | None
) -> EnvironmentSpec:
    width, actions = arrays["observations"].shape[1], arrays["actions"]
    agents = actions.shape[1] if actions.ndim == 2 else 1
    single = options.spec is None or options.spec.n_agents == 1
    if agents > 1 and single and _one_hot(actions):
        agents, high = 1, actions.shape[1] - 1
    elif agents > 1 and actions.dtype.kind == "f" and options.spec is None:
        what = f"its actions are continuous ({actions.dtype} {list(actions.shape)})"
        raise foreign_error(path, what, "only discrete actions can be distilled")
    else:
        parts = [
            discrete_actions(path, "its actions", actions[start:stop])
            for start, stop in row_ranges(len(actions))
        ]
        low, high = min(int(p.min()) for p in parts), max(int(p.max()) for p in parts)
        if low < 0:
            raise foreign_error(path, f"an action is {low}, below zero")
    if arrays["rewards"].ndim > 2 or arrays["rewards"].size not in (
        len(actions),
        len(actions) * agents,
    ):
        raise foreign_error(path, f"its rewards have shape {list(arrays['rewards'].shape)}")
    widths: tuple[int, ...] = (width,)
    if agents > 1:
        widths = _widths(path, agents, width, options)
    count = high + 1
    if mask is not None:
        count = _legal_width(path, arrays[mask], len(actions), agents, high)
    inferred = InferredEnvironment(
        obs_widths=widths,
        action_counts=[count] * agents,
        longest=int(lengths.max()),
        exact=mask is not None,
        name=path.stem,
    )
    return environment_spec(inferred, options)


def _one_hot(actions: Any) -> bool:
    return all(is_one_hot(actions[start:stop]) for start, stop in row_ranges(len(actions)))


def _mask_path(file: Any) -> str | None:
    """Return the path of the legal actions in a file of others, or None."""
    group = untrusted_hdf5.member(file, "infos")
    inside = find_mask_name(untrusted_hdf5.member_names(group) if group is not None else [])
    return f"infos/{inside}" if inside else find_mask_name(untrusted_hdf5.member_names(file))


def _legal_width(path: Path, mask: Any, rows: int, agents: int, highest: int) -> int:
    """Return the number of actions of a mask of legal actions, after checking its shape."""
    shape = mask.shape
    fits = shape[:-1] == (rows, agents) or (agents == 1 and shape[:-1] == (rows,))
    if not fits or shape[-1] <= highest:
        what = f"{mask.name.strip('/')} has shape {list(shape)}, which is not that of the legal "
        what += f"actions of {agents} agents in {rows} steps with {highest + 1} actions or more"
        raise foreign_error(path, what, "correct it, or leave it out of the file")
    return int(shape[-1])


def _count_legality(path: Path, flat: _Flat, rows: int) -> LegalityCount:
    counted = LegalityCount(flat.mask or "")
    if flat.mask is not None:
        for start, stop in row_ranges(rows):
            counted.add(_legal_actions(path, flat, start, stop), _actions(path, flat, start, stop))
        counted.check(path)
    return counted


def _legal_actions(path: Path, flat: _Flat, start: int, stop: int) -> BoolArray:
    """Return the legal actions by the file's mask, bool [n, N, A]."""
    name = flat.mask or ""
    values = flat.arrays[name][start:stop]
    shape = (stop - start, flat.spec.n_agents, flat.spec.action_count)
    return legal_actions(path, name, values).reshape(shape)


def _actions(path: Path, flat: _Flat, start: int, stop: int) -> IntArray:
    """Return the actions of every agent, int64 [n, N]."""
    values = flat.arrays["actions"][start:stop].reshape(stop - start, -1)
    if values.shape[1] > flat.spec.n_agents:  # one-hot, as _spec checked
        return np.asarray(values.argmax(axis=1)[:, None], np.int64)
    return discrete_actions(path, "its actions", values)


def _widths(path: Path, agents: int, width: int, options: ConvertOptions) -> tuple[int, ...]:
    """Return the number of joined features of every agent, by the user's environment."""
    has = f"the actions of {agents} agents and {width} observed features"
    if options.spec is None:
        advice = Remedy("give an environment or", "that says which features are whose", spec=...)
        raise foreign_error(path, f"it has {has}", advice)
    widths = options.spec.obs_widths
    if len(widths) != agents or sum(widths) != width:
        got = f"{len(widths)} agents and {sum(widths)} features, but the source has {has}"
        msg = f"the environment {options.spec.id!r} has {got}: give the one of the source"
        raise MismatchError(msg)
    return widths


def _own_infos(path: Path, file: Any, rows: int) -> dict[str, Any]:
    """Return the arrays of our exporter in ``infos``, by bare name."""
    group = untrusted_hdf5.member(file, "infos")
    own_names = (
        [n for n in untrusted_hdf5.member_names(group) if _is_own_array(n)]
        if group is not None
        else []
    )
    infos = {name: untrusted_hdf5.checked_dataset(group, name) for name in own_names}
    if any(len(values) != rows for values in infos.values()):
        raise foreign_error(path, "its infos have not one row for every step")
    return infos


def _is_own_array(name: str) -> bool:
    return f"steps/{name}" in RULES or name.startswith("embedding_")


def _blocks(path: Path, flat: _Flat, lengths: Array) -> Iterator[EpisodeBlock]:
    stops = np.cumsum(lengths)
    for first, last in episode_ranges(lengths):
        start, stop = int(stops[first] - lengths[first]), int(stops[last - 1])
        steps = _steps(path, flat, start, stop)
        final: dict[str, Array] = {}
        if "next_observations" in flat.arrays:
            after = flat.arrays["next_observations"][start:stop][stops[first:last] - 1 - start]
            final["obs"] = _split_by_agent(after, flat.spec)
        yield EpisodeBlock(steps=steps, final=final, episodes={"length": lengths[first:last]})


def _steps(path: Path, flat: _Flat, start: int, stop: int) -> dict[str, Array]:
    arrays, spec, rows = flat.arrays, flat.spec, stop - start
    exists = np.arange(spec.action_count) < np.array(spec.action_counts)[:, None]
    legal = np.broadcast_to(exists, (rows, *exists.shape))
    actions = _actions(path, flat, start, stop)
    if flat.mask is not None:
        legal = with_executed_legal(_legal_actions(path, flat, start, stop) & exists, actions)
    terminated = arrays["terminals"][start:stop].reshape(-1) != 0
    ends = [arrays[name][start:stop].reshape(-1) != 0 for name in _END_FLAGS if name in arrays]
    timeouts = ends[:1] if "timeouts" in arrays else []
    reward = arrays["rewards"][start:stop].reshape(rows, -1).astype(np.float32)
    steps = {
        "obs": _split_by_agent(arrays["observations"][start:stop], spec),
        "actions": actions.astype(np.int16),
        "available_actions": legal,
        "alive": np.ones((rows, spec.n_agents), np.bool_),
        "reward": np.ascontiguousarray(np.broadcast_to(reward, (rows, spec.n_agents))),
        "terminated": terminated,
        # An end that is no termination is a truncation; one that is both stays both.
        "truncated": np.any([*timeouts, *(e & ~terminated for e in ends), terminated & False], 0),
    }
    for name, info in flat.infos.items():
        values = info[start:stop]
        axes = RULES["steps/embedding" if name.startswith("embedding") else f"steps/{name}"].axes
        steps[name] = values[:, None] if values.ndim < len(axes) else values
    return steps


def _split_by_agent(observed: Array, spec: EnvironmentSpec) -> Array:
    """Return joined observations [n, O] by agent, padded, float32 [n, N, O]."""
    out = np.zeros((len(observed), spec.n_agents, spec.obs_width), np.float32)
    start = 0
    for n, width in enumerate(spec.obs_widths):
        out[:, n, :width] = observed[:, start : start + width]
        start += width
    return out


def _not_held(file: Any, flat: _Flat) -> Iterator[NotHeld]:
    group = untrusted_hdf5.member(file, "infos")
    info_names = untrusted_hdf5.member_names(group) if group is not None else []
    names = [name for name in untrusted_hdf5.member_names(file) if name not in _KNOWN]
    for name in (*names, *(f"infos/{name}" for name in info_names if name not in flat.infos)):
        if name == flat.mask:
            continue
        yield NotHeld(array=name, why="the expert buffer has no array of this meaning")


def _rounding_losses(arrays: dict[str, Any]) -> Iterator[NotHeld]:
    for name in ("observations", "rewards"):
        array = arrays[name]
        yield from rounding_losses(name, array.dtype)
        if array.dtype.kind in "iu" and array.dtype.itemsize == 4:
            parts = (array[start:stop] for start, stop in row_ranges(len(array)))
            if any(map(loses_precision, parts)):
                yield NotHeld(array=name, why=f"{array.dtype} values were rounded to float32")


def _notes(flat: _Flat, left: int) -> Iterator[str]:
    arrays, actions = flat.arrays, flat.arrays["actions"]
    if actions.ndim == 2 and actions.shape[1] > flat.spec.n_agents:
        yield "every row of the actions holds a single 1: its place is the action"
    elif actions.dtype.kind not in "iu":
        yield f"actions of type {actions.dtype} are whole numbers: they count as discrete"
    if flat.mask is not None:
        yield f"{flat.mask} says which actions are legal"
    elif "available_actions" not in flat.infos:
        yield "there are no legal actions: every action counts as legal"
    if not any(name in arrays for name in _END_FLAGS):
        yield "there are no timeouts: every end is a termination"
    if left:
        yield f"{left} steps after the last end of an episode were left out"
