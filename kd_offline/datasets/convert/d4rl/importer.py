"""Reading flat HDF5 in the manner of D4RL: one agent, or several where the environment is known."""

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
    Legality,
    flags_of,
    inexact,
    is_one_hot,
    legal_of,
    mask_among,
    numbers_of,
    with_executed,
)
from kd_offline.datasets.convert.inferred_metadata import (
    Found,
    full_mask,
    header_for,
    only,
    spec_of,
)
from kd_offline.datasets.convert.interchange import (
    Imported,
    Options,
    episode_groups,
    foreign,
    rounded,
    windows,
)
from kd_offline.datasets.format.layout import RULES
from kd_offline.datasets.writing.blocks import EpisodeBlock
from kd_offline.errors import MismatchError
from kd_offline.schemas.dataset import ExpertRecord
from kd_offline.schemas.dataset_outputs import NotHeld
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.types import Array, BoolArray, IntArray

DESCRIPTION = "metadata/kd_offline"
_FLAT = ("observations", "actions", "rewards", "terminals")
_ENDS = ("timeouts", "episode_terminals")
_KNOWN = {*_FLAT, *_ENDS, "next_observations", "infos", "metadata"}


@dataclass(frozen=True, slots=True)
class _Flat:
    """The checked arrays of a file, the environment, and which of our arrays are in ``infos``."""

    arrays: dict[str, Any]
    spec: EnvironmentSpec
    infos: dict[str, Any]
    mask: str | None = None  # where legal actions of a file of others lie


def recognise(path: Path) -> bool:
    """Tell whether ``path`` is an HDF5 file with D4RL's arrays."""
    if not untrusted_hdf5.is_hdf5(path):
        return False
    with untrusted_hdf5.opened(path) as file:
        return {"observations", "actions", "rewards", "terminals"} <= set(
            untrusted_hdf5.names(file)
        )


@contextmanager
def read(path: Path, options: Options) -> Iterator[Imported]:
    """Open a flat HDF5 file.

    Raises
    ------
    ForeignError
        It is damaged, or holds what an expert buffer cannot, such as continuous actions.
    """
    with untrusted_hdf5.opened(path) as file:
        arrays = _arrays(path, file)
        ended = _ended(path, arrays)
        stops = np.flatnonzero(ended) + 1
        if not len(stops):
            raise foreign(path, "no episode ends in it: terminals and timeouts are never true")
        lengths = np.diff(stops, prepend=0)
        described = _description(path, file)
        if described and options.spec is None:
            options = replace(options, spec=described[0])
        mask = None if described else _mask(file)
        if mask is not None:
            arrays[mask] = untrusted_hdf5.dataset(file, mask)
        spec = _spec(path, arrays, lengths, options, mask)
        infos = _infos(path, file, len(ended)) if described else {}
        flat = _Flat(arrays, spec, infos, mask)
        legality = _legality(path, flat, int(stops[-1]))
        yield Imported(
            header=header_for(spec, path, "d4rl", options, experts=_single(described)),
            blocks=_blocks(path, flat, lengths),
            steps=int(stops[-1]),
            masks=full_mask(spec),
            not_held=(*_not_held(file, flat), *_rounded(arrays), *legality.not_held()),
            notes=tuple(_notes(flat, len(ended) - int(stops[-1]))),
        )


def _arrays(path: Path, file: Any) -> dict[str, Any]:
    names = [*_FLAT, *(n for n in (*_ENDS, "next_observations") if n in untrusted_hdf5.names(file))]
    arrays = {name: untrusted_hdf5.dataset(file, name) for name in names}
    rows = len(arrays["observations"]) if arrays["observations"].ndim == 2 else 0
    if rows == 0 or any(len(found) != rows for found in arrays.values() if found.ndim):
        shapes = ", ".join(f"{name} {list(found.shape)}" for name, found in arrays.items())
        raise foreign(path, f"its arrays have not one row for every step ({shapes})")
    actions = arrays["actions"]
    if actions.ndim > 2:
        what = f"its actions have {actions.ndim} axes ({actions.dtype} {list(actions.shape)})"
        raise foreign(path, what, "only one discrete action of every agent is read")
    after = arrays.get("next_observations")
    if after is not None and after.shape != arrays["observations"].shape:
        raise foreign(path, "next_observations are not shaped as observations are")
    return arrays


def _ended(path: Path, arrays: dict[str, Any]) -> Array:
    flags = [
        flags_of(
            path, name, untrusted_hdf5.whole(arrays[name]).reshape(len(arrays["observations"]), -1)
        )
        for name in ("terminals", *_ENDS)
        if name in arrays
    ]
    if any(values.shape[1] != 1 for values in flags):
        raise foreign(path, "its terminals and timeouts are not one of every step")
    return np.asarray(np.any(flags, axis=0)).reshape(-1)


