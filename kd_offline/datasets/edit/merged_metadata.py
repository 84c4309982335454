"""What chosen episodes say of their experts and of how they were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.schemas.dataset import ExpertRecord, NoiseLevel, RecordingRecord
from kd_offline.types import Array, IntArray

Chosen = Sequence[tuple[ExpertBuffer, IntArray]]
"""Parents and the indices of the episodes that are taken from each."""

_UNKNOWN = ExpertRecord(id=0, kind="unknown", reference="not recorded", parameters=0)


def kept_experts(parent: ExpertBuffer, chosen: IntArray) -> tuple[ExpertRecord, ...]:
    """Return the experts that played some of the chosen episodes, with their ids."""
    experts = parent.manifest.experts
    if not parent.has("episodes/expert_id"):
        return experts
    played = set(np.unique(parent.episodes("expert_id")[chosen]).tolist())
    return tuple(expert for expert in experts if expert.id in played)


def joined_experts(
    parents: Sequence[ExpertBuffer],
) -> tuple[tuple[ExpertRecord, ...], list[Array]]:
    """Return all experts, each once, and the new id of every episode of every parent, int16 [E].

    An expert is the same where its weights and everything that is said of them are; without a
    digest, its reference as well. Ids of the first parent stay, the others take the next free ones.
    """
    records: list[ExpertRecord] = []
    ids: list[Array] = []
    for parent in parents:
        mine = parent.manifest.experts or (_UNKNOWN,)
        new = {expert.id: _place(expert, records) for expert in mine}
        if parent.has("episodes/expert_id"):
            old, place = np.unique(parent.episodes("expert_id"), return_inverse=True)
            ids.append(np.array([new[int(x)] for x in old], np.int16)[place])
        else:
            ids.append(np.full(parent.n_episodes, new[mine[0].id], np.int16))
    return tuple(records), ids


def _place(expert: ExpertRecord, records: list[ExpertRecord]) -> int:
    """Return the id of ``expert`` among ``records``, adding it where it is new."""
    free = {"id": 0} if expert.digest is None else {"id": 0, "reference": ""}
    for record in records:
        if record.model_copy(update=free) == expert.model_copy(update=free):
            return record.id
    taken = {record.id for record in records}
    new = expert.id if expert.id not in taken else max(taken) + 1
    records.append(expert.model_copy(update={"id": new}))
    return new


def joined_recording(chosen: Chosen) -> RecordingRecord:
    """Return what the recordings of all parents have in common.

    Seed and batch are the first one's; what differs otherwise is left out or said to be unknown.
    """
    all_of = [parent.manifest.recording for parent, _ in chosen]
    first = all_of[0]

    def common(name: str, otherwise: Any) -> Any:
        values = [getattr(recording, name) for recording in all_of]
        return values[0] if all(value == values[0] for value in values) else otherwise

    rules = [recording.noise_rule for recording in all_of if recording.noise_rule]
    return first.model_copy(
        update={
            "behaviour": common("behaviour", "unknown"),
            "noise": mixture(chosen),
            "noise_rule": "; or ".join(dict.fromkeys(rules)),
            "code_revision": common("code_revision", ""),
            "started_at": common("started_at", ""),
            "settings": _shared([recording.settings for recording in all_of]),
            "software": _shared([recording.software for recording in all_of]),
            "machine": _shared([recording.machine for recording in all_of]),
        }
    )


def mixture(chosen: Chosen) -> tuple[NoiseLevel, ...]:
    """Return the levels of behaviour noise of all chosen episodes together, and their shares.

    Counted where every parent tells the level of each episode, else from what they state.
    """
    weights: dict[float, float] = {}
    total = sum(len(episodes) for _, episodes in chosen)
    counted = all(parent.has("episodes/noise_level") for parent, _ in chosen)
    for parent, episodes in chosen:
        stated = parent.manifest.recording.noise
        found = {part.level: part.share * len(episodes) for part in stated}
        if counted and stated:
            levels = parent.episodes("noise_level")[episodes]
            distinct, counts = np.unique(levels, return_counts=True)
            found = {float(str(x)): float(n) for x, n in zip(distinct, counts, strict=True)}
        for level, weight in (found or {0.0: float(len(episodes))}).items():
            weights[level] = weights.get(level, 0.0) + weight
    if set(weights) == {0.0}:
        return ()
    return tuple(NoiseLevel(level=x, share=weights[x] / total) for x in sorted(weights) if total)


def _shared(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the entries that all tables have alike."""
    first, *others = tables
    return {k: v for k, v in first.items() if all(t.get(k) == v for t in others)}
