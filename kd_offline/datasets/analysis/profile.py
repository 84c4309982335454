"""Compute the figures of a dataset's page in one pass over its steps, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np

from kd_offline import distributions
from kd_offline.datasets.analysis.calibration import Calibration, CalibrationCounter
from kd_offline.datasets.analysis.tallies import Actions, Entropy, Rows, Similarity, Sources
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.tracking.base import SILENT, Observer
from kd_offline.types import Array, FloatArray, IntArray

MAX_TIME_BINS = 50
_BINS = 20
_VALUE_BINS = 16
_MAX_NOISE_GROUPS = 8
_NEEDED = (
    *("actions", "available_actions", "alive", "logits", "embedding", "action_source"),
    *("value", "reward", "truncated"),
)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts in bins of equal width, for each part of the episodes.

    ``edges``: float64 [bins + 1]; ``counts``: part -> int64 [bins]; ``means``: part -> mean.
    """

    edges: FloatArray
    counts: dict[str, IntArray]
    means: dict[str, float]


@dataclass(frozen=True, slots=True)
class Profile:
    """The figures that the page of a dataset draws; None for arrays that the dataset does not have.

    ``moments``: float64 [M + 1], edges of the time bins in steps; at most 50 bins. ``frequency``:
    float64 [M, N, A]; ``legal``: float64 [N, A]; ``entropy``: float64 [M, N], nats;
    ``similarity``: float64 [N, N]; ``sources``: int64 [N, 3] as in ``layout.ACTION_SOURCES``;
    ``masks``: name -> agent -> block -> share of the block's features that a student sees.
    """

    returns: Histogram
    returns_by_noise: Histogram | None
    lengths: Histogram
    moments: FloatArray
    frequency: FloatArray
    legal: FloatArray
    entropy: FloatArray | None
    calibration: Calibration | None
    similarity: FloatArray | None
    sources: IntArray | None
    masks: dict[str, dict[str, dict[str, float]]]


class _Tally(Protocol):
    def add(self, rows: Rows) -> None: ...


def profile(buffer: ExpertBuffer, observer: Observer = SILENT) -> Profile:
    """Return the figures of a dataset, from one pass over its steps.

    Parameters
    ----------
    buffer
    observer
        They receive the number of steps that are read.

    Raises
    ------
    CorruptDatasetError
        A chunk is missing or damaged.
    """
    spec = buffer.spec
    longest = int(buffer.episodes("length").max())
    moments = min(longest, MAX_TIME_BINS)
    actions = Actions(moments, spec.n_agents, spec.action_count)
    policy = distributions.played(spec)
    entropy = Entropy(policy, moments, spec.n_agents) if buffer.has("steps/logits") else None
    similarity = Similarity(spec.n_agents) if buffer.has("steps/embedding") else None
    sources = Sources(spec.n_agents) if buffer.has("steps/action_source") else None
    values = _calibration_counter(buffer)
    tallies: list[_Tally] = [
        tally for tally in (actions, entropy, similarity, sources, values) if tally is not None
    ]
    done = 0
    for rows in rows_backwards(buffer, moments):
        for tally in tallies:
            tally.add(rows)
        done += len(rows.episode)
        observer.progress(done, buffer.n_steps, "steps")
    return Profile(
        returns=returns_by_split(buffer),
        returns_by_noise=returns_by_noise(buffer),
        lengths=_histogram(buffer.episodes("length"), {"all": np.ones(buffer.n_episodes, bool)}),
        moments=np.arange(moments + 1) * (longest / moments),
        frequency=actions.frequency(),
        legal=actions.legal_rate(),
        entropy=None if entropy is None else entropy.mean(),
        calibration=None if values is None else values.result(),
        similarity=None if similarity is None else similarity.mean(),
        sources=None if sources is None else sources.counts,
        masks={name: _visible_by_block(buffer, name) for name in buffer.mask_names},
    )


