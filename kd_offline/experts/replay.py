"""Replay of the latest episodes of a value-based expert."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from kd_offline.errors import CheckpointError
from kd_offline.experts.views import Seen
from kd_offline.rollout.collect import Trajectories
from kd_offline.types import Array, BoolArray

_FULL = "obs_full"  # of views where actors see it
_PLANES = ("obs", "state", _FULL)
_VIEW = ("obs", "state", "available_actions", "alive")  # one more than there are steps
_STEP = ("actions", "reward", "terminated", "truncated")
_KEPT = {"actions": np.int16}  # smaller in memory than what environments take
_PREFIX = "replay."
_SMALL, _COLUMNS = ".small", ".small_columns"


@dataclass(frozen=True, slots=True)
class Planes:
    """Numbers whose columns that hold integers from 0 to 255 alone take one byte each.

    Boards are mostly of such columns. Every number comes back with the same bits.
    """

    small: Array  # uint8 [..., k]
    rest: Array  # [..., F - k]
    is_small: BoolArray  # [F]

    @classmethod
    def of(cls, values: Array) -> Self:
        """Return ``values``, floats [..., F]."""
        is_small = _small_columns(values)
        return cls(values[..., is_small].astype(np.uint8), values[..., ~is_small], is_small)

    def __len__(self) -> int:
        """Return the length of the first axis."""
        return len(self.rest)

    def values(self) -> Array:
        """Return the values that :meth:`of` was given."""
        if not self.is_small.any():
            return self.rest
        out = np.empty((*self.rest.shape[:-1], len(self.is_small)), self.rest.dtype)
        out[..., self.is_small], out[..., ~self.is_small] = self.small, self.rest
        return out


Episode = dict[str, Array | Planes]


@dataclass(frozen=True, slots=True)
class Batch:
    """``B`` whole episodes, zero-padded at the end; ``valid`` is True for real steps."""

    obs: Tensor  # [T + 1, B, N, O]
    state: Tensor  # [T + 1, B, S]
    available: Tensor  # bool [T + 1, B, N, A]
    alive: Tensor  # bool [T + 1, B, N]
    actions: Tensor  # int64 [T, B, N]
    reward: Tensor  # [T, B, N]
    terminated: Tensor  # bool [T, B]
    truncated: Tensor  # bool [T, B]
    valid: Tensor  # bool [T, B]
    full: Tensor | None = None  # [T + 1, B, N, F]

    @property
    def seen(self) -> Seen:
        """Inputs of the agents, leading axes [T + 1, B]."""
        return Seen(self.obs, self.state, self.full)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on ``device``."""
        arrays: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        moved: dict[str, Any] = {k: x if x is None else x.to(device) for k, x in arrays.items()}
        return Batch(**moved)


@dataclass(frozen=True, slots=True)
class Replay:
    """At most ``capacity`` episodes, oldest first; adding returns a new replay."""

    capacity: int
    episodes: tuple[Episode, ...] = ()

    def added(self, trajectories: Trajectories) -> Replay:
        """Return the replay with ``trajectories``, without the oldest episodes that do not fit."""
        fresh = [_episode(trajectories, b, int(n)) for b, n in enumerate(trajectories.length)]
        return Replay(self.capacity, (*self.episodes, *fresh)[-self.capacity :])

    def sample(self, count: int, rng: np.random.Generator) -> Batch:
        """Return ``count`` distinct episodes, all of them where there are fewer."""
        chosen = rng.permutation(len(self.episodes))[:count]
        return _padded([self.episodes[i] for i in chosen])

    def tensors(self) -> dict[str, Tensor]:
        """Return the episodes as named tensors, concatenated."""
        lengths = np.array([len(e["reward"]) for e in self.episodes], np.int64)
        out = {"length": lengths}
        for name in self.episodes[0] if self.episodes else ():
            out |= _joined(name, [episode[name] for episode in self.episodes])
        return {f"{_PREFIX}{name}": torch.from_numpy(values) for name, values in out.items()}

    def restored(self, tensors: Mapping[str, Tensor]) -> Replay:
        """Return the replay of these :meth:`tensors`.

        Raises
        ------
        CheckpointError
            The tensors hold none.
        """
        try:
            lengths = tensors[f"{_PREFIX}length"].numpy()
            parts = {
                name: _parted(name, tensors, lengths + (name not in _STEP))
                for name in (_names(f"{_PREFIX}{_FULL}" in tensors) if len(lengths) else ())
            }
        except KeyError as error:
            msg = "the training holds no replayed episodes: begin the training in another folder"
            raise CheckpointError(msg) from error
        episodes = (
            {name: values[i] for name, values in parts.items()} for i in range(len(lengths))
        )
        return Replay(self.capacity, tuple(episodes))


