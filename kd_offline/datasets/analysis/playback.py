"""Positions over time in episodes of particle tasks, from the stored observations.

Observations hold positions relative to the observer. If agents also observe their own position
(simple_spread), the frame is the world's. Otherwise the frame is that of the landmarks, which do
not move: an agent that observes the first one at ``d`` is at ``-d``. An agent that observes no
landmark, such as the speaker of simple_speaker_listener, has no position.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.types import Array, FloatArray, IntArray

# Radii of the environments' own drawings, in world units; the format has no sizes.
_RADII = {"mpe/simple_spread_v3": 0.15, "mpe/simple_adversary_v3": 0.15}
_DEFAULT_RADIUS, _MAX_SCENES = 0.075, 8
_PAIRS = ("landmarks", "own_position")


@dataclass(frozen=True, slots=True)
class Scene:
    """One episode to show, with ``F`` frames: one more than steps if ``final/obs`` is stored.

    ``places``: float64 [F, N, 2], NaN for agents without a position; ``landmarks``: float64 [L, 2];
    ``goal``: index of the landmark that an agent should reach, or None; ``actions``: int64
    [T, N]; ``sources``: int64 [T, N]; ``rewards``: float64 [T], summed over agents.
    """

    episode: int
    title: str
    places: FloatArray
    landmarks: FloatArray
    goal: int | None
    actions: IntArray
    sources: IntArray
    rewards: FloatArray
    radius: float


def scenes(buffer: ExpertBuffer) -> tuple[Scene, ...]:
    """Return the notable episodes of a particle task; empty for other environments.

    They are the best, the median and the worst by return, and the median of each noise level.
    """
    spec = buffer.spec
    if not spec.id.startswith("mpe/") or not _agents_seeing_landmarks(spec):
        return ()
    return tuple(
        _scene(buffer, episode, title) for episode, title in notable_episodes(buffer).items()
    )


def notable_episodes(buffer: ExpertBuffer) -> dict[int, str]:
    """Return the index and the title of notable episodes."""
    returns = buffer.episodes("return")
    order = np.argsort(returns, kind="stable")
    reasons = {int(order[-1]): "best"}
    reasons.setdefault(int(order[len(order) // 2]), "median")
    reasons.setdefault(int(order[0]), "worst")
    if buffer.has("episodes/noise_level"):
        levels = buffer.episodes("noise_level")
        for level in np.unique(levels):
            of_level = order[levels[order] == level]
            reasons.setdefault(int(of_level[len(of_level) // 2]), f"median at noise {level:g}")
    return {
        episode: f"{why}, return {returns[episode]:.2f}"
        for episode, why in list(reasons.items())[:_MAX_SCENES]
    }


def _scene(buffer: ExpertBuffer, episode: int, title: str) -> Scene:
    spec, chosen = buffer.spec, np.array([episode])
    names = ["steps/obs", "steps/actions", "steps/reward"]
    optional = ("final/obs", "steps/action_source")
    names += [name for name in optional if buffer.has(name)]
    data = buffer.load(names, chosen)
    obs = data["steps/obs"].astype(np.float64)
    if "final/obs" in data:
        obs = np.concatenate([obs, data["final/obs"]])
    positions, landmarks = _places(spec, np.nan_to_num(obs))
    actions = data["steps/actions"].astype(np.int64)
    sources = data.get("steps/action_source", np.zeros_like(actions)).astype(np.int64)
    return Scene(
        episode=episode,
        title=title,
        places=positions,
        landmarks=landmarks,
        goal=_goal(spec, obs[0], landmarks, positions[0]),
        actions=actions,
        sources=sources,
        rewards=np.nan_to_num(data["steps/reward"].sum(axis=1, dtype=np.float64)),
        radius=_RADII.get(spec.id, _DEFAULT_RADIUS),
    )


def _agents_seeing_landmarks(spec: EnvironmentSpec) -> list[int]:
    """Return the agents that observe landmarks, as blocks of pairs of numbers."""
    rows = []
    for row, agent in enumerate(spec.agents):
        blocks, width = spec.blocks[agent], spec.obs_widths[row]
        sizes = {name: _block_width(blocks[name], width) for name in _PAIRS if name in blocks}
        if sizes.get("landmarks") and all(size % 2 == 0 for size in sizes.values()):
            rows.append(row)
    return rows


def _block_width(ranges: tuple[tuple[int, int], ...], width: int) -> int:
    """Return the number of features of a block; 1, which is odd, if it does not fit."""
    fits = all(0 <= a < b <= width for a, b in ranges)
    return sum(b - a for a, b in ranges) if fits else 1


def _block(spec: EnvironmentSpec, obs: Array, row: int, name: str) -> Array:
    """Return a block of one agent's observations as vectors, [..., k, 2]."""
    ranges = spec.blocks[spec.agents[row]][name]
    values = np.concatenate([obs[..., row, a:b] for a, b in ranges], axis=-1)
    return values.reshape(*values.shape[:-1], -1, 2)


def _places(spec: EnvironmentSpec, obs: Array) -> tuple[FloatArray, FloatArray]:
    """Return positions [F, N, 2] and landmarks [L, 2] in one frame."""
    sighted = _agents_seeing_landmarks(spec)
    absolute = all("own_position" in spec.blocks[spec.agents[row]] for row in sighted)
    positions = np.full((len(obs), spec.n_agents, 2), np.nan)
    for row in sighted:
        if absolute:
            positions[:, row] = _block(spec, obs, row, "own_position")[:, 0]
        else:
            positions[:, row] = -_block(spec, obs, row, "landmarks")[:, 0]
    first = sighted[0]
    landmarks = positions[0, first] + _block(spec, obs[0], first, "landmarks")
    if not absolute:  # the origin is the mean of the landmarks
        middle = landmarks.mean(axis=0)
        positions, landmarks = positions - middle, landmarks - middle
    return positions, landmarks


def _goal(spec: EnvironmentSpec, obs: Array, landmarks: Array, positions: Array) -> int | None:
    """Return the landmark that an agent observes as its goal, by direction or by colour."""
    for row, agent in enumerate(spec.agents):
        if "goal" not in spec.blocks[agent]:
            continue
        goal_features = np.concatenate([obs[row, a:b] for a, b in spec.blocks[agent]["goal"]])
        if len(goal_features) == 2 and np.isfinite(positions[row]).all():
            distances = np.linalg.norm(landmarks - (positions[row] + goal_features), axis=-1)
            return int(distances.argmin())
        if len(goal_features) == len(landmarks):
            return int(goal_features.argmax())
    return None
