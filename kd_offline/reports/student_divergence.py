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
from kd_offline.errors import (
    CheckpointError,
    KdOfflineError,
    MissingArrayError,
    MissingExtraError,
    UsageError,
    is_torch,
)
from kd_offline.runs.folder import RunFolder
from kd_offline.runs.source import open_dataset, why_unread
from kd_offline.schemas.blind_spots import BlindSpots
from kd_offline.schemas.run import RunManifest
from kd_offline.types import Array, FloatArray, View

if TYPE_CHECKING:
    from kd_offline.students.policy import StudentPolicy

_STEPS = 5_000
_TEAMS = 3  # distillation seeds, at most


def run_blind_spots(folder: RunFolder, manifest: RunManifest) -> BlindSpots:
    """Return the blind spots of a run's expert and students.

    What cannot be read leaves the rest of a report as it is: without the dataset no agent is there,
    and without students they are those of the expert alone. The notes say why.
    """
    students, notes = None, list[str]()
    try:
        buffer = open_dataset(manifest, folder.path, None)
        try:
            students = student_divergence(folder, buffer)
        except CheckpointError:
            notes.append("students, since their file cannot be used")
        except (MissingArrayError, UsageError) as error:
            notes.append(f"students, since {error.facts}")
        found = blind_spots(buffer, students)
    except KdOfflineError as error:
        why = (why_unread(error),)
        return BlindSpots(episodes=0, decisions=0, agents=(), regions=(), notes=why)
    return found.model_copy(update={"notes": (*found.notes, *notes)})


def student_divergence(folder: RunFolder, buffer: ExpertBuffer) -> Divergences:
    """Return KL(expert, student) of every decision in some held-out episodes.

    The mean over at most 3 distillation seeds.

    Raises
    ------
    MissingArrayError
        The dataset holds no logits.
    UsageError
        It holds out no episode.
    MissingExtraError
        PyTorch is not installed.
    CheckpointError
        The students cannot be used.
    """
    if not buffer.has("steps/logits"):
        msg = "the dataset holds no logits to compare them with"
        raise MissingArrayError(msg)
    part = held_out(buffer)
    if part is None:
        msg = "the dataset holds out no episode"
        raise UsageError(msg)
    try:
        from kd_offline.students.policy import load
    except ModuleNotFoundError as error:
        if is_torch(error):
            raise MissingExtraError(
                library="torch", extra="torch", purpose="running students"
            ) from error
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