def _description(path: Path, file: Any) -> tuple[EnvironmentSpec, tuple[ExpertRecord, ...]] | None:
    """Return what we wrote about environment and experts, if the file is ours."""
    text = untrusted_hdf5.text(file, DESCRIPTION)
    if text is None:
        return None
    try:
        document = json.loads(text)
        spec = EnvironmentSpec.model_validate(document["environment"])
        experts = tuple(ExpertRecord.model_validate(expert) for expert in document["experts"])
        agent = document["agent"]
    except (ValidationError, ValueError, LookupError, TypeError, RecursionError):
        raise foreign(path, f"{DESCRIPTION} in it is damaged") from None
    return (spec if agent is None else only(spec, str(agent))), experts


def _single(
    described: tuple[EnvironmentSpec, tuple[ExpertRecord, ...]] | None,
) -> tuple[ExpertRecord, ...]:
    """Return the expert, if there was one: which of several acted when is not in the file."""
    experts = described[1] if described else ()
    return experts if len(experts) == 1 else ()


def _spec(
    path: Path, arrays: dict[str, Any], lengths: Array, options: Options, mask: str | None
) -> EnvironmentSpec:
    width, actions = arrays["observations"].shape[1], arrays["actions"]
    agents = actions.shape[1] if actions.ndim == 2 else 1
    single = options.spec is None or options.spec.n_agents == 1
    if agents > 1 and single and _one_hot(actions):
        agents, high = 1, actions.shape[1] - 1
    elif agents > 1 and actions.dtype.kind == "f" and options.spec is None:
        what = f"its actions are continuous ({actions.dtype} {list(actions.shape)})"
        raise foreign(path, what, "only discrete actions can be distilled")
    else:
        parts = [
            numbers_of(path, "its actions", actions[start:stop])
            for start, stop in windows(len(actions))
        ]
        low, high = min(int(p.min()) for p in parts), max(int(p.max()) for p in parts)
        if low < 0:
            raise foreign(path, f"an action is {low}, below zero")
    if arrays["rewards"].ndim > 2 or arrays["rewards"].size not in (
        len(actions),
        len(actions) * agents,
    ):
        raise foreign(path, f"its rewards have shape {list(arrays['rewards'].shape)}")
    widths: tuple[int, ...] = (width,)
    if agents > 1:
        widths = _widths(path, agents, width, options)
    count = high + 1
    if mask is not None:
        count = _legal_width(path, arrays[mask], len(actions), agents, high)
    found = Found(
        obs_widths=widths,
        action_counts=[count] * agents,
        longest=int(lengths.max()),
        exact=mask is not None,
        name=path.stem,
    )
    return spec_of(found, options)


def _one_hot(actions: Any) -> bool:
    return all(is_one_hot(actions[start:stop]) for start, stop in windows(len(actions)))


def _mask(file: Any) -> str | None:
    """Return where legal actions lie in a file of others: in ``infos``, or beside it."""
    group = untrusted_hdf5.member(file, "infos")
    inside = mask_among(untrusted_hdf5.names(group) if group is not None else [])
    return f"infos/{inside}" if inside else mask_among(untrusted_hdf5.names(file))


def _legal_width(path: Path, found: Any, rows: int, agents: int, highest: int) -> int:
    """Return how many actions a mask of legal actions is wide, if its shape is that of one."""
    shape = found.shape
    fits = shape[:-1] == (rows, agents) or (agents == 1 and shape[:-1] == (rows,))
    if not fits or shape[-1] <= highest:
        what = f"{found.name.strip('/')} has shape {list(shape)}, which is not that of the legal "
        what += f"actions of {agents} agents in {rows} steps with {highest + 1} actions or more"
        raise foreign(path, what, "correct it, or leave it out of the file")
    return int(shape[-1])


def _legality(path: Path, flat: _Flat, rows: int) -> Legality:
    counted = Legality(flat.mask or "")
    if flat.mask is not None:
        for start, stop in windows(rows):
            counted.add(_legal(path, flat, start, stop), _actions(path, flat, start, stop))
        counted.check(path)
    return counted


def _legal(path: Path, flat: _Flat, start: int, stop: int) -> BoolArray:
    """Return what the file says is legal, bool [n, N, A]."""
    name = flat.mask or ""
    values = flat.arrays[name][start:stop]
    shape = (stop - start, flat.spec.n_agents, flat.spec.action_count)
    return legal_of(path, name, values).reshape(shape)


def _actions(path: Path, flat: _Flat, start: int, stop: int) -> IntArray:
    """Return the actions of every agent, int64 [n, N]."""
    values = flat.arrays["actions"][start:stop].reshape(stop - start, -1)
    if values.shape[1] > flat.spec.n_agents:  # one-hot, as was seen before
        return np.asarray(values.argmax(axis=1)[:, None], np.int64)
    return numbers_of(path, "its actions", values)


