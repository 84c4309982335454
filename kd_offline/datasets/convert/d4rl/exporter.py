"""Export to flat HDF5 in the layout of D4RL: one row a step, one agent or all joined."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kd_offline.datasets.convert.d4rl.importer import DESCRIPTION
from kd_offline.datasets.convert.hdf5_writing import create_hdf5
from kd_offline.datasets.convert.interchange import (
    ConvertOptions,
    agent_index,
    row_ranges,
    team_reward,
)
from kd_offline.datasets.format.layout import FULL
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.tracking.base import Observer
from kd_offline.types import Array

CANNOT_HOLD: dict[str, str] = {
    "manifest": "of its descriptions only the environment and the experts are kept",
    "masks/*": "D4RL has no student masks",
    "*/obs_full": "D4RL has one observation of an agent",
    **dict.fromkeys(
        (f"final/{n}" for n in ("state", "available_actions", "alive", "value", "q_tot_max")),
        "of what follows the last step D4RL keeps the observation only",
    ),
    **dict.fromkeys(
        (f"episodes/{n}" for n in ("seed", "won", "noise_level", "expert_id", "split")),
        "D4RL has one row a step and none an episode",
    ),
}
_TAKEN = ("obs", "actions", "terminated", "truncated")
_BY_ACTION = ("available_actions", "logits", "q_values")
_OF_TEAM = ("q_tot", "q_tot_max", "mixer_credit")  # not exported for one agent alone


def write(
    buffer: ExpertBuffer, path: Path, options: ConvertOptions, observer: Observer
) -> list[str]:
    """Write one agent, or all with joined observations and one column of actions each."""
    view = _View(buffer, agent_index(buffer.spec, options.agent))
    both = False
    with create_hdf5(path) as file:
        description = json.dumps(_description(view)).encode()
        file.create_dataset(DESCRIPTION, data=np.frombuffer(description, np.uint8))
        for start, stop in row_ranges(buffer.n_steps):
            rows = dict(view.rows(start, stop))
            for name, values in rows.items():
                _append(file, name, values, buffer.n_steps, start)
            both |= bool((rows["terminals"] & buffer.read("steps/truncated", start, stop)).any())
            observer.progress(stop, buffer.n_steps, "steps")
    return list(_notes(view, both))


@dataclass(frozen=True, slots=True)
class _View:
    """What is exported: agent ``n`` of a dataset, or all agents if it is None."""

    buffer: ExpertBuffer
    n: int | None

    def rows(self, start: int, stop: int) -> Iterator[tuple[str, Array]]:
        """Yield the name and the values [n, ...] of every array."""
        held = (n for n in self.buffer.names if n.startswith("steps/") and n not in FULL)
        names = [name.removeprefix("steps/") for name in held]
        steps = {name: self.buffer.read(f"steps/{name}", start, stop) for name in names}
        terminated, reward = steps["terminated"], steps["reward"]
        observed = self._observations(steps["obs"])
        agent_reward = (
            team_reward(self.buffer.spec, reward) if self.n is None else reward[:, self.n]
        )
        actions = steps["actions"] if self.n is None else steps["actions"][:, self.n]
        yield "observations", observed
        yield "actions", actions.astype(np.int64)
        yield "rewards", agent_reward.astype(np.float32)
        yield "terminals", terminated
        yield "timeouts", steps["truncated"] & ~terminated
        yield "episode_terminals", steps["truncated"] | terminated  # d3rlpy reads this
        if self.buffer.has("final/obs"):
            yield "next_observations", self._next(observed, steps, start, stop)
        for name in names:
            if name not in _TAKEN and (self.n is None or name not in _OF_TEAM):
                yield f"infos/{name}", self._of_agent(name, steps[name])

    def _observations(self, obs: Array) -> Array:
        """Return observations [n, O] without padding, joined over several agents."""
        widths = self.buffer.spec.obs_widths
        if self.n is not None:
            return obs[:, self.n, : widths[self.n]]
        return np.concatenate([obs[:, k, :width] for k, width in enumerate(widths)], axis=1)

    def _next(self, observed: Array, steps: dict[str, Array], start: int, stop: int) -> Array:
        """Return the observation after each step, [n, O]."""
        after = np.zeros_like(observed)
        after[:-1] = observed[1:]
        ended = steps["terminated"] | steps["truncated"]
        if not ended[-1]:
            after[-1:] = self._observations(self.buffer.read("steps/obs", stop, stop + 1))
        lengths = np.cumsum(self.buffer.episodes("length"))
        first, last = np.searchsorted(lengths, (start, stop), side="right")
        if last > first:
            final = self.buffer.read("final/obs", int(first), int(last))
            after[ended] = self._observations(final)
        return after

    def _of_agent(self, name: str, values: Array) -> Array:
        if self.n is None or name == "state":
            return values
        width = self.buffer.spec.action_counts[self.n] if name in _BY_ACTION else None
        return values[:, self.n, :width] if width else values[:, self.n]


def _append(file: Any, name: str, values: Array, total: int, start: int) -> None:
    if name not in file:
        row = max(1, values[:1].nbytes)
        file.create_dataset(
            name,
            shape=(total, *values.shape[1:]),
            dtype=values.dtype,
            chunks=(min(total, max(64, (1 << 20) // row)), *values.shape[1:]),
            compression="gzip",
            fletcher32=True,
        )
    file[name][start : start + len(values)] = values


def _description(view: _View) -> dict[str, Any]:
    manifest = view.buffer.manifest
    return {
        "environment": manifest.environment.local.model_dump(mode="json"),
        "experts": [expert.model_dump(mode="json") for expert in manifest.experts],
        "agent": None if view.n is None else manifest.environment.agents[view.n],
        "id": manifest.id,
    }


def _notes(view: _View, both: bool) -> Iterator[str]:
    if view.n is None:
        side = next(iter(view.buffer.spec.sides))
        yield f"rewards is the mean over the agents of side {side}; infos/reward has all of them"
    if both:
        yield "steps that were both terminated and truncated are terminals, not timeouts"
