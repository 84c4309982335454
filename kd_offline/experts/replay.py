"""Replay of the latest episodes of a value-based expert."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from kd_offline.errors import CheckpointError
from kd_offline.rollout.collect import Trajectories
from kd_offline.types import Array

Episode = dict[str, Array]
_VIEW = ("obs", "state", "available_actions", "alive")  # one more than there are steps
_STEP = ("actions", "reward", "terminated", "truncated")
_KEPT = {"actions": np.int16}  # smaller in memory than what environments take
_PREFIX = "replay."


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

    def to(self, device: torch.device) -> Batch:
        """Return the batch on ``device``."""
        return Batch(*(getattr(self, each.name).to(device) for each in fields(self)))


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
        out = {f"{_PREFIX}length": torch.from_numpy(lengths)}
        for name in (*_VIEW, *_STEP) if self.episodes else ():
            joined = np.concatenate([e[name] for e in self.episodes])
            out[f"{_PREFIX}{name}"] = torch.from_numpy(joined)
        return out

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
                name: _split(tensors[f"{_PREFIX}{name}"].numpy(), lengths + (name in _VIEW))
                for name in ((*_VIEW, *_STEP) if len(lengths) else ())
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
    out = {}
    for name in _VIEW:
        last = trajectories.final[name][index][None]
        out[name] = np.concatenate([steps[name][:length, index], last])
    for name in _STEP:
        out[name] = steps[name][:length, index].astype(_KEPT.get(name, steps[name].dtype))
    return out


def _split(values: Array, lengths: Array) -> list[Array]:
    return np.split(values, np.cumsum(lengths)[:-1])


def _padded(episodes: list[Episode]) -> Batch:
    lengths = np.array([len(e["reward"]) for e in episodes])
    longest = int(lengths.max())
    padded = {
        name: _stack([e[name] for e in episodes], longest + (name in _VIEW))
        for name in (*_VIEW, *_STEP)
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
    )


def _stack(parts: Sequence[Array], rows: int) -> Tensor:
    out = np.zeros((rows, len(parts), *parts[0].shape[1:]), parts[0].dtype)
    for b, episode in enumerate(parts):
        out[: len(episode), b] = episode
    return torch.from_numpy(out)
