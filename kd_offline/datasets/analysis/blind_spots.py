"""Find regions where the expert's value is low, its entropy high or data are rare.

Every agent's decisions are put on a grid of two columns of its observations: those that explain
most of the variance of values and entropy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kd_offline import distributions
from kd_offline.datasets.analysis.columns import column_names
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.schemas.audit import DecisionPlace
from kd_offline.schemas.blind_spots import (
    AgentGrid,
    BlindSpots,
    ColumnRange,
    Weakness,
    WeakRegion,
)
from kd_offline.seeding import generator
from kd_offline.types import Array, FloatArray, IntArray

MOST_STEPS = 20_000
"""Steps of the sample, of whole episodes."""

CELLS = 10
"""Cells along one column."""

MOST_AGENTS = 8
"""Agents that are looked at; more of one team are seldom of different kinds."""

_LEAST = 20  # decisions of a cell whose means are compared
_EACH = 4  # regions of one kind of weakness
_EXPLAINING = 2000  # decisions by which columns are chosen
_PLACES = 3


@dataclass(frozen=True, slots=True)
class Divergences:
    """KL(expert, student) of decisions in held-out episodes.

    ``episode``, ``step``, ``agent``: int64 [D]; ``kl``: float64 [D], in nats, the mean over
    distillation seeds.
    """

    episodes: IntArray
    episode: IntArray
    step: IntArray
    agent: IntArray
    kl: FloatArray


@dataclass(frozen=True, slots=True)
class _Sample:
    """Decisions of one agent; ``quantities`` by the name of their field, float64 [D]."""

    obs: Array
    quantities: Mapping[str, FloatArray]
    episode: IntArray
    step: IntArray


@dataclass(frozen=True, slots=True)
class _Grid:
    """Cells of one or two columns."""

    columns: tuple[int, ...]
    edges: tuple[FloatArray, ...]
    explained: float

    @property
    def shape(self) -> tuple[int, int]:
        sizes = [len(edges) + 1 for edges in self.edges]
        return (sizes[0], sizes[1] if len(sizes) > 1 else 1)

    def cell(self, obs: Array) -> IntArray:
        """Return the flat index of each observation's cell, int64 [D]."""
        places = [
            np.searchsorted(edges, obs[:, column], side="right")
            for column, edges in zip(self.columns, self.edges, strict=True)
        ]
        flat = places[0] if len(places) == 1 else places[0] * self.shape[1] + places[1]
        return np.asarray(flat, np.int64)


def sampled_episodes(buffer: ExpertBuffer, among: IntArray, steps: int = MOST_STEPS) -> IntArray:
    """Return episodes of ``among`` with about ``steps`` steps, ascending; always the same."""
    mean = max(1.0, buffer.n_steps / buffer.n_episodes)
    count = max(1, min(len(among), int(steps / mean)))
    drawn = generator(0, "blind spots", len(among)).choice(among, count, replace=False)
    return np.sort(drawn)


def blind_spots(buffer: ExpertBuffer, students: Divergences | None = None) -> BlindSpots:
    """Return the regions in which the expert of a dataset is weak or rarely recorded, by agent.

    Parameters
    ----------
    buffer
    students
        How far students are from the teacher, where there are any.

    Raises
    ------
    CorruptDatasetError
        A chunk is missing or damaged.
    """
    episodes = sampled_episodes(buffer, np.arange(buffer.n_episodes))
    samples = _samples(buffer, episodes)
    held_out: list[tuple[_Sample, FloatArray] | None] = [None] * len(samples)
    if students is not None:
        held_out = list(_student_samples(buffer, students))
    grids, regions, notes = [], list[WeakRegion](), []
    for agent, (sample, compared) in enumerate(zip(samples, held_out, strict=True)):
        name = buffer.spec.agents[agent]
        if len(sample.episode) < _LEAST:
            notes.append(f"{name}: too little data, {len(sample.episode)} decisions in the sample")
            continue
        grid = _grid(sample)
        if grid is None:
            notes.append(f"{name}: its observations never change")
            continue
        tables = _Tables(grid, sample, compared)
        grids.append(tables.document(name, column_names(buffer.spec, agent)))
        regions += tables.regions(name, column_names(buffer.spec, agent))
    if not buffer.has("steps/value"):
        notes.append("no values were recorded")
    if not buffer.has("steps/logits"):
        notes.append("no logits were recorded, so there is no entropy")
    if buffer.spec.n_agents > MOST_AGENTS:
        notes.append(f"only the first {MOST_AGENTS} of {buffer.spec.n_agents} agents are shown")
    return BlindSpots(
        episodes=len(episodes),
        decisions=sum(len(sample.episode) for sample in samples),
        student_episodes=0 if students is None else len(students.episodes),
        agents=tuple(grids),
        regions=tuple(_weakest(regions)),
        notes=tuple(notes),
    )


