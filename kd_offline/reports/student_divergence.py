"""How far the students of a run are from the expert in held-out episodes, decision by decision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kd_offline import distributions
from kd_offline.datasets.analysis.blind_spots import (
    Divergences,
    blind_spots,
    sampled_episodes,
)
from kd_offline.datasets.reading.held_out import held_out
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.errors import KdOfflineError, is_torch
from kd_offline.runs.folder import RunFolder
from kd_offline.runs.source import open_dataset
from kd_offline.schemas.blind_spots import BlindSpots
from kd_offline.schemas.run import RunManifest
from kd_offline.types import Array, FloatArray, View

if TYPE_CHECKING:
    from kd_offline.students.policy import StudentPolicy

_STEPS = 5_000
_TEAMS = 3  # distillation seeds, at most


def run_blind_spots(folder: RunFolder, manifest: RunManifest) -> BlindSpots | None:
    """Return the blind spots of a run's expert and students; None without its dataset.

    A part that cannot be read leaves the rest of a report as it is.
    """
    try:
        buffer = open_dataset(manifest, folder.path, None)
        return blind_spots(buffer, student_divergence(folder, buffer))
    except KdOfflineError:
        return None


def student_divergence(folder: RunFolder, buffer: ExpertBuffer) -> Divergences | None:
    """Return KL(expert, student) of every decision in some held-out episodes.

    None where the dataset holds no logits or holds out no episode, or PyTorch is not installed.

    Raises
    ------
    CheckpointError
        The students cannot be used.
    """
    part = held_out(buffer)
    if part is None or not buffer.has("steps/logits"):
        return None
    try:
        from kd_offline.students.policy import load
    except ModuleNotFoundError as error:
        if is_torch(error):
            return None
        raise
    episodes = sampled_episodes(buffer, part.episodes, _STEPS)
    names = ("obs", "available_actions", "alive", "actions", "logits")
    padded, valid = buffer.padded([f"steps/{name}" for name in names], episodes)
    arrays = {name: padded[f"steps/{name}"] for name in names}
    seeds = np.zeros(len(episodes), np.uint64)
    if buffer.has("episodes/seed"):
        seeds = buffer.episodes("seed")[episodes]
    kind = distributions.played(buffer.spec)
    legal = arrays["available_actions"]
    expert = kind(arrays["logits"], legal)
    teams = load(folder.path)[:_TEAMS]
    kl: FloatArray = np.zeros(legal.shape[:3])
    for team in teams:
        kl += expert.kl(kind(_logits(team, arrays, seeds), legal)) / len(teams)
    counted = valid[..., None] & arrays["alive"] & kind.has_choice(legal)
    row, step, agent = np.nonzero(counted)
    return Divergences(episodes, episodes[row], step, agent, kl[counted])


def _logits(team: StudentPolicy, arrays: dict[str, Array], seeds: Array) -> Array:
    """Return the students' logits on recorded views, [B, T, N, A], with the recorded actions."""
    memory, logits = team.start(seeds), []
    batch, steps = arrays["obs"].shape[:2]
    for step in range(steps):
        last = None if step == 0 else arrays["actions"][:, step - 1].astype(np.int64)
        view = View(
            obs=arrays["obs"][:, step],
            state=np.zeros((batch, 1), np.float32),  # students have none
            available_actions=arrays["available_actions"][:, step],
            alive=arrays["alive"][:, step],
            last_actions=last,
        )
        output, memory = team.act(view, memory)
        logits.append(output.logits)
    return np.stack(logits, axis=1)
