"""What the values of a dataset must satisfy, checked on a range of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from kd_offline.datasets.chunks import all_finite
from kd_offline.datasets.layout import SOURCES
from kd_offline.schemas.dataset import DatasetManifest, Problem
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.types import Array

# Sums of rewards are kept in float64, but another writer may have added in another order.
_RETURN_TOLERANCE = 1e-6
# Rounding to float32 may lift the logarithm of a probability of one a little above zero.
_LOGPROB_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Part:
    """Steps arrays (bare names) of rows ``first`` and on; damaged arrays are left out."""

    arrays: Mapping[str, Array]
    first: int
    bounds: Array | None  # int64 [E + 1]
    spec: EnvironmentSpec

    @property
    def rows(self) -> int:
        """Number of rows, 0 when every array is damaged."""
        return min((len(values) for values in self.arrays.values()), default=0)


Finding = tuple[str, Array, str]  # array, bool [rows] that are wrong, what is wrong
Rule = Callable[[Part], Iterator[Finding]]


def check_steps(
    manifest: DatasetManifest, arrays: Mapping[str, Array], first: int, bounds: Array | None
) -> Iterator[Problem]:
    """Yield what is wrong with some rows: one problem an array and rule, naming the first row."""
    part = Part(arrays, first, bounds, manifest.environment)
    for rule in _RULES:
        for name, bad, what in rule(part):
            if bad.any():
                row = first + int(np.argmax(bad))
                count = int(bad.sum())
                more = f" (and {count - 1} more rows)" if count > 1 else ""
                yield Problem(
                    where=f"steps/{name} row {row}{_episode(bounds, row)}", what=what + more
                )


def check_episodes(manifest: DatasetManifest, table: Mapping[str, Array]) -> Iterator[Problem]:
    """Yield what is wrong with the episode table (bare names)."""
    lengths, rows = table.get("length"), manifest.arrays["steps/reward"].shape[0]
    if lengths is not None:
        yield from _check_lengths(lengths, rows, manifest.environment.episode_limit)
        starts = np.cumsum(lengths, dtype=np.int64) - lengths
        if "offset" in table:
            wrong = np.asarray(table["offset"] != starts)
            yield from _first(wrong, "offset", "is not the sum of the lengths before it")
    if "split" in table:
        codes = [split.code for split in manifest.splits.values()]
        yield from _first(~np.isin(table["split"], codes), "split", f"is not one of {codes}")
        for name, split in manifest.splits.items():
            count = int((table["split"] == split.code).sum())
            if count != split.episodes:
                what = f"the manifest says {split.episodes} episodes are {name}, but {count} are"
                yield Problem(where="episodes/split", what=what)
    if "expert_id" in table:
        known = [expert.id for expert in manifest.experts]
        wrong = ~np.isin(table["expert_id"], known)
        yield from _first(wrong, "expert_id", f"is not one of the recorded experts {known}")
    for name, values in table.items():
        if values.dtype.kind == "f":
            yield from _first(_rows(~np.isfinite(values)), name, "is not finite")
    if "return" in table and "agent_return" in table:
        gap = np.abs(table["agent_return"].sum(axis=1) - table["return"])
        wrong = gap > _RETURN_TOLERANCE * (1 + np.abs(table["return"]))
        yield from _first(wrong, "return", "is not the sum over the agents")


def _check_lengths(lengths: Array, rows: int, limit: int) -> Iterator[Problem]:
    total = int(lengths.sum(dtype=np.int64))
    if total != rows:
        what = f"the lengths add up to {total}, but there are {rows} steps"
        yield Problem(where="episodes/length", what=what)
    yield from _first(lengths < 1, "length", "is below one")
    yield from _first(lengths > limit, "length", f"is above the episode limit of {limit}")


def _first(bad: Array, name: str, what: str) -> Iterator[Problem]:
    if bad.any():
        yield Problem(where=f"episodes/{name} episode {int(np.argmax(bad))}", what=what)


def _finite(part: Part) -> Iterator[Finding]:
    for name, values in part.arrays.items():
        if not all_finite(values):
            bad = _rows(~np.isfinite(values))
            yield name, bad, "holds a number that is not finite"


def _legal_actions(part: Part) -> Iterator[Finding]:
    if not {"actions", "available_actions", "alive"} <= part.arrays.keys():
        return
    actions, alive = part.arrays["actions"], part.arrays["alive"]
    counts = np.array(part.spec.action_counts)
    outside = alive & ((actions < 0) | (actions >= counts))
    yield "actions", _rows(outside), "an agent has no such action"
    chosen = np.clip(actions, 0, part.spec.action_count - 1)[..., None].astype(np.intp)
    legal = np.take_along_axis(part.arrays["available_actions"], chosen, axis=-1)[..., 0]
    illegal = alive & ~legal & ~outside
    yield "actions", _rows(illegal), "an agent took an action that was not available"


def _logprob(part: Part) -> Iterator[Finding]:
    if "behaviour_logprob" in part.arrays:
        bad = part.arrays["behaviour_logprob"] > _LOGPROB_TOLERANCE
        yield "behaviour_logprob", _rows(bad), "the logarithm of a probability is positive"


def _sources(part: Part) -> Iterator[Finding]:
    if "action_source" in part.arrays:
        bad = part.arrays["action_source"] > max(SOURCES.values())
        yield "action_source", _rows(bad), f"is not one of {SOURCES}"


def _padding(part: Part) -> Iterator[Finding]:
    widths = np.array(part.spec.obs_widths)
    if "obs" in part.arrays and (widths < part.spec.obs_width).any():
        unused = np.arange(part.spec.obs_width) >= widths[:, None]
        bad = (part.arrays["obs"] != 0) & unused
        yield "obs", _rows(bad), "the padding of a narrower agent is not zero"


def _ends(part: Part) -> Iterator[Finding]:
    if part.bounds is None or not {"terminated", "truncated"} <= part.arrays.keys():
        return
    ended = part.arrays["terminated"] | part.arrays["truncated"]
    last = np.zeros(part.rows, dtype=bool)
    here = part.bounds[1:] - 1 - part.first
    last[here[(here >= 0) & (here < part.rows)]] = True
    what = "an episode ends here by its length, but is neither terminated nor truncated"
    yield "terminated", last & ~ended, what
    yield "terminated", ended & ~last, "an episode is terminated or truncated before its last step"


_RULES: tuple[Rule, ...] = (_finite, _legal_actions, _logprob, _sources, _padding, _ends)


def _rows(bad: Array) -> Array:
    """Return which rows hold a True, bool [rows]."""
    return np.asarray(bad.reshape(len(bad), -1).any(axis=1))


def _episode(bounds: Array | None, row: int) -> str:
    if bounds is None or row >= bounds[-1]:
        return ""
    return f" (episode {int(np.searchsorted(bounds, row, side='right')) - 1})"