def rows_backwards(buffer: ExpertBuffer, moments: int) -> Iterator[Rows]:
    """Yield all rows, one chunk at a time, the last chunk first."""
    names = [name for name in _NEEDED if buffer.has(f"steps/{name}")]
    lengths = buffer.episodes("length").astype(np.int64)
    starts, longest = buffer.episodes("offset").astype(np.int64), int(lengths.max())
    size = buffer.array("steps/reward").chunk_rows
    for first in range((buffer.n_steps - 1) // size * size, -1, -size):
        stop = min(first + size, buffer.n_steps)
        row = np.arange(first, stop)
        episode = np.searchsorted(starts, row, side="right") - 1
        step = row - starts[episode]
        yield Rows(
            arrays={name: buffer.read(f"steps/{name}", first, stop) for name in names},
            episode=episode,
            time_bin=step * moments // longest,
            last=step == lengths[episode] - 1,
        )


def returns_by_split(buffer: ExpertBuffer) -> Histogram:
    """Return the histogram of the episode returns of each split."""
    codes = buffer.episodes("split")
    parts = {name: codes == split.code for name, split in buffer.manifest.splits.items()}
    return _histogram(buffer.episodes("return"), parts)


def returns_by_noise(buffer: ExpertBuffer) -> Histogram | None:
    """Return the histogram of the returns of each noise level, or None without levels."""
    if not buffer.has("episodes/noise_level"):
        return None
    levels = buffer.episodes("noise_level")
    known = np.unique(levels)
    if len(known) > _MAX_NOISE_GROUPS:  # perhaps each episode has its own level
        edges = np.linspace(known[0], known[-1], _MAX_NOISE_GROUPS)
        group = np.searchsorted(edges[1:-1], levels, side="right")
        parts = {f"{a:.2g} to {b:.2g}": group == k for k, (a, b) in enumerate(pairwise(edges))}
    else:
        parts = {f"{level:g}": levels == level for level in known}
    return _histogram(buffer.episodes("return"), parts)


def _histogram(values: Array, masks: dict[str, Array]) -> Histogram:
    numbers = np.asarray(values, np.float64)
    finite = np.isfinite(numbers)
    low, high = (numbers[finite].min(), numbers[finite].max()) if finite.any() else (0.0, 0.0)
    if values.dtype.kind in "iu":
        bins = int(min(high - low + 1, _BINS))
        edges = np.linspace(low - 0.5, high + 0.5, bins + 1)
    elif low == high:
        edges = np.array([low - 0.5, low + 0.5])
    else:
        edges = np.linspace(low, high, _BINS + 1)
    chosen = {name: numbers[part & finite] for name, part in masks.items()}
    return Histogram(
        edges=edges,
        counts={name: np.histogram(part_values, edges)[0] for name, part_values in chosen.items()},
        means={
            name: float(part_values.mean())
            for name, part_values in chosen.items()
            if part_values.size
        },
    )


def _calibration_counter(buffer: ExpertBuffer) -> CalibrationCounter | None:
    """Return the counter of values against returns; None without values or a discount."""
    experts = {expert.id: expert for expert in buffer.manifest.experts}
    if not buffer.has("steps/value") or not experts:
        return None
    shape = (buffer.n_episodes, buffer.spec.n_agents)
    played_by = np.full(buffer.n_episodes, min(experts), np.int64)
    if buffer.has("episodes/expert_id"):
        played_by = buffer.episodes("expert_id").astype(np.int64)
    gamma, beyond = np.zeros(buffer.n_episodes), np.zeros(shape)
    for code, expert in experts.items():
        if expert.gamma is None:
            return None
        of_expert = played_by == code
        gamma[of_expert] = expert.gamma
        if expert.bootstraps_truncation and buffer.has("final/value"):
            beyond[of_expert] = buffer.read("final/value")[of_expert]
    return CalibrationCounter(buffer.spec.side_of, gamma, beyond, _value_edges(buffer))


def _value_edges(buffer: ExpertBuffer) -> FloatArray:
    """Return bins of values; the outer ones begin three standard deviations from the mean."""
    spread = buffer.manifest.statistics.values.get("steps/value")
    if spread is None:  # not stated, so estimate it from the last rows
        last = buffer.read("steps/value", max(0, buffer.n_steps - 4096))
        mean, std, low, high = last.mean(), last.std(), last.min(), last.max()
    else:
        mean, std, low, high = spread.mean, spread.std, spread.min, spread.max
    low, high = max(low, mean - 3 * std), min(high, mean + 3 * std)
    return np.linspace(low, high if high > low else low + 1.0, _VALUE_BINS + 1)


def _visible_by_block(buffer: ExpertBuffer, name: str) -> dict[str, dict[str, float]]:
    """Return the share of every block that a mask shows, averaged over episodes."""
    spec, stored = buffer.spec, buffer.array(f"masks/{name}")
    shown = np.zeros((spec.n_agents, spec.obs_width))
    if len(stored.spec.shape) == len("NO"):
        shown += buffer.mask(name)
    else:
        for index in range(stored.chunk_count):
            shown += stored.chunk(index).sum(axis=0)
        shown /= stored.rows
    return {
        agent: {
            block: _visible_share(shown[row], ranges)
            for block, ranges in spec.blocks[agent].items()
        }
        for row, agent in enumerate(spec.agents)
    }


def _visible_share(shown: FloatArray, ranges: tuple[tuple[int, int], ...]) -> float:
    values: list[float] = [x for start, stop in ranges for x in shown[start:stop].tolist()]
    return sum(values) / max(1, len(values))
