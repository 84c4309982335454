"""Find episodes that occur more than once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from kd_offline.datasets.edit.rewrite import BLOCK_BYTES, episode_slices, row_bytes
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.types import Array, BoolArray, IntArray


def repeated_episodes(
    parents: Sequence[ExpertBuffer], expert_ids: Sequence[Array]
) -> list[BoolArray]:
    """Return for every parent which episodes occur before, there or in an earlier parent.

    Two episodes are the same if seed, expert, noise level and all executed actions agree. If a
    parent has no seeds, all actions, observations and rewards must agree instead.
    """
    seeds = all(parent.has("episodes/seed") for parent in parents)
    columns = ("seed" if seeds else "return", "length", "noise_level")
    labels = episode_labels(parents, expert_ids, columns)
    counts = np.bincount(np.concatenate(labels))
    names = ("steps/actions",) if seeds else ("steps/actions", "steps/obs", "steps/reward")
    known_keys: set[tuple[int, bytes]] = set()
    repeated = []
    for parent, label in zip(parents, labels, strict=True):
        repeats = np.zeros(parent.n_episodes, bool)
        candidates = np.flatnonzero(counts[label] > 1)
        for episode, digest in zip(
            candidates, episode_digests(parent, candidates, names), strict=True
        ):
            key = (int(label[episode]), digest)
            repeats[episode] = key in known_keys
            known_keys.add(key)
        repeated.append(repeats)
    return repeated


def episode_digests(
    parent: ExpertBuffer, episodes: IntArray, names: tuple[str, ...]
) -> Iterator[bytes]:
    """Yield a digest of the steps of every given episode in the arrays ``names``."""
    lengths = parent.episodes("length")[episodes]
    for chunk in episode_slices(lengths, row_bytes(parent, names), BLOCK_BYTES):
        arrays = parent.load(names, episodes[chunk])
        ends = np.cumsum(lengths[chunk], dtype=np.int64)
        for start, stop in zip(ends - lengths[chunk], ends, strict=True):
            digest = hashlib.sha256()
            for name in names:
                digest.update(np.ascontiguousarray(arrays[name][start:stop]).data)
            yield digest.digest()


def episode_labels(
    parents: Sequence[ExpertBuffer], expert_ids: Sequence[Array], columns: Sequence[str]
) -> list[IntArray]:
    """Return a label for each episode, equal for equal experts and ``columns``.

    Columns that a parent does not have are left out.
    """
    shared = [c for c in columns if all(parent.has(f"episodes/{c}") for parent in parents)]
    tables = [
        np.stack([_exact_bits(ids), *(_exact_bits(parent.episodes(column)) for column in shared)])
        for parent, ids in zip(parents, expert_ids, strict=True)
    ]
    _, labels = np.unique(np.concatenate(tables, axis=1), axis=1, return_inverse=True)
    ends = np.cumsum([parent.n_episodes for parent in parents])
    return np.split(labels.reshape(-1), ends[:-1])


def _exact_bits(values: Array) -> Array:
    """Return uint64 numbers that are equal where ``values`` are, for any dtype."""
    if values.dtype == np.uint64:
        return values
    return (values.astype(np.float64) + 0.0).view(np.uint64)  # -0.0 becomes 0.0
