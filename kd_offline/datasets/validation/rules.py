"""Rules of the values: of rows, of the episode table, and of the whole dataset.

Steps are checked on a range of rows at a time. :class:`DatasetTotals` collects what needs all rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kd_offline.datasets.format.chunks import all_finite
from kd_offline.datasets.format.layout import ACTION_SOURCES, MIXERS, MixerKind
from kd_offline.datasets.format.splits import IDENTITY, first_equal_row
from kd_offline.datasets.writing.statistics import Moments, count_actions, summarise
from kd_offline.schemas.dataset import DatasetManifest, ExpertRecord, Problem
from kd_offline.types import Array

# Sums of rewards are float64, but another writer may add them in another order.
RETURN_TOLERANCE = 1e-6

_TOLERANCE = 1e-6

# Rounding to float32 may make the logarithm of a probability of 1 slightly positive.
_LOGPROB_TOLERANCE = 1e-6
# Error of the logarithm if a writer computes in float32 with logits of about 1000.
_MIXTURE_TOLERANCE = 1e-4
# Relative error of sums and mixers in float32, in any order.
_MIXING_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class RowRange:
    """Arrays of one group by bare name, from row ``first`` on, without damaged arrays."""

    arrays: Mapping[str, Array]
    first: int
    manifest: DatasetManifest
    episode_bounds: Array | None = None  # int64 [E + 1], the first row of each episode and the end
    noise_levels: Array | None = None  # float32 [E], the noise level of each episode

    @property
    def rows(self) -> int:
        """Number of rows, 0 when every array is damaged."""
        return min((len(values) for values in self.arrays.values()), default=0)

    def has(self, *names: str) -> bool:
        """Tell whether all these arrays are here, undamaged."""
        return self.arrays.keys() >= set(names)

    def episodes(self) -> Array | None:
        """Return the episode of every row, int64 [rows], or None if the lengths are not known."""
        if self.episode_bounds is None:
            return None
        rows = np.arange(self.first, self.first + self.rows)
        return np.asarray(np.searchsorted(self.episode_bounds, rows, side="right") - 1)


Finding = tuple[str, Array, str]  # array, bool [rows, ...] that are wrong, what is wrong
Rule = Callable[[RowRange], Iterator[Finding]]


def check_steps(part: RowRange) -> Iterator[Problem]:
    """Yield the problems of some steps: one for each array and rule, with the first row."""
    return _findings("steps", part, _STEP_RULES)


def check_final(part: RowRange) -> Iterator[Problem]:
    """Yield the problems of some rows of ``final/*``, one row an episode."""
    return _findings("final", part, _FINAL_RULES)


def check_mask(part: RowRange) -> Iterator[Problem]:
    """Yield the problems of student masks; rows are agents, or episodes of all agents."""
    for name, mask in part.arrays.items():
        of_agents = mask.ndim == len("NO")
        unused = _padding_mask(np.array(part.manifest.environment.obs_widths), mask.shape[-1])
        bad = mask & (unused[part.first :][: len(mask)] if of_agents else unused)
        if bad.any():
            row = part.first + int(np.argmax(_rows_with_any(bad)))
            kind = "agent" if of_agents else "episode"
            what = "shows the student the padding of a narrower agent"
            yield Problem(where=f"masks/{name} {kind} {row}", what=what)


def _findings(group: str, part: RowRange, rules: Sequence[Rule]) -> Iterator[Problem]:
    for rule in rules:
        for name, bad, what in rule(part):
            if bad.any():
                rows = _rows_with_any(bad)
                row = part.first + int(np.argmax(rows))
                count = int(rows.sum())
                more = f" (and {count - 1} more rows)" if count > 1 else ""
                where = f"{group}/{name} row {row}{_episode_note(group, part, row)}"
                yield Problem(where=where, what=what + more)


def _episode_note(group: str, part: RowRange, row: int) -> str:
    if group == "final":
        return f" (episode {row})"
    if part.episode_bounds is None:
        return ""
    return f" (episode {int(np.searchsorted(part.episode_bounds, row, side='right')) - 1})"


def _finite(part: RowRange) -> Iterator[Finding]:
    for name, values in part.arrays.items():
        if not all_finite(values):
            yield name, ~np.isfinite(values), "holds a number that is not finite"


def _legal_actions(part: RowRange) -> Iterator[Finding]:
    if not part.has("actions", "available_actions", "alive"):
        return
    actions, alive = part.arrays["actions"], part.arrays["alive"]
    spec = part.manifest.environment
    idle = alive & ~part.arrays["available_actions"].any(axis=-1)
    yield "alive", idle, "an agent acts that has no legal action"
    outside = alive & ((actions < 0) | (actions >= np.array(spec.action_counts)))
    yield "actions", outside, "an agent has no such action"
    chosen = np.clip(actions, 0, spec.action_count - 1)[..., None].astype(np.intp)
    legal = np.take_along_axis(part.arrays["available_actions"], chosen, axis=-1)[..., 0]
    illegal = alive & ~legal & ~outside & ~idle
    yield "actions", illegal, "an agent took an action that was not available"


def _logprob(part: RowRange) -> Iterator[Finding]:
    if part.has("behaviour_logprob"):
        bad = part.arrays["behaviour_logprob"] > _LOGPROB_TOLERANCE
        yield "behaviour_logprob", bad, "the logarithm of a probability is positive"


def _behaviour_probability(part: RowRange) -> Iterator[Finding]:
    """Check ``behaviour_logprob`` of actions that the expert or noise chose.

    The probability of another policy cannot be computed from the file.
    """
    episodes = part.episodes()
    needed = ("actions", "available_actions", "alive", "logits", "behaviour_logprob")
    sampled = part.manifest.recording.behaviour == "sampled"
    if part.noise_levels is None or episodes is None or not sampled or not part.has(*needed):
        return
    actions, available = part.arrays["actions"], part.arrays["available_actions"]
    checked = part.arrays["alive"] & (actions >= 0) & (actions < available.shape[-1])
    if part.has("action_source"):
        checked = checked & (part.arrays["action_source"] < ACTION_SOURCES["other"])
    share = part.noise_levels[episodes][:, None] / np.float32(actions.shape[1])
    chosen = np.where(checked, actions, 0)
    with np.errstate(all="ignore"):  # other rules report values that are not finite or not legal
        taken, even = _probabilities(part.arrays["logits"], available, chosen)
        expected = np.log((1 - share) * taken + share * even)
        gap = np.abs(part.arrays["behaviour_logprob"] - expected)
        bad = checked & np.isfinite(expected) & (gap > _MIXTURE_TOLERANCE * (1 + np.abs(expected)))
    what = "does not follow from the logits, the legal actions and the episode's noise level"
    yield "behaviour_logprob", bad, what


def _probabilities(logits: Array, available: Array, actions: Array) -> tuple[Array, Array]:
    """Return the probabilities of ``actions`` [rows, N] under the expert and under uniform noise.

    Actions are the first axis here, because NumPy is slow along short last axes.
    """
    width = logits.shape[-1]
    legal = np.ascontiguousarray(available.reshape(-1, width).T)
    by_action = np.where(legal, logits.reshape(-1, width).T, np.float32(-np.inf))
    weights = np.exp(by_action - by_action.max(axis=0))
    taken = weights[actions.reshape(-1), np.arange(actions.size)] / weights.sum(axis=0)
    even = 1 / legal.sum(axis=0, dtype=np.float32)
    return taken.reshape(actions.shape), even.reshape(actions.shape)


def _mixing(part: RowRange) -> Iterator[Finding]:
    """Check what the mixers of all experts guarantee; of an unknown mixer nothing is known."""
    kinds = {_mixer_kind(expert) for expert in part.manifest.experts}
    if kinds <= {MixerKind.ADDITIVE, MixerKind.MONOTONE} and part.has("mixer_credit"):
        yield "mixer_credit", part.arrays["mixer_credit"] < 0, "an agent has a negative credit"
    if None not in kinds and part.has("q_tot", "q_tot_max"):
        total, best = part.arrays["q_tot"], part.arrays["q_tot_max"]
        above = total > best + _MIXING_TOLERANCE * (1 + np.abs(best))
        yield "q_tot", above, "is above q_tot_max, the value of the greedy actions"
    if kinds == {MixerKind.ADDITIVE}:
        yield from _additive_mixing(part)


def _additive_mixing(part: RowRange) -> Iterator[Finding]:
    """Check that the team's value is the sum of the agents' values."""
    needed = ("q_tot", "q_values", "mixer_credit", "actions", "alive")
    if not part.has(*needed):
        return
    credit, q = part.arrays["mixer_credit"], part.arrays["q_values"]
    unequal = (credit != 1) & ((credit != 0) | part.arrays["alive"])
    yield "mixer_credit", unequal, "a sum gives every agent that acts a credit of one"
    chosen = np.clip(part.arrays["actions"], 0, q.shape[-1] - 1)[..., None].astype(np.intp)
    taken = np.take_along_axis(q, chosen, axis=-1)[..., 0] * (credit == 1)
    gap = np.abs(taken.sum(-1) - part.arrays["q_tot"])
    wrong = gap > _MIXING_TOLERANCE * (1 + np.abs(taken).sum(-1))
    yield "q_tot", wrong, "is not the sum of the agents' q_values of the executed actions"


def _mixer_kind(expert: ExpertRecord) -> MixerKind | None:
    return MIXERS.get(str(expert.architecture.get("mixer")))


def _sources(part: RowRange) -> Iterator[Finding]:
    if part.has("action_source"):
        bad = part.arrays["action_source"] > max(ACTION_SOURCES.values())
        yield "action_source", bad, f"is not one of {ACTION_SOURCES}"


def _padding(part: RowRange) -> Iterator[Finding]:
    spec = part.manifest.environment
    padded = (
        ("obs", spec.obs_widths, "the padding of a narrower agent is not zero"),
        (
            "obs_full",
            spec.obs_widths if spec.full is None else spec.full.widths,
            "the padding of a narrower agent is not zero",
        ),
        ("available_actions", spec.action_counts, "offers an action that the agent does not have"),
    )
    for name, widths, what in padded:
        if part.has(name) and min(widths) < part.arrays[name].shape[-1]:
            unused = _padding_mask(np.array(widths), part.arrays[name].shape[-1])
            yield name, (part.arrays[name] != 0) & unused, what


def _ends(part: RowRange) -> Iterator[Finding]:
    if part.episode_bounds is None or not part.has("terminated", "truncated"):
        return
    ended = part.arrays["terminated"] | part.arrays["truncated"]
    last = np.zeros(part.rows, dtype=bool)
    last_rows = part.episode_bounds[1:] - 1 - part.first
    last[last_rows[(last_rows >= 0) & (last_rows < part.rows)]] = True
    what = "an episode ends here by its length, but is neither terminated nor truncated"
    yield "terminated", last & ~ended, what
    yield "terminated", ended & ~last, "an episode is terminated or truncated before its last step"


_FINAL_RULES: tuple[Rule, ...] = (_finite, _padding)
_STEP_RULES: tuple[Rule, ...] = (
    *_FINAL_RULES,
    _legal_actions,
    _logprob,
    _behaviour_probability,
    _mixing,
    _sources,
    _ends,
)


def _padding_mask(widths: Array, width: int) -> Array:
    """Return which entries of a row are padding, bool [N, width]."""
    return np.asarray(np.arange(width) >= widths[:, None])


def _rows_with_any(bad: Array) -> Array:
    """Return which rows hold a True, bool [rows]."""
    return np.asarray(bad.reshape(len(bad), -1).any(axis=1))


def check_episodes(manifest: DatasetManifest, table: Mapping[str, Array]) -> Iterator[Problem]:
    """Yield the problems of the episode table (bare names)."""
    yield from _length_problems(manifest, table)
    if "split" in table:
        yield from _split_problems(manifest, table)
    yield from _code_problems(manifest, table)
    for name, values in table.items():
        if values.dtype.kind == "f":
            is_finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
            yield from _first_problem(~np.asarray(is_finite), name, "is not finite")
    if "return" in table and "agent_return" in table:
        gap = np.abs(table["agent_return"].sum(axis=1) - table["return"])
        wrong = gap > RETURN_TOLERANCE * (1 + np.abs(table["return"]))
        yield from _first_problem(np.asarray(wrong), "return", "is not the sum over the agents")


def episode_bounds(table: Mapping[str, Array], rows: int) -> Array | None:
    """Return the first row of each episode and the end, int64 [E + 1]; None if they are wrong."""
    lengths = table.get("length")
    if lengths is None or lengths.min() < 1 or int(lengths.sum(dtype=np.int64)) != rows:
        return None
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _length_problems(manifest: DatasetManifest, table: Mapping[str, Array]) -> Iterator[Problem]:
    lengths = table.get("length")
    if lengths is None:
        return
    rows, limit = manifest.arrays["steps/reward"].shape[0], manifest.environment.episode_limit
    total = int(lengths.sum(dtype=np.int64))
    if total != rows:
        what = f"the lengths add up to {total}, but there are {rows} steps"
        yield Problem(where="episodes/length", what=what)
    yield from _first_problem(np.less(lengths, 1), "length", "is below one")
    what = f"is above the episode limit of {limit}"
    yield from _first_problem(np.greater(lengths, limit), "length", what)
    if "offset" in table:
        starts = np.cumsum(lengths, dtype=np.int64) - lengths
        wrong = np.asarray(table["offset"] != starts)
        yield from _first_problem(wrong, "offset", "is not the sum of the lengths before it")


def _split_problems(manifest: DatasetManifest, table: Mapping[str, Array]) -> Iterator[Problem]:
    codes, splits = table["split"], manifest.splits
    known = [split.code for split in splits.values()]
    yield from _first_problem(~np.isin(codes, known), "split", f"is not one of {known}")
    lengths = table.get("length")
    for name, split in splits.items():
        in_split = codes == split.code
        if (count := int(in_split.sum())) != split.episodes:
            what = f"the manifest says {split.episodes} episodes are {name}, but {count} are"
            yield Problem(where="episodes/split", what=what)
        elif lengths is not None and (steps := int(lengths[in_split].sum())) != split.steps:
            what = f"the manifest says {split.steps} steps are {name}, but {steps} are"
            yield Problem(where="episodes/split", what=what)
    if "seed" in table:
        alike = first_equal_row(*(table[name] for name in IDENTITY if name in table))
        leaks = codes != codes[alike]
        if leaks.any():
            twin = int(alike[int(np.argmax(leaks))])
            what = f"is the same episode as {twin} (seed, expert, noise), which is in another split"
            yield from _first_problem(leaks, "split", what)


def _code_problems(manifest: DatasetManifest, table: Mapping[str, Array]) -> Iterator[Problem]:
    if "expert_id" in table:
        known = [expert.id for expert in manifest.experts]
        wrong = ~np.isin(table["expert_id"], known)
        yield from _first_problem(wrong, "expert_id", f"is not one of the recorded experts {known}")
    if "won" in table:
        wrong = ~np.isin(table["won"], (-1, 0, 1))
        yield from _first_problem(
            wrong, "won", "is not 1 (won), 0 (not won) or -1 (no notion of it)"
        )
    if "noise_level" in table:
        noise_levels = [part.level for part in manifest.recording.noise] or [0.0]
        wrong = ~np.isin(table["noise_level"], np.array(noise_levels, np.float32))
        what = f"is not one of the levels of the recorded mixture {noise_levels}"
        yield from _first_problem(wrong, "noise_level", what)


def _first_problem(bad: Array, name: str, what: str) -> Iterator[Problem]:
    if bad.any():
        more = f" (and {int(bad.sum()) - 1} more episodes)" if bad.sum() > 1 else ""
        yield Problem(where=f"episodes/{name} episode {int(np.argmax(bad))}", what=what + more)


class DatasetTotals:
    """Collects returns, statistics and whether embeddings vary; needs all steps in order."""

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
        """Add an array (full name) to its moments; other threads may add other arrays."""
        if name in self._moments and all_finite(values):
            self._moments[name].add(values)

    def add(self, arrays: Mapping[str, Array], first: int) -> None:
        """Add a range of undamaged ``steps`` arrays (bare names), from row ``first`` on."""
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
        """Yield the problems of the whole dataset; ``table``: the episode table (bare names)."""
        yield from self._constant()
        complete = {"length", "return", "agent_return"} <= table.keys() and not self._incomplete
        if complete and all(all_finite(values) for values in table.values()):
            yield from self._wrong_returns(table["agent_return"])
            yield from self._wrong_statistics(table)

    def _add_rewards(self, reward: Array, first: int, bounds: Array) -> None:
        """Add rewards to the returns of the episodes of these rows."""
        last = first + len(reward)
        begin = int(np.searchsorted(bounds, first, side="right")) - 1
        end = int(np.searchsorted(bounds, last, side="left"))
        starts = np.maximum(bounds[begin:end] - first, 0)
        self._returns[begin:end] += np.add.reduceat(reward.astype(np.float64), starts, axis=0)

    def _compare(self, arrays: Mapping[str, Array], alive: Array) -> None:
        """Record for each agent whether its rows differ from its first one."""
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
        complete_moments = {
            n: m for n, m in self._moments.items() if m.count == math.prod(shapes[n])
        }
        computed = summarise(table, self._counts, complete_moments).model_dump()
        stated = self._manifest.statistics.model_dump()
        stated["values"] = {
            name: figures for name, figures in stated["values"].items() if name in complete_moments
        }
        for field, stated_value, computed_value in _differences(stated, computed, "statistics"):
            yield Problem(
                where="manifest.json",
                what=f"{field} is {stated_value}, but the data say {computed_value}",
            )


def _differences(stated: Any, computed: Any, field: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield field, stated and computed value of every number that differs beyond rounding."""
    if isinstance(stated, dict):
        for key in stated:
            yield from _differences(stated[key], computed[key], f"{field}.{key}")
    elif isinstance(stated, list | tuple) and len(stated) == len(computed):
        for index, pair in enumerate(zip(stated, computed, strict=True)):
            yield from _differences(*pair, f"{field}.{index}")
    elif stated != computed and not _nearly_equal(stated, computed):
        yield field, stated, computed


def _nearly_equal(stated: Any, computed: Any) -> bool:
    if not isinstance(stated, int | float) or not isinstance(computed, int | float):
        return False
    return abs(stated - computed) <= _TOLERANCE * max(1.0, abs(stated), abs(computed))
