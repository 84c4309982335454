"""Sources of a dataset, and the decisions of every agent in some of their episodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from kd_offline import distributions
from kd_offline.datasets.format.layout import ACTION_SOURCES
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.distributions.base import Played
from kd_offline.seeding import generator
from kd_offline.types import Array, BoolArray, FloatArray, IntArray

SOURCES = 20
"""Parts that the episodes of an expert are divided into, at most."""

LEAST_EPISODES = 25
"""Episodes of a part, at least."""

MOST_DECISIONS = 600_000
"""Decisions that are read of a dataset; of each part the same share of its episodes."""

UNLIKELY = 10.0
"""An action counts as unlikely if an even choice would take it this many times as often."""

_WIDEST = 192  # columns of a context that are kept as they are
_PART_STEPS = 8192  # that are read at once
_NOISE_GROUPS = 4
_READ = ("obs", "logits", "actions", "available_actions", "alive")
_OPTIONAL = ("embedding", "q_values", "action_source")


@dataclass(frozen=True, slots=True)
class Source:
    """Consecutive episodes of one expert, ``first`` to ``stop``, and those of them that are read.

    Merged datasets and shards lie one after the other, so whoever poisons one of them poisons few
    such parts.
    """

    expert: int
    first: int
    stop: int
    episodes: IntArray


@dataclass(frozen=True, slots=True)
class Decisions:
    """Decisions of one agent: it is alive and has several legal actions."""

    obs: Array  # [D, O], its own width
    context: Array  # float32 [D, C]: what it saw and did until now
    embedding: Array | None  # float32 [D, H], as recorded
    outputs: Array  # float32 [D, A]: q_values where there are any, else logits
    label: IntArray  # [D], the most probable action
    policy: FloatArray  # [D, A], log probabilities; -inf of illegal actions
    legal: BoolArray  # [D, A]
    taken: FloatArray  # [D], probability of the executed action; NaN where another chose it
    even: FloatArray  # [D], its probability among the legal ones
    unlikely: FloatArray  # [D], probability under the policy of any unlikely action
    episode: IntArray  # [D], index in the dataset
    step: IntArray  # [D], within the episode
    greedy: BoolArray  # [D], the executed action is the most probable one, up to rounding


def sources(buffer: ExpertBuffer, seed: int = 0) -> list[Source]:
    """Return the parts of the dataset that are compared, and the episodes of each that are read.

    Of a large part they are consecutive ones from a drawn place on, since scattered ones would need
    all chunks.
    """
    steps = max(1, MOST_DECISIONS // buffer.spec.n_agents)
    share = min(1.0, steps / buffer.n_steps)
    expert_ids = np.zeros(buffer.n_episodes, np.int64)
    if buffer.has("episodes/expert_id"):
        expert_ids = buffer.episodes("expert_id").astype(np.int64)
    result = []
    for expert in np.unique(expert_ids).tolist():
        episodes = np.flatnonzero(expert_ids == expert)
        parts = int(np.clip(len(episodes) // LEAST_EPISODES, 1, SOURCES))
        for number, part in enumerate(np.array_split(episodes, parts)):
            count = max(1, round(share * len(part)))
            rng = generator(seed, "audit", expert, number)
            start = int(rng.integers(0, len(part) - count + 1))
            chosen = part[start : start + count]
            result.append(Source(expert, int(part[0]), int(part[-1]) + 1, chosen))
    return result


def recorded_alike(buffer: ExpertBuffer, episodes: IntArray, others_acted: BoolArray) -> IntArray:
    """Return a group of every episode; those of one group were recorded in the same way.

    They have the same level of noise, and another policy took part or did not. Without that,
    sources that were recorded with more noise would differ from the others by what they visit.
    """
    group = others_acted.astype(np.int64)
    if buffer.has("episodes/noise_level"):
        levels = buffer.episodes("noise_level")
        known = np.unique(levels)
        if len(known) > 2 * _NOISE_GROUPS:
            known = np.quantile(levels, np.arange(1, _NOISE_GROUPS) / _NOISE_GROUPS)
        group += 2 * np.searchsorted(known, levels[episodes])
    return group


class Reader:
    """Reads the decisions of chosen episodes, by agent."""

    def __init__(self, buffer: ExpertBuffer) -> None:
        self.buffer = buffer
        self.actions: type[Played] = distributions.played(buffer.spec)
        names = [*_READ, *(name for name in _OPTIONAL if buffer.has(f"steps/{name}"))]
        self._names = [f"steps/{name}" for name in names]
        self.behaviour = buffer.manifest.recording.behaviour
        self._last: tuple[IntArray, list[Decisions]] | None = None

    def observations(
        self, episodes: IntArray, agents: Sequence[int]
    ) -> Iterator[tuple[int, Array, IntArray]]:
        """Yield what some agents observed at their decisions, and in which episode.

        Each is (agent, float32 [D, O], int64 [D]), some of the ascending ``episodes`` at a time.
        """
        names = [f"steps/{name}" for name in ("obs", "actions", "available_actions", "alive")]
        for part in self._parts(episodes):
            loaded = self.buffer.load(names, part)
            arrays = {name.removeprefix("steps/"): values for name, values in loaded.items()}
            episode = np.repeat(part, self.buffer.episodes("length")[part])
            for agent in agents:
                counted = self._counted(arrays, agent)
                yield agent, arrays["obs"][counted, agent], episode[counted]

    def others_acted(self, episodes: IntArray) -> BoolArray:
        """Return in which of the ascending ``episodes`` another policy took part, bool [e]."""
        name = "steps/action_source"
        if not self.buffer.has(name):
            return np.zeros(len(episodes), bool)
        found = []
        for part in self._parts(episodes):
            lengths = self.buffer.episodes("length")[part].astype(np.int64)
            other = (self.buffer.load([name], part)[name] == ACTION_SOURCES["other"]).any(axis=1)
            found.append(np.logical_or.reduceat(other, np.cumsum(lengths) - lengths))
        return np.concatenate(found)

    def by_source(self, parts: Sequence[Source]) -> Iterator[tuple[int, list[Decisions]]]:
        """Yield (index of the source, decisions by agent), the parts of a source together.

        Small sources share chunks, so they are read together; large ones come in several parts.
        """
        episodes = np.concatenate([source.episodes for source in parts])
        number = np.repeat(np.arange(len(parts)), [len(source.episodes) for source in parts])
        first = 0
        for part in self._parts(episodes):
            of_part = number[first : first + len(part)]
            first += len(part)
            decisions = self._read(part)
            for source in np.unique(of_part).tolist():
                own = part[of_part == source]
                yield source, [_between(each, own[0], own[-1]) for each in decisions]

    def _parts(self, episodes: IntArray) -> Iterator[IntArray]:
        """Yield the ascending ``episodes``, as many at a time as memory should hold."""
        lengths = self.buffer.episodes("length")[episodes].astype(np.int64)
        part = (np.cumsum(lengths) - 1) // _PART_STEPS
        for number in np.unique(part):
            yield episodes[part == number]

    def _read(self, episodes: IntArray) -> list[Decisions]:
        """Return the decisions of every agent in the given episodes, ascending.

        The last ones are kept: a small dataset is read once, however often it is gone over.
        """
        if self._last is not None and np.array_equal(self._last[0], episodes):
            return self._last[1]
        loaded = self.buffer.load(self._names, episodes)
        arrays = {name.removeprefix("steps/"): values for name, values in loaded.items()}
        lengths = self.buffer.episodes("length")[episodes].astype(np.int64)
        episode = np.repeat(episodes, lengths)
        step = np.arange(len(episode)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        agents = range(self.buffer.spec.n_agents)
        decisions = [self._of_agent(arrays, agent, episode, step) for agent in agents]
        self._last = (episodes, decisions)
        return decisions

    def _of_agent(
        self, arrays: dict[str, Array], agent: int, episode: IntArray, step: IntArray
    ) -> Decisions:
        spec = self.buffer.spec
        own = {name: values[:, agent] for name, values in arrays.items()}
        obs = own["obs"][:, : spec.obs_widths[agent]]
        legal = own["available_actions"]
        rows = np.flatnonzero(self._counted(arrays, agent))
        policy = self.actions(own["logits"][rows], legal[rows])
        chosen = own["actions"][rows].astype(np.int64)
        every = [policy.log_prob(np.full(len(rows), a)) for a in range(spec.action_count)]
        even = 1.0 / legal[rows].sum(axis=-1)
        probability = np.exp(np.stack(every, axis=-1))
        unlikely = np.where(probability * UNLIKELY < even[:, None], probability, 0.0).sum(axis=-1)
        return Decisions(
            obs=obs[rows],
            context=_context(own, obs, rows, step, spec.action_counts[agent]),
            embedding=None if "embedding" not in own else own["embedding"][rows].astype(np.float32),
            outputs=own.get("q_values", own["logits"])[rows],
            label=policy.mode(),
            policy=np.stack(every, axis=-1),
            legal=legal[rows],
            taken=self._taken(policy, chosen, own, rows, episode),
            even=even,
            unlikely=unlikely,
            episode=episode[rows],
            step=step[rows],
            greedy=policy.near_mode(chosen, 1e-3),
        )

    def _counted(self, arrays: dict[str, Array], agent: int) -> BoolArray:
        """Return in which rows an agent decides, bool [R]."""
        actions = arrays["actions"][:, agent]
        known = (actions >= 0) & (actions < self.buffer.spec.action_count)
        choice = self.actions.has_choice(arrays["available_actions"][:, agent])
        return np.asarray(arrays["alive"][:, agent] & known & choice)

    def _taken(
        self,
        policy: Played,
        chosen: IntArray,
        own: dict[str, Array],
        rows: IntArray,
        episode: IntArray,
    ) -> FloatArray:
        """Return the probability of each executed action that the expert, or noise, chose."""
        if "action_source" in own:
            by_expert = own["action_source"][rows] == ACTION_SOURCES["expert"]
            return np.where(by_expert, np.exp(policy.log_prob(chosen)), np.nan)
        share = np.zeros(len(rows))
        if self.buffer.has("episodes/noise_level"):
            levels = self.buffer.episodes("noise_level").astype(np.float64)
            share = levels[episode[rows]] / self.buffer.spec.n_agents
        return np.asarray(policy.mixture_probability(chosen, share))


def chosen(decisions: Decisions, rows: IntArray | slice) -> Decisions:
    """Return some rows of ``decisions``."""
    values: dict[str, Any] = {}
    for each in fields(Decisions):
        array = getattr(decisions, each.name)
        values[each.name] = None if array is None else array[rows]
    return Decisions(**values)


def joined(parts: Sequence[Decisions]) -> Decisions:
    """Return decisions of one agent, one part after the other."""
    values: dict[str, Any] = {}
    for each in fields(Decisions):
        arrays = [getattr(part, each.name) for part in parts]
        values[each.name] = None if arrays[0] is None else np.concatenate(arrays)
    return Decisions(**values)


def _between(decisions: Decisions, first: int, last: int) -> Decisions:
    """Return the decisions of episodes ``first`` to ``last``, both included."""
    start, stop = np.searchsorted(decisions.episode, [first, last + 1])
    return chosen(decisions, slice(int(start), int(stop)))


def _context(
    own: dict[str, Array], obs: Array, rows: IntArray, step: IntArray, actions: int
) -> Array:
    """Return what an agent saw and did until now, float32 [D, C]: without its embedding of now."""
    earlier = (step[rows] > 0)[:, None]
    before = np.maximum(rows - 1, 0)
    last = own["actions"][before, None] == np.arange(actions)
    parts = [narrowed(obs[rows]), narrowed(obs[before]) * earlier, last & earlier, ~earlier]
    if "embedding" in own:
        parts.append(narrowed(own["embedding"][before].astype(np.float32)) * earlier)
    return np.concatenate([part.astype(np.float32) for part in parts], axis=1)


def narrowed(values: Array, widest: int = _WIDEST) -> Array:
    """Return ``values``, float32 [D, C], or drawn projections of them where C is above ``widest``.

    Projections keep distances roughly (Johnson and Lindenstrauss, 1984).
    """
    width = values.shape[1]
    if width <= widest:
        return values
    signs = generator(0, "audit projections", width).integers(0, 2, (width, widest)) * 2.0 - 1.0
    return np.asarray(values @ (signs / np.sqrt(widest)).astype(np.float32))


@dataclass(frozen=True, slots=True)
class Table:
    """All decisions of one expert that were read."""

    source: IntArray  # index in the list of sources
    group: IntArray  # recorded alike
    agent: IntArray
    region: IntArray
    episode: IntArray
    step: IntArray
    label: IntArray
    of_label: FloatArray  # surprise
    of_embedding: FloatArray
    contradiction: FloatArray
    of_action: FloatArray  # log of even / taken; NaN where the expert did not choose
    unlikely: FloatArray  # probability of an unlikely action
    label_hit: IntArray
    embedding_hit: IntArray

    @classmethod
    def join(cls, parts: Sequence[Table]) -> Table:
        """Return the decisions of several tables, one after the other."""
        names = [each.name for each in fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
