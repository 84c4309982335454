"""The statistical tests that compare the sources of one expert's episodes with each other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from kd_offline.datasets.analysis.columns import column_names
from kd_offline.datasets.analysis.context_fit import REGIONS, ContextFit, LinearHead, Regions
from kd_offline.datasets.analysis.evidence import (
    COMPARABLE,
    dispersion,
    fold_rates,
    log_binomial_bound,
    log_evidence,
    same_fold,
)
from kd_offline.datasets.analysis.poison_sample import (
    LEAST_EPISODES,
    UNLIKELY,
    Decisions,
    Reader,
    Source,
    Table,
    chosen,
    joined,
    recorded_alike,
)
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.schemas.audit import (
    CheckName,
)
from kd_offline.tracking.base import Observer
from kd_offline.types import Array, FloatArray, IntArray

SURPRISING = 0.01
"""Share of the decisions that count as surprising."""

_LEAST_SOURCES = 4  # two in each fold
_LEAST_DECISIONS = 200  # of an agent, for a fit
_LEAST_RATIO = 1.3  # to the usual rate; what is smaller may be a difference of what was visited
_WRONG_RATE = 1e-5  # of a label that contradicts an exact relation: rounding, at most
_PILOT_EPISODES = 12  # of each source
_PILOT_ROWS = 4096
_PATTERN_EPISODES = 5
_PATTERN_SHARE = 0.1  # of the surprising decisions of a source
_COMMON = 0.5  # of all decisions have a value that is no pattern
_CANDIDATES = 10  # values that are looked at, of a source and agent
_CONTINUOUS = 0.5  # distinct values of a column, at least, whose exact values are no accident
_LEAST_PLANTED = 20  # surprising decisions
_ONE_ACTION = 0.95  # of them
STRIDE = 1 << 31  # longest episode
_PLANTED_RATE = 0.1  # of surprises, far above that of any natural value


class Test(NamedTuple):
    """One test: how often something came, against how often it should have."""

    check: CheckName
    source: Source
    log_p: float
    hits: int
    of: int
    expected: float
    rows: IntArray  # of the table, the clearest first
    agent: int | None = None
    where: str | None = None


@dataclass(slots=True)
class Progress:
    """Tells an observer how many episodes were gone over, in both passes over all experts."""

    observer: Observer
    total: int
    done: int = 0

    def add(self, episodes: int) -> None:
        """Count more episodes."""
        self.done += episodes
        self.observer.progress(self.done, self.total, "episodes")


@dataclass(slots=True)
class _Agent:
    """What is fitted of one agent of one expert."""

    head: LinearHead
    regions: Regions
    fit: ContextFit
    label_limits: list[float] = field(default_factory=list)  # of each fold
    embedding_limits: list[float] = field(default_factory=list)


class _Pattern(NamedTuple):
    """An exact value in a column, and of how many it was chosen by its surprising decisions."""

    source: int
    agent: int
    column: int
    value: float
    chosen_of: int


class ExpertTests:
    """The tests of all sources of one expert.

    Attributes
    ----------
    tests : list of Test
    notes : dict of str to str
        Why a check could not be made.
    table : Table
    """

    def __init__(self, buffer: ExpertBuffer, parts: list[Source], progress: Progress) -> None:
        self.buffer, self.sources, self.expert = buffer, parts, parts[0].expert
        self.reader, self.progress = Reader(buffer), progress
        self.tests: list[Test] = []
        self.notes: dict[CheckName, str] = {}
        self.compares = len(parts) >= _LEAST_SOURCES
        if not self.compares:
            needed = _LEAST_SOURCES * LEAST_EPISODES
            episodes = parts[-1].stop - parts[0].first
            note = (
                f"too little data: expert {self.expert} has {episodes} episodes, and sources are "
                f"compared from {needed} on"
            )
            self.notes |= {"labels": note, "embeddings": note, "patterns": note}
        self.distinct: dict[int, FloatArray] = {}  # share of distinct values, by agent and column
        self.samples: dict[int, Array] = {}  # observations, by agent
        self.agents = self._fitted()
        self.values: list[_Pattern] = []  # exact values that go with one action
        self.places: list[tuple[int, IntArray, IntArray]] = []  # action, episodes, steps of each
        self.kept_obs: list[list[tuple[int, Array]]] = [[] for _ in range(buffer.spec.n_agents)]
        self.table = self._scored()
        self._test_actions()
        self._test_outputs()
        if self.compares:
            self._test_labels()
            self._test_embeddings()
            self._test_patterns()
            self._test_values()

    # Fits

    def _fitted(self) -> list[_Agent | None]:
        pilots, folds = self._pilots()
        agents: list[_Agent | None] = []
        for number, pilot in enumerate(pilots):
            if len(pilot.label) < _LEAST_DECISIONS:
                agents.append(None)
                continue
            regions = Regions(pilot.obs, self.expert, number)
            self.samples[number] = pilot.obs
            self.distinct[number] = np.array([_distinct(column) for column in pilot.obs.T])
            agents.append(_Agent(LinearHead(pilot), regions, ContextFit.of(pilot)))
        if self.compares:
            self._sum_up(agents)
            for agent, pilot, fold in zip(agents, pilots, folds, strict=True):
                if agent is not None:
                    _set_limits(agent, pilot, fold)
        return agents

    def _pilots(self) -> tuple[list[Decisions], list[IntArray]]:
        """Return some decisions of every agent from all sources, and the folds of the sources."""
        some = [replace(s, episodes=s.episodes[:_PILOT_EPISODES]) for s in self.sources]
        read = list(self.reader.by_source(some))
        pilots, folds = [], []
        for agent in range(self.buffer.spec.n_agents):
            own = joined([decisions[agent] for _, decisions in read])
            sizes = [len(decisions[agent].label) for _, decisions in read]
            fold = np.repeat([number % 2 for number, _ in read], sizes)
            count = min(len(fold), _PILOT_ROWS)
            rows = np.linspace(0, len(fold) - 1, count).astype(np.int64)
            pilots.append(chosen(own, rows))
            folds.append(fold[rows])
        return pilots, folds

    def _sum_up(self, agents: list[_Agent | None]) -> None:
        for number, read in groupby(self.reader.by_source(self.sources), itemgetter(0)):
            for _, parts in read:
                for agent, part in zip(agents, parts, strict=True):
                    if agent is not None:
                        agent.fit.add(part, number % 2)
            self.progress.add(len(self.sources[number].episodes))
        for agent in agents:
            if agent is not None:
                agent.fit.solve()

    def _scored(self) -> Table:
        episodes = np.concatenate([source.episodes for source in self.sources])
        groups = recorded_alike(self.buffer, episodes, self.reader.others_acted(episodes))
        tables = []
        for number, read in groupby(self.reader.by_source(self.sources), itemgetter(0)):
            parts = [decisions for _, decisions in read]
            if self.compares:
                self._note_values(number, parts)
            for decisions in parts:
                for agent, part in enumerate(decisions):
                    group = groups[np.searchsorted(episodes, part.episode)]
                    tables.append(self._score(number, agent, part, group))
            self.progress.add(len(self.sources[number].episodes))
        return Table.join(tables)

    def _score(self, source: int, number: int, part: Decisions, group: IntArray) -> Table:
        count, agent = len(part.label), self.agents[number]
        zeros = np.zeros(count)
        of_label, of_embedding, contradiction = zeros, zeros, zeros
        region = np.zeros(count, np.int64)
        label_hit, embedding_hit = np.zeros(count, np.int64), np.zeros(count, np.int64)
        if agent is not None:
            contradiction = agent.head.contradictions(part)
            if self.compares:
                fold = source % 2
                region = agent.regions.of(part.obs)
                of_label, embedding = agent.fit.surprise(part, fold)
                label_hit = (of_label > agent.label_limits[fold]).astype(np.int64)
                if embedding is not None:
                    of_embedding = embedding
                    embedding_hit = (embedding > agent.embedding_limits[fold]).astype(np.int64)
                self.kept_obs[number].append((source, part.obs[label_hit > 0]))
        of_action = np.log(part.even / np.maximum(part.taken, 1e-12))
        if self.reader.behaviour == "greedy":
            of_action = np.where(np.isnan(part.taken), np.nan, np.where(part.greedy, -1.0, 1.0))
        return Table(
            source=np.full(count, source),
            group=group,
            agent=np.full(count, number),
            region=region,
            episode=part.episode,
            step=part.step,
            label=part.label,
            of_label=of_label,
            of_embedding=of_embedding,
            contradiction=contradiction,
            of_action=of_action,
            unlikely=part.unlikely,
            label_hit=label_hit,
            embedding_hit=embedding_hit,
        )

    # Tests

    def _test_actions(self) -> None:
        """Compare executed actions with the policy that drew them."""
        behaviour, table = self.reader.behaviour, self.table
        if behaviour == "unknown":
            self.notes["actions"] = "how actions were drawn from the policy was not recorded"
            return
        known = ~np.isnan(table.of_action)
        for number, source in enumerate(self.sources):
            rows = np.flatnonzero(known & (table.source == number))
            if not len(rows):
                self.notes["actions"] = "some sources hold no action that the expert chose"
                continue
            values = table.of_action[rows]
            if behaviour == "greedy":
                count = int((values > 0).sum())
                expected = _WRONG_RATE * len(rows)
                log_p = log_binomial_bound(count, len(rows), _WRONG_RATE)
            else:
                log_p = min(0.0, -log_evidence(values))
                count = int((values > math.log(UNLIKELY)).sum())
                expected = float(table.unlikely[rows].sum())
            order = rows[np.argsort(-values, kind="stable")]
            self.tests.append(
                Test("actions", source, log_p, count, len(rows), expected, order[:count])
            )

    def _test_outputs(self) -> None:
        """Compare outputs with the embeddings that they follow from."""
        exact = [agent is not None and agent.head.exact for agent in self.agents]
        if not all(exact):
            without = not self.buffer.has("steps/embedding")
            self.notes["outputs"] = (
                "no embeddings were recorded"
                if without
                else "the outputs of some agents are no linear function of the recorded embedding"
            )
        table = self.table
        of_exact = np.array(exact)[table.agent] if len(table.agent) else np.zeros(0, bool)
        for number, source in enumerate(self.sources):
            rows = np.flatnonzero(of_exact & (table.source == number))
            if not len(rows):
                continue
            values = table.contradiction[rows]
            count = int((values > 0).sum())
            log_p = log_binomial_bound(count, len(rows), _WRONG_RATE)
            order = rows[np.argsort(-values, kind="stable")][:count]
            expected = _WRONG_RATE * len(rows)
            self.tests.append(Test("outputs", source, log_p, count, len(rows), expected, order))

    def _test_labels(self) -> None:
        """Compare the rate of surprising labels with other sources, overall and by region."""
        table = self.table
        scores = table.of_label
        everywhere = np.zeros(len(table.agent), np.int64)
        self._test_rates("labels", table.label_hit, scores, everywhere, regional=False)
        cells = table.agent * REGIONS + table.region
        self._test_rates("labels", table.label_hit, scores, cells, regional=True)

    def _test_embeddings(self) -> None:
        if not self.buffer.has("steps/embedding"):
            self.notes["embeddings"] = "no embeddings were recorded"
            return
        table = self.table
        everywhere = np.zeros(len(table.agent), np.int64)
        hits, scores = table.embedding_hit, table.of_embedding
        self._test_rates("embeddings", hits, scores, everywhere, regional=False)

    def _test_rates(
        self,
        check: CheckName,
        hits: IntArray,
        scores: FloatArray,
        cell: IntArray,
        *,
        regional: bool,
    ) -> None:
        """Add a test for every source and cell in which it can be compared with others."""
        table = self.table
        cells, groups = int(cell.max(initial=0)) + 1, int(table.group.max(initial=0)) + 1
        shape = (cells, len(self.sources), groups)
        index = np.ravel_multi_index((cell, table.source, table.group), shape)
        total = np.bincount(index, minlength=math.prod(shape)).reshape(shape)
        hit = np.bincount(index[hits > 0], minlength=math.prod(shape)).reshape(shape)
        for place, number in np.ndindex(cells, len(self.sources)):
            rates = fold_rates(total[place], hit[place], number)
            if rates is None:
                continue
            log_p, rows = rates.log_p, np.zeros(0, np.int64)
            if rates.hits >= _LEAST_RATIO * rates.expected and log_p < math.log(1e-4):
                here = cell == place
                own = here & (table.source == number)
                others = here & same_fold(table.source, number)
                mine = np.flatnonzero(own & (hits > 0))
                # Sources in which a few episodes surprise all the time are no less usual, and a
                # whole episode counts as one of its steps.
                each = len(mine) / max(1, len(np.unique(table.episode[mine])))
                log_p /= max(self._dispersion(others, hits), self._dispersion(own, hits), each)
                rows = mine[np.argsort(-scores[mine], kind="stable")]
            else:
                log_p = 0.0
            agent = place // REGIONS if regional else None
            test = Test(
                check,
                self.sources[number],
                log_p,
                rates.hits,
                rates.of,
                rates.expected,
                rows,
                agent,
                self._region(place) if regional and log_p else None,
            )
            self.tests.append(test)

    def _region(self, cell: int) -> str | None:
        number, region = divmod(cell, REGIONS)
        agent = self.agents[number]
        if agent is None:
            return None
        return agent.regions.in_words(region, column_names(self.buffer.spec, number))

    def _dispersion(self, compared: Array, hits: IntArray) -> float:
        """Return how much surprises of whole episodes vary, among the decisions ``compared``."""
        table, rows = self.table, np.flatnonzero(compared)
        group, episode = table.group[rows], table.episode[rows]
        totals = np.maximum(np.bincount(group), 1)
        rate = np.bincount(group, hits[rows]) / totals
        _, place = np.unique(episode, return_inverse=True)
        counts = np.bincount(place[hits[rows] > 0], minlength=int(place.max(initial=-1)) + 1)
        return dispersion(counts, np.bincount(place, rate[group]).astype(np.float64))

    def _test_patterns(self) -> None:
        """Look for exact values of a column that are there when labels surprise."""
        patterns = self._patterns()
        total, _ = self._count(patterns)
        everywhere = set[tuple[int, int, float]]()
        for place, pattern in enumerate(patterns):
            of = int(total[place, pattern.source])
            others = same_fold(np.arange(len(self.sources)), pattern.source)
            usual = 2 * SURPRISING
            if (seen := int(total[place, others].sum())) >= COMPARABLE:
                hits = sum(
                    len(self._rows_with(pattern, k)) for k in np.flatnonzero(others).tolist()
                )
                usual = max(usual, (hits + 1) / (seen + 1))
            self._test_pattern(pattern, pattern.source, of, min(usual, 0.99))
            if (key := pattern[1:4]) not in everywhere and self._is_unnatural(
                pattern, total[place]
            ):
                everywhere.add(key)
                self._test_pattern(pattern, None, int(total[place].sum()), _PLANTED_RATE)

    def _test_pattern(self, pattern: _Pattern, source: int | None, of: int, usual: float) -> None:
        """Add the test of a pattern in one source, or in all of them."""
        rows = self._rows_with(pattern, source)
        count, expected = len(rows), usual * of
        # Steps of an episode are alike, so a whole episode counts as one of its steps.
        clusters = max(1, len(np.unique(self.table.episode[rows])))
        log_p = log_binomial_bound(count, of, usual) * clusters / max(1, count)
        log_p = min(0.0, log_p + math.log(pattern.chosen_of))
        name = column_names(self.buffer.spec, pattern.agent)[pattern.column]
        whole = Source(
            self.expert,
            self.sources[0].first,
            self.sources[-1].stop,
            np.zeros(0, np.int64),
        )
        self.tests.append(
            Test(
                "patterns",
                whole if source is None else self.sources[source],
                log_p,
                count,
                of,
                expected,
                rows[np.argsort(-self.table.of_label[rows], kind="stable")],
                pattern.agent,
                f"{name} is {pattern.value:.6g}",
            )
        )

    def _is_unnatural(self, pattern: _Pattern, total: IntArray) -> bool:
        """Tell whether a value hardly belongs to its column, and changes labels to one action.

        The other values of the column are nearly all different, and the labels that surprise where
        it is there are one and the same. Sources cannot be compared where all of them have it.
        """
        if pattern.agent not in self.distinct or (total > 0).sum() < len(total) / 2:
            return False
        rows = self._rows_with(pattern, None)
        labels = np.bincount(self.table.label[rows])
        return bool(
            self.distinct[pattern.agent][pattern.column] > _CONTINUOUS
            and len(rows) >= _LEAST_PLANTED
            and labels.max() >= _ONE_ACTION * len(rows)
        )

    def _rows_with(self, pattern: _Pattern, source: int | None) -> IntArray:
        """Return the rows of the surprising decisions that have a pattern."""
        table, agent = self.table, pattern.agent
        numbers = range(len(self.sources)) if source is None else [source]
        parts = []
        for number in numbers:
            mine = (table.source == number) & (table.agent == agent) & (table.label_hit > 0)
            same = self._hit_values(agent, number, pattern.column) == pattern.value
            parts.append(np.flatnonzero(mine)[same])
        return np.concatenate(parts)

    def _hit_values(self, agent: int, source: int, column: int) -> Array:
        parts = [obs[:, column] for number, obs in self.kept_obs[agent] if number == source]
        return np.concatenate(parts)

    def _patterns(self) -> list[_Pattern]:
        """Return the exact values that many surprising decisions of a source have.

        Of each source and agent they are those that are there most often, against their share of a
        sample. Values that most of the sample has are none.
        """
        table, found = self.table, []
        for number, agent in np.ndindex(len(self.sources), len(self.agents)):
            mine = (table.source == number) & (table.agent == agent)
            hits = np.flatnonzero(mine & (table.label_hit > 0))
            if len(hits) < _PATTERN_EPISODES or agent not in self.samples:
                continue
            obs = np.concatenate([part for of, part in self.kept_obs[agent] if of == number])
            chosen_of = max(1, int(mine.sum()) // _PATTERN_EPISODES) * obs.shape[1]
            ranked = []
            for column, value, count in _frequent(obs, _PATTERN_SHARE):
                share = float((self.samples[agent][:, column] == value).mean())
                episodes = table.episode[hits[obs[:, column] == value]]
                if share <= _COMMON and len(np.unique(episodes)) >= _PATTERN_EPISODES:
                    pattern = _Pattern(number, agent, column, value, chosen_of)
                    ranked.append((-count / (share + 1 / len(self.samples[agent])), pattern))
            found += [pattern for _, pattern in sorted(ranked)[:_CANDIDATES]]
        return found

    def _count(self, patterns: Sequence[_Pattern]) -> tuple[IntArray, IntArray]:
        """Return in how many decisions and episodes of each source a pattern is, int64 [P, S]."""
        shape = (len(patterns), len(self.sources))
        decisions, episodes = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        wanted = sorted({pattern.agent for pattern in patterns})
        if not patterns:
            return decisions, episodes
        read = np.concatenate([source.episodes for source in self.sources])
        number = np.repeat(range(len(self.sources)), [len(s.episodes) for s in self.sources])
        for agent, obs, episode in self.reader.observations(read, wanted):
            source = number[np.searchsorted(read, episode)]
            for place, pattern in enumerate(patterns):
                if pattern.agent == agent:
                    there = obs[:, pattern.column] == pattern.value
                    decisions[place] += np.bincount(source[there], minlength=len(self.sources))
                    first = np.unique(episode[there], return_index=True)[1]
                    found = source[there][first]
                    episodes[place] += np.bincount(found, minlength=len(self.sources))
        return decisions, episodes

    def _note_values(self, number: int, read: Sequence[Sequence[Decisions]]) -> None:
        """Keep the exact values of a source that go with one action, in continuous columns."""
        for agent, distinct in self.distinct.items():
            part = joined([each[agent] for each in read])
            chosen_of = max(1, len(part.label) // _PATTERN_EPISODES) * part.obs.shape[1]
            columns = np.flatnonzero(distinct > _CONTINUOUS)
            for place, value, count in _frequent(part.obs[:, columns], 0.0):
                column = int(columns[place])
                there = part.obs[:, column] == value
                labels = np.bincount(part.label[there])
                one_action = labels.max() >= _ONE_ACTION * count
                if one_action and len(np.unique(part.episode[there])) >= _PATTERN_EPISODES:
                    self.values.append(_Pattern(number, agent, column, value, chosen_of))
                    of_value = (part.episode[there], part.step[there])
                    self.places.append((int(labels.argmax()), *of_value))

    def _test_values(self) -> None:
        """Look for exact values that only one source has, always with the same action."""
        decisions, episodes = self._count(self.values)
        table, everywhere = self.table, sum(len(source.episodes) for source in self.sources)
        for place, (pattern, (label, *found)) in enumerate(
            zip(self.values, self.places, strict=True)
        ):
            source = self.sources[pattern.source]
            share = len(source.episodes) / everywhere
            here, total = int(episodes[place, pattern.source]), int(episodes[place].sum())
            log_p = log_binomial_bound(here, total + 1, share) + math.log(pattern.chosen_of)
            of_agent = table.agent == pattern.agent
            usual = float(
                (table.label[of_agent & (table.source != pattern.source)] == label).mean()
            )
            of = int(decisions[place, pattern.source])
            if usual > _ONE_ACTION / 2:
                log_p = 0.0
            rows = np.flatnonzero(
                of_agent
                & (table.source == pattern.source)
                & np.isin(table.episode * STRIDE + table.step, found[0] * STRIDE + found[1])
            )
            name = column_names(self.buffer.spec, pattern.agent)[pattern.column]
            count = int((table.label[rows] == label).sum())
            where = f"{name} is {pattern.value:.6g}, which hardly any other source has"
            test = Test("patterns", source, min(0.0, log_p), count, of, usual * of, rows)
            self.tests.append(test._replace(agent=pattern.agent, where=where))


def _frequent(obs: Array, least_share: float) -> Iterator[tuple[int, float, int]]:
    """Yield (column, value, count) of the exact values that a share of the rows has."""
    least = max(_PATTERN_EPISODES, least_share * len(obs))
    for column in range(obs.shape[1]):
        values, counts = np.unique(obs[:, column], return_counts=True)
        for place in np.flatnonzero(counts >= least).tolist():
            yield column, float(values[place]), int(counts[place])


def _distinct(values: Array) -> float:
    """Return the share of distinct values among those that are not the most frequent one."""
    _, counts = np.unique(values, return_counts=True)
    rest = len(values) - int(counts.max())
    return (len(counts) - 1) / rest if rest else 0.0


def _set_limits(agent: _Agent, pilot: Decisions, fold: IntArray) -> None:
    """Set what counts as surprising, for each fold."""
    for number in range(2):
        labels, embeddings = agent.fit.surprise(
            chosen(pilot, np.flatnonzero(fold == number)), number
        )
        agent.label_limits.append(_limit(labels))
        agent.embedding_limits.append(math.inf if embeddings is None else _limit(embeddings))


def _limit(scores: Array) -> float:
    return float(np.quantile(scores, 1 - SURPRISING)) if len(scores) else math.inf
