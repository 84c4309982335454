"""Experts and recording settings of a dataset that is made of chosen episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.schemas.dataset import ExpertRecord, NoiseLevel, RecordingRecord
from kd_offline.types import Array, IntArray

Selections = Sequence[tuple[ExpertBuffer, IntArray]]
"""Parents, each with the indices of its chosen episodes."""

_UNKNOWN = ExpertRecord(id=0, kind="unknown", reference="not recorded", parameters=0)


def experts_of_episodes(parent: ExpertBuffer, chosen: IntArray) -> tuple[ExpertRecord, ...]:
    """Return the experts that played some of the chosen episodes; their ids stay."""
    experts = parent.manifest.experts
    if not parent.has("episodes/expert_id"):
        return experts
    played = set(np.unique(parent.episodes("expert_id")[chosen]).tolist())
    return tuple(expert for expert in experts if expert.id in played)


def merge_experts(
    parents: Sequence[ExpertBuffer],
) -> tuple[tuple[ExpertRecord, ...], list[Array]]:
    """Return all experts, each once, and every parent's new ids by episode, int16 [E].

    Two experts are the same if digest and records agree; without a digest also their references.
    Ids of the first parent stay; the others get the next free ones.
    """
    records: list[ExpertRecord] = []
    ids: list[Array] = []
    for parent in parents:
        own_experts = parent.manifest.experts or (_UNKNOWN,)
        merged_ids = {expert.id: _merged_id(expert, records) for expert in own_experts}
        if parent.has("episodes/expert_id"):
            old, index = np.unique(parent.episodes("expert_id"), return_inverse=True)
            ids.append(np.array([merged_ids[int(x)] for x in old], np.int16)[index])
        else:
            ids.append(np.full(parent.n_episodes, merged_ids[own_experts[0].id], np.int16))
    return tuple(records), ids


def _merged_id(expert: ExpertRecord, records: list[ExpertRecord]) -> int:
    """Return the id of ``expert`` among ``records``; adds it if it is new."""
    free = {"id": 0} if expert.digest is None else {"id": 0, "reference": ""}
    for record in records:
        if record.model_copy(update=free) == expert.model_copy(update=free):
            return record.id
    taken = {record.id for record in records}
    new = expert.id if expert.id not in taken else max(taken) + 1
    records.append(expert.model_copy(update={"id": new}))
    return new


def merge_recordings(chosen: Selections) -> RecordingRecord:
    """Return the recording settings that all parents have in common.

    Seed and batch are those of the first; other differences are left out or become unknown.
    """
    recordings = [parent.manifest.recording for parent, _ in chosen]
    rules = [recording.noise_rule for recording in recordings if recording.noise_rule]
    changes = {"noise": noise_mixture(chosen), "noise_rule": "; or ".join(dict.fromkeys(rules))}
    return common_recording(recordings).model_copy(update=changes)


def common_recording(recordings: Sequence[RecordingRecord]) -> RecordingRecord:
    """Return the first recording, reduced to the settings that all have in common.

    Its noise, seed and batch stay; other differences are left out or become unknown.
    """
    first = recordings[0]

    def common(name: str, otherwise: Any) -> Any:
        values = [getattr(recording, name) for recording in recordings]
        return values[0] if all(value == values[0] for value in values) else otherwise

    return first.model_copy(
        update={
            "behaviour": common("behaviour", "unknown"),
            "code_revision": common("code_revision", ""),
            "started_at": common("started_at", ""),
            "settings": _common_entries([recording.settings for recording in recordings]),
            "software": _common_entries([recording.software for recording in recordings]),
            "machine": _common_entries([recording.machine for recording in recordings]),
        }
    )


def noise_mixture(chosen: Selections) -> tuple[NoiseLevel, ...]:
    """Return the noise levels of all chosen episodes together, and their shares.

    They are counted if every parent has the level of each episode, else taken from what the
    parents state.
    """
    weights: dict[float, float] = {}
    total = sum(len(episodes) for _, episodes in chosen)
    counted = all(parent.has("episodes/noise_level") for parent, _ in chosen)
    for parent, episodes in chosen:
        stated = parent.manifest.recording.noise
        level_weights = {noise.level: noise.share * len(episodes) for noise in stated}
        if counted and stated:
            levels = parent.episodes("noise_level")[episodes]
            distinct, counts = np.unique(levels, return_counts=True)
            level_weights = {float(str(x)): float(n) for x, n in zip(distinct, counts, strict=True)}
        for level, weight in (level_weights or {0.0: float(len(episodes))}).items():
            weights[level] = weights.get(level, 0.0) + weight
    if set(weights) == {0.0}:
        return ()
    return tuple(NoiseLevel(level=x, share=weights[x] / total) for x in sorted(weights) if total)


def _common_entries(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the entries that are equal in all tables."""
    first, *others = tables
    return {k: v for k, v in first.items() if all(t.get(k) == v for t in others)}
