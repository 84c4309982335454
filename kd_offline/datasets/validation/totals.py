"""What holds over all rows of a dataset together, gathered while they pass by."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from kd_offline.datasets.format.chunks import all_finite
from kd_offline.datasets.validation.episode_rules import RETURN_TOLERANCE
from kd_offline.datasets.writing.statistics import Moments, count_actions, summarise
from kd_offline.schemas.dataset import DatasetManifest, Problem
from kd_offline.types import Array

_TOLERANCE = 1e-6


class Totals:
    """Returns, statistics, and whether embeddings say anything; all steps must pass in order."""

    def __init__(self, manifest: DatasetManifest, bounds: Array | None) -> None:
        spec = manifest.environment
        self._manifest = manifest
        self._bounds = bounds
        self._moments = {
            name: Moments()
            for name in manifest.statistics.values
            if name in manifest.arrays and manifest.arrays[name].dtype == "float32"
        }
        self._counts = np.zeros((spec.n_agents, spec.action_count), np.int64)
        self._returns = np.zeros((0 if bounds is None else len(bounds) - 1, spec.n_agents))
        self._first: dict[str, Array] = {}  # [N, ...], of each agent's first step alive
        self._seen = np.zeros(spec.n_agents, bool)
        self._varies: dict[str, Array] = {}  # bool [N]
        self._incomplete = bounds is None

    def measure(self, name: str, values: Array) -> None:
        """Count in one array (full name); different arrays may be counted side by side."""
        if name in self._moments and all_finite(values):
            self._moments[name].add(values)

    def add(self, arrays: Mapping[str, Array], first: int) -> None:
        """Count in a range of all steps arrays (bare names) that are whole, from row ``first``."""
        if not {"actions", "alive", "reward", "obs"} <= arrays.keys():
            self._incomplete = True
            return
        alive = arrays["alive"]
        self._counts += count_actions(arrays["actions"], alive, self._counts.shape[1])
        if self._bounds is not None and all_finite(arrays["reward"]):
            self._add_rewards(arrays["reward"], first, self._bounds)
        names = [name for name in arrays if name == "obs" or name.startswith("embedding")]
        self._compare({name: arrays[name] for name in names}, alive)

    def problems(self, table: Mapping[str, Array]) -> Iterator[Problem]:
        """Yield what is wrong on the whole; ``table``: the episode table (bare names)."""
        yield from self._constant()
        whole = {"length", "return", "agent_return"} <= table.keys() and not self._incomplete
        if whole and all(all_finite(values) for values in table.values()):
            yield from self._wrong_returns(table["agent_return"])
            yield from self._wrong_statistics(table)

    def _add_rewards(self, reward: Array, first: int, bounds: Array) -> None:
        """Add to the return of every episode that these rows belong to."""
        last = first + len(reward)
        begin = int(np.searchsorted(bounds, first, side="right")) - 1
        end = int(np.searchsorted(bounds, last, side="left"))
        starts = np.maximum(bounds[begin:end] - first, 0)
        self._returns[begin:end] += np.add.reduceat(reward.astype(np.float64), starts, axis=0)

    def _compare(self, arrays: Mapping[str, Array], alive: Array) -> None:
        """Note of each agent whether its rows differ from its first one."""
        newly = alive.any(axis=0) & ~self._seen
        rows, agents = np.argmax(alive, axis=0)[newly], np.flatnonzero(newly)
        for name, values in arrays.items():
            if name not in self._first:
                self._first[name] = np.zeros(values.shape[1:], values.dtype)
                self._varies[name] = np.zeros(len(newly), bool)
            self._first[name][agents] = values[rows, agents]
            if not self._varies[name].all():
                differs = (values != self._first[name]).any(axis=-1) & alive
                self._varies[name] |= differs.any(axis=0)
        self._seen |= newly

    def _constant(self) -> Iterator[Problem]:
        agents = self._manifest.environment.agents
        for name, varies in self._varies.items():
            for agent in np.flatnonzero(self._varies["obs"] & ~varies):
                what = f"is the same in every step of {agents[agent]}, whose observations differ"
                yield Problem(where=f"steps/{name}", what=what)

    def _wrong_returns(self, stored: Array) -> Iterator[Problem]:
        gap = np.abs(stored - self._returns)
        bad = (gap > RETURN_TOLERANCE * (1 + np.abs(self._returns))).any(axis=1)
        if bad.any():
            where = f"episodes/agent_return episode {int(np.argmax(bad))}"
            yield Problem(where=where, what="is not the sum of the agent's rewards")

    def _wrong_statistics(self, table: Mapping[str, Array]) -> Iterator[Problem]:
        shapes = {name: spec.shape for name, spec in self._manifest.arrays.items()}
        whole = {n: m for n, m in self._moments.items() if m.count == math.prod(shapes[n])}
        found = summarise(table, self._counts, whole).model_dump()
        told = self._manifest.statistics.model_dump()
        told["values"] = {
            name: figures for name, figures in told["values"].items() if name in whole
        }
        for place, said, is_ in _differences(told, found, "statistics"):
            yield Problem(where="manifest.json", what=f"{place} is {said}, but the data say {is_}")


def _differences(told: Any, found: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield place and both values of every number that differs by more than rounding."""
    if isinstance(told, dict):
        for key in told:
            yield from _differences(told[key], found[key], f"{place}.{key}")
    elif isinstance(told, list | tuple) and len(told) == len(found):
        for index, pair in enumerate(zip(told, found, strict=True)):
            yield from _differences(*pair, f"{place}.{index}")
    elif told != found and not _close(told, found):
        yield place, told, found


def _close(told: Any, found: Any) -> bool:
    if not isinstance(told, int | float) or not isinstance(found, int | float):
        return False
    return abs(told - found) <= _TOLERANCE * max(1.0, abs(told), abs(found))