def _widths(path: Path, agents: int, width: int, options: Options) -> tuple[int, ...]:
    """Return how many of the joined features every agent has, which only the user can know."""
    has = f"the actions of {agents} agents and {width} observed features"
    if options.spec is None:
        advice = "give an environment or --spec that says which features are whose"
        raise foreign(path, f"it has {has}", advice)
    widths = options.spec.obs_widths
    if len(widths) != agents or sum(widths) != width:
        got = f"{len(widths)} agents and {sum(widths)} features, but the source has {has}"
        msg = f"the environment {options.spec.id!r} has {got}: give the one of the source"
        raise MismatchError(msg)
    return widths


def _infos(path: Path, file: Any, rows: int) -> dict[str, Any]:
    """Return the arrays of ours in ``infos``, by their bare names."""
    group = untrusted_hdf5.member(file, "infos")
    ours = [n for n in untrusted_hdf5.names(group) if _is_ours(n)] if group is not None else []
    found = {name: untrusted_hdf5.dataset(group, name) for name in ours}
    if any(len(values) != rows for values in found.values()):
        raise foreign(path, "its infos have not one row for every step")
    return found


def _is_ours(name: str) -> bool:
    return f"steps/{name}" in RULES or name.startswith("embedding_")


def _blocks(path: Path, flat: _Flat, lengths: Array) -> Iterator[EpisodeBlock]:
    stops = np.cumsum(lengths)
    for first, last in episode_groups(lengths):
        start, stop = int(stops[first] - lengths[first]), int(stops[last - 1])
        steps = _steps(path, flat, start, stop)
        final: dict[str, Array] = {}
        if "next_observations" in flat.arrays:
            after = flat.arrays["next_observations"][start:stop][stops[first:last] - 1 - start]
            final["obs"] = _divided(after, flat.spec)
        yield EpisodeBlock(steps=steps, final=final, episodes={"length": lengths[first:last]})


def _steps(path: Path, flat: _Flat, start: int, stop: int) -> dict[str, Array]:
    arrays, spec, rows = flat.arrays, flat.spec, stop - start
    exists = np.arange(spec.action_count) < np.array(spec.action_counts)[:, None]
    legal = np.broadcast_to(exists, (rows, *exists.shape))
    actions = _actions(path, flat, start, stop)
    if flat.mask is not None:
        legal = with_executed(_legal(path, flat, start, stop) & exists, actions)
    terminated = arrays["terminals"][start:stop].reshape(-1) != 0
    ends = [arrays[name][start:stop].reshape(-1) != 0 for name in _ENDS if name in arrays]
    timeouts = ends[:1] if "timeouts" in arrays else []
    reward = arrays["rewards"][start:stop].reshape(rows, -1).astype(np.float32)
    steps = {
        "obs": _divided(arrays["observations"][start:stop], spec),
        "actions": actions.astype(np.int16),
        "available_actions": legal,
        "alive": np.ones((rows, spec.n_agents), np.bool_),
        "reward": np.ascontiguousarray(np.broadcast_to(reward, (rows, spec.n_agents))),
        "terminated": terminated,
        # An end that is neither is one by a limit; one that is both stays both.
        "truncated": np.any([*timeouts, *(e & ~terminated for e in ends), terminated & False], 0),
    }
    for name, found in flat.infos.items():
        values = found[start:stop]
        axes = RULES["steps/embedding" if name.startswith("embedding") else f"steps/{name}"].axes
        steps[name] = values[:, None] if values.ndim < len(axes) else values
    return steps


def _divided(observed: Array, spec: EnvironmentSpec) -> Array:
    """Return joined observations [n, O] as those of every agent, padded, float32 [n, N, O]."""
    out = np.zeros((len(observed), spec.n_agents, spec.obs_width), np.float32)
    start = 0
    for n, width in enumerate(spec.obs_widths):
        out[:, n, :width] = observed[:, start : start + width]
        start += width
    return out


def _not_held(file: Any, flat: _Flat) -> Iterator[NotHeld]:
    group = untrusted_hdf5.member(file, "infos")
    theirs = untrusted_hdf5.names(group) if group is not None else []
    names = [name for name in untrusted_hdf5.names(file) if name not in _KNOWN]
    for name in (*names, *(f"infos/{name}" for name in theirs if name not in flat.infos)):
        if name == flat.mask:
            continue
        yield NotHeld(array=name, why="the expert buffer has no array of this meaning")


def _rounded(arrays: dict[str, Any]) -> Iterator[NotHeld]:
    for name in ("observations", "rewards"):
        found = arrays[name]
        yield from rounded(name, found.dtype)
        if found.dtype.kind in "iu" and found.dtype.itemsize == 4:
            parts = (found[start:stop] for start, stop in windows(len(found)))
            if any(map(inexact, parts)):
                yield NotHeld(array=name, why=f"{found.dtype} values were rounded to float32")


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
    if not any(name in arrays for name in _ENDS):
        yield "there are no timeouts: every end is a termination"
    if left:
        yield f"{left} steps after the last end of an episode were left out"