def _samples(buffer: ExpertBuffer, episodes: IntArray) -> list[_Sample]:
    names = ["steps/obs", "steps/alive", "steps/available_actions"]
    names += [n for n in ("steps/value", "steps/logits") if buffer.has(n)]
    arrays = buffer.load(names, episodes)
    lengths = buffer.episodes("length")[episodes].astype(np.int64)
    episode = np.repeat(episodes, lengths)
    step = np.arange(len(episode)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    kind, samples = distributions.played(buffer.spec), []
    for agent in range(min(buffer.spec.n_agents, MOST_AGENTS)):
        legal = arrays["steps/available_actions"][:, agent]
        rows = np.flatnonzero(arrays["steps/alive"][:, agent] & kind.has_choice(legal))
        quantities = {}
        if "steps/value" in arrays:
            quantities["value"] = arrays["steps/value"][rows, agent].astype(np.float64)
        if "steps/logits" in arrays:
            policy = kind(arrays["steps/logits"][rows, agent], legal[rows])
            quantities["entropy"] = np.asarray(policy.entropy(), np.float64)
        obs = arrays["steps/obs"][rows, agent, : buffer.spec.obs_widths[agent]]
        samples.append(_Sample(obs, quantities, episode[rows], step[rows]))
    return samples


def _student_samples(
    buffer: ExpertBuffer, students: Divergences
) -> list[tuple[_Sample, FloatArray] | None]:
    found: list[tuple[_Sample, FloatArray] | None] = []
    for agent, sample in enumerate(_samples(buffer, students.episodes)):
        own = students.agent == agent
        keys = students.episode[own] * buffer.n_steps + students.step[own]
        wanted = sample.episode * buffer.n_steps + sample.step
        order = np.argsort(keys)
        place = np.searchsorted(keys[order], wanted)
        known = (place < len(keys)) & np.isin(wanted, keys)
        if not known.any():
            found.append(None)
            continue
        kept = _Sample(sample.obs[known], {}, sample.episode[known], sample.step[known])
        found.append((kept, students.kl[own][order][place[known]]))
    return found


def _grid(sample: _Sample) -> _Grid | None:
    """Return the cells of the two columns that explain most, or None where nothing varies.

    The first column explains most alone, the second most beside it. What is explained is the mean
    over the quantities of the share of variance between cells, adjusted for their number.
    """
    varying = {}
    for column in range(sample.obs.shape[1]):
        edges = _edges(sample.obs[:, column])
        if len(edges):
            varying[column] = edges
    if not varying:
        return None
    rows = np.linspace(0, len(sample.episode) - 1, min(len(sample.episode), _EXPLAINING))
    chosen = rows.astype(np.int64)
    obs = sample.obs[chosen]
    quantities = [values[chosen] for values in sample.quantities.values()]
    places = {c: np.searchsorted(edges, obs[:, c], side="right") for c, edges in varying.items()}

    def explained(columns: Sequence[int]) -> float:
        cell = places[columns[0]]
        for column in columns[1:]:
            cell = cell * (len(varying[column]) + 1) + places[column]
        shares = [_explained(values, cell) for values in quantities]
        return float(np.mean(shares)) if shares else float(len(np.unique(cell)))

    first = max(varying, key=lambda column: (explained([column]), -column))
    rest = [column for column in varying if column != first]
    columns: tuple[int, ...] = (first,)
    if rest:
        columns = (first, max(rest, key=lambda column: (explained([first, column]), -column)))
    share = explained(columns) if quantities else 0.0
    return _Grid(columns, tuple(varying[column] for column in columns), max(0.0, share))


def _edges(values: Array) -> FloatArray:
    """Return the edges between at most 10 cells of a column; none where it does not vary."""
    distinct = np.unique(values[:: max(1, len(values) // _EXPLAINING)]).astype(np.float64)
    if len(distinct) <= CELLS:
        return np.asarray((distinct[1:] + distinct[:-1]) / 2)
    low, high = np.quantile(values.astype(np.float64), [0.01, 0.99])
    if high <= low:
        return np.array([float(distinct[0] + distinct[-1]) / 2])
    return np.linspace(low, high, CELLS + 1)[1:-1]


def _explained(values: FloatArray, cell: IntArray) -> float:
    """Return the adjusted share of the variance of ``values`` that lies between cells."""
    _, place, count = np.unique(cell, return_inverse=True, return_counts=True)
    total = float(np.square(values - values.mean()).sum())
    free = len(values) - len(count)
    if total <= 0 or free <= 0:
        return 0.0
    mean = np.bincount(place, values) / count
    within = float(np.square(values - mean[place]).sum())
    return 1 - within / free * (len(values) - 1) / total


class _Tables:
    """Counts and means of one agent's cells."""

    def __init__(
        self, grid: _Grid, sample: _Sample, students: tuple[_Sample, FloatArray] | None
    ) -> None:
        self.grid, self.sample, self.students = grid, sample, students
        self.cell = grid.cell(sample.obs)
        self.counts = self._count(self.cell)
        self.means = {
            name: self._mean(self.cell, values) for name, values in sample.quantities.items()
        }
        if students is not None:
            of_students, kl = students
            self.student_cell = grid.cell(of_students.obs)
            self.means["student_kl"] = self._mean(self.student_cell, kl)

    def _count(self, cell: IntArray) -> IntArray:
        size = math.prod(self.grid.shape)
        return np.bincount(cell, minlength=size).astype(np.int64)

    def _mean(self, cell: IntArray, values: FloatArray) -> FloatArray:
        """Return the mean of each cell, NaN where it is empty."""
        size = math.prod(self.grid.shape)
        sums, counts = np.bincount(cell, values, minlength=size), self._count(cell)
        means: FloatArray = np.full(size, np.nan)
        np.divide(sums, counts, out=means, where=counts > 0)
        return means

    def document(self, agent: str, names: Sequence[str]) -> AgentGrid:
        """Return the tables as a document."""
        tables = {name: self._rows(means) for name, means in self.means.items()}
        return AgentGrid(
            agent=agent,
            columns=tuple(names[column] for column in self.grid.columns),
            explained=round(self.grid.explained, 4),
            edges=tuple(tuple(map(float, edges)) for edges in self.grid.edges),
            decisions=tuple(map(tuple, self.counts.reshape(self.grid.shape).tolist())),
            **tables,
        )

    def _rows(self, means: FloatArray) -> tuple[tuple[float | None, ...], ...]:
        table = means.reshape(self.grid.shape).tolist()
        return tuple(tuple(None if math.isnan(x) else round(x, 6) for x in row) for row in table)

    def regions(self, agent: str, names: Sequence[str]) -> list[WeakRegion]:
        """Return the weakest cells of each kind, the weakest first."""
        found = []
        usual = self.counts >= _LEAST
        for why, name, sign in (
            ("low value", "value", 1.0),
            ("high entropy", "entropy", -1.0),
            ("students differ", "student_kl", -1.0),
        ):
            if name not in self.means:
                continue
            counted = usual if name != "student_kl" else self._count(self.student_cell) >= _LEAST
            order = np.argsort(np.where(counted, sign * self.means[name], np.inf), kind="stable")
            cells = order[: min(_EACH, int(counted.sum()))]
            found += [self._region(why, agent, names, int(cell)) for cell in cells]
        seen = np.flatnonzero((self.counts > 0) & (self.counts < _LEAST))
        few = seen[np.argsort(self.counts[seen], kind="stable")][:_EACH]
        return found + [self._region("few decisions", agent, names, int(cell)) for cell in few]

    def _region(self, why: str, agent: str, names: Sequence[str], cell: int) -> WeakRegion:
        kinds: dict[str, Weakness] = {
            "low value": "low value",
            "high entropy": "high entropy",
            "few decisions": "few decisions",
            "students differ": "students differ",
        }
        sample, rows = self.sample, np.flatnonzero(self.cell == cell)
        weakness = {"low value": -1.0, "high entropy": 1.0}.get(why, 0.0)
        name = {"low value": "value", "high entropy": "entropy"}.get(why)
        score = sample.quantities[name][rows] * weakness if name else np.zeros(len(rows))
        if why == "students differ" and self.students is not None:
            sample, kl = self.students
            rows = np.flatnonzero(self.student_cell == cell)
            score = kl[rows]
        worst = rows[np.argsort(-score, kind="stable")][:_PLACES]
        places = np.unravel_index(cell, self.grid.shape)
        ranges = [
            ColumnRange(
                column=names[column],
                low=float(edges[place - 1]) if place > 0 else None,
                high=float(edges[place]) if place < len(edges) else None,
            )
            for column, edges, place in zip(
                self.grid.columns, self.grid.edges, map(int, places), strict=False
            )
        ]
        means = {name: float(means[cell]) for name, means in self.means.items()}
        return WeakRegion(
            number=1,
            why=kinds[why],
            agent=agent,
            columns=tuple(ranges),
            decisions=int(self.counts[cell]),
            share=float(self.counts[cell] / max(1, self.counts.sum())),
            **{name: round(mean, 6) for name, mean in means.items() if not math.isnan(mean)},
            places=tuple(
                DecisionPlace(
                    episode=int(sample.episode[row]), step=int(sample.step[row]), agent=agent
                )
                for row in worst
            ),
        )


def _weakest(regions: Sequence[WeakRegion]) -> list[WeakRegion]:
    """Return the weakest regions of each kind over all agents, numbered."""
    order: dict[Weakness, tuple[str, float]] = {
        "students differ": ("student_kl", -1.0),
        "low value": ("value", 1.0),
        "high entropy": ("entropy", -1.0),
        "few decisions": ("decisions", 1.0),
    }
    kept = []
    for why, (name, sign) in order.items():
        of_kind = [region for region in regions if region.why == why]
        of_kind.sort(key=lambda region: sign * (getattr(region, name) or 0.0))
        kept += of_kind[:_EACH]
    return [region.model_copy(update={"number": k + 1}) for k, region in enumerate(kept)]
