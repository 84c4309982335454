"""Shards that are put together: all of one recording, each once, in their order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kd_offline.datasets.edit.merged_metadata import common_recording
from kd_offline.datasets.format.shards import Shard, listed, shard_of
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.errors import MismatchError
from kd_offline.schemas.dataset import DatasetManifest, RecordingRecord
from kd_offline.seeding import episode_seeds

# Fields of a recording that may differ between its shards.
_FREE_FIELDS = {"episodes", "software", "code_revision", "machine", "started_at", "seconds"}


@dataclass(frozen=True, slots=True)
class WholeRecording:
    """All shards of one recording in their order, and the record of the whole."""

    parents: tuple[ExpertBuffer, ...]
    recording: RecordingRecord


def whole_recording(parents: Sequence[ExpertBuffer]) -> WholeRecording | None:
    """Return the recording that the parents are shards of; None unless all are shards.

    Raises
    ------
    MismatchError
        They are shards of different recordings, one is missing or there twice, or one does not
        hold the episodes of its place.
    CorruptDatasetError
        One states an impossible place.
    """
    shards = [shard_of(parent.where, parent.manifest) for parent in parents]
    placed = [(s, p) for s, p in zip(shards, parents, strict=True) if s is not None]
    if len(placed) < len(parents):
        return None
    placed.sort(key=lambda pair: pair[0].number)
    _require_one_recording(placed)
    _require_each_once(placed)
    _require_own_episodes(placed)
    ordered = tuple(parent for _, parent in placed)
    records = [parent.manifest.recording for parent in ordered]
    return WholeRecording(ordered, common_recording(records))


def _require_one_recording(placed: Sequence[tuple[Shard, ExpertBuffer]]) -> None:
    (first_shard, first), *others = placed
    settings = _settings(first_shard, first.manifest)
    for shard, other in others:
        other_settings = _settings(shard, other.manifest)
        differing = sorted(key for key in settings if settings[key] != other_settings.get(key))
        if differing:
            msg = (
                f"{first.where!r} and {other.where!r} are shards of different recordings "
                f"({', '.join(differing)} differ): merge all shards of one recording, and then "
                "what comes out"
            )
            raise MismatchError(msg)


def _settings(shard: Shard, manifest: DatasetManifest) -> dict[str, Any]:
    """Return what all shards of a recording have in common."""
    recording = manifest.recording.model_dump(exclude=_FREE_FIELDS)
    return {
        "number of shards": shard.of,
        "episodes": shard.whole,
        "environment": manifest.environment,
        "experts": manifest.experts,
    } | {f"recording.{key}": value for key, value in recording.items()}


def _require_each_once(placed: Sequence[tuple[Shard, ExpertBuffer]]) -> None:
    """Raise a ``MismatchError`` that names shards which are missing or there twice."""
    of = placed[0][0].of
    counts = Counter(shard.number for shard, _ in placed)
    problems, remedies = [], []
    if missing := [number for number in range(1, of + 1) if number not in counts]:
        verb = "is" if len(missing) == 1 else "are"
        problems.append(f"shard {listed(missing)} of {of} {verb} missing")
        remedies.append(f"record what is missing with shard='{missing[0]}/{of}'")
    if doubled := sorted(number for number, count in counts.items() if count > 1):
        where = " and ".join(repr(p.where) for s, p in placed if s.number == doubled[0])
        problems.append(f"shard {listed(doubled)} of {of} is there more than once ({where})")
        remedies.append("give each shard once")
    if problems:
        msg = f"these are not all shards of the recording: {'; '.join(problems)}"
        raise MismatchError(msg, " and ".join(remedies))


def _require_own_episodes(placed: Sequence[tuple[Shard, ExpertBuffer]]) -> None:
    """Raise a ``MismatchError`` if a shard does not hold the episodes of its place."""
    expected = 0
    for shard, parent in placed:
        seeds = parent.episodes("seed") if parent.has("episodes/seed") else None
        own = episode_seeds(
            parent.manifest.recording.seed, shard.first, shard.stop - shard.first, "record"
        )
        if shard.first != expected or seeds is None or not np.array_equal(seeds, own):
            msg = (
                f"the dataset at {parent.where!r} does not hold the episodes of shard "
                f"{shard.place} of its recording: record this shard again"
            )
            raise MismatchError(msg)
        expected = shard.stop
    if expected != placed[-1][0].whole:
        msg = (
            f"the shards hold {expected:,} of the {placed[-1][0].whole:,} episodes of their "
            "recording: record the last shard again"
        )
        raise MismatchError(msg)