def _episode(trajectories: Trajectories, index: int, length: int) -> Episode:
    steps = trajectories.steps
    out: Episode = {}
    for name in _names(_FULL in steps):
        values = steps[name][:length, index]
        if name in _STEP:
            out[name] = values.astype(_KEPT.get(name, values.dtype))
            continue
        values = np.concatenate([values, trajectories.final[name][index][None]])
        out[name] = Planes.of(values) if name in _PLANES else values
    return out


def _names(full: bool) -> tuple[str, ...]:
    """Return the arrays of an episode."""
    return (*_VIEW, *([_FULL] if full else []), *_STEP)


def _small_columns(values: Array) -> BoolArray:
    """Return which columns hold nothing but integers from 0 to 255, and no negative zero."""
    fits = (values >= 0) & (values <= 255) & (values == np.floor(values)) & ~np.signbit(values)
    return np.asarray(fits.all(axis=tuple(range(values.ndim - 1))))


def _joined(name: str, parts: Sequence[Array | Planes]) -> dict[str, Array]:
    """Return arrays of all episodes, one after the other, by name.

    Columns that are small in every episode have an array of their own. No more than one episode is
    unpacked at a time.
    """
    if name not in _PLANES:
        return {name: np.concatenate([_values(part) for part in parts])}
    small = np.all([part.is_small for part in parts if isinstance(part, Planes)], axis=0)
    return {
        name: np.concatenate([_values(part)[..., ~small] for part in parts]),
        f"{name}{_SMALL}": np.concatenate(
            [_values(part)[..., small].astype(np.uint8) for part in parts]
        ),
        f"{name}{_COLUMNS}": small,
    }


def _parted(name: str, tensors: Mapping[str, Tensor], lengths: Array) -> Sequence[Array | Planes]:
    """Return the array ``name`` of every episode from what :func:`_joined` returned.

    Trainings of earlier versions hold planes as they are. Raises ``ValueError`` for arrays that do
    not fit together.
    """
    rest, bounds = tensors[f"{_PREFIX}{name}"].numpy(), np.cumsum(lengths)[:-1]
    if name not in _PLANES:
        return np.split(rest, bounds)
    if f"{_PREFIX}{name}{_COLUMNS}" not in tensors:
        return [Planes.of(values) for values in np.split(rest, bounds)]
    columns = tensors[f"{_PREFIX}{name}{_COLUMNS}"].numpy()
    small = tensors[f"{_PREFIX}{name}{_SMALL}"].numpy()
    sizes = (*rest.shape[:-1], np.count_nonzero(columns)), len(columns) - rest.shape[-1]
    if columns.dtype != bool or (small.shape, small.shape[-1]) != sizes:
        msg = f"the replayed {name} do not fit their columns"
        raise ValueError(msg)
    parts = zip(np.split(small, bounds), np.split(rest, bounds), strict=True)
    return [Planes(*part, columns) for part in parts]


def _values(part: Array | Planes) -> Array:
    return part.values() if isinstance(part, Planes) else part


def _padded(episodes: list[Episode]) -> Batch:
    lengths = np.array([len(e["reward"]) for e in episodes])
    longest = int(lengths.max())
    padded = {
        name: _stack([_values(e[name]) for e in episodes], longest + (name not in _STEP))
        for name in episodes[0]
    }
    return Batch(
        obs=padded["obs"],
        state=padded["state"],
        available=padded["available_actions"],
        alive=padded["alive"],
        actions=padded["actions"].long(),
        reward=padded["reward"],
        terminated=padded["terminated"],
        truncated=padded["truncated"],
        valid=torch.from_numpy(np.arange(longest)[:, None] < lengths),
        full=padded.get(_FULL),
    )


def _stack(parts: Sequence[Array], rows: int) -> Tensor:
    out = np.zeros((rows, len(parts), *parts[0].shape[1:]), parts[0].dtype)
    for b, episode in enumerate(parts):
        out[: len(episode), b] = episode
    return torch.from_numpy(out)
