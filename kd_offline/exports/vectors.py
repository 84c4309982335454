"""Recorded steps for self-tests: inputs of each agent and its expected outputs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kd_offline.exports.parity_check import Recorded, greedy
from kd_offline.exports.team import ExportedTeam
from kd_offline.types import BoolArray, Float32Array, IntArray


class Vectors(NamedTuple):
    """Steps of one agent, episode after episode, and the answers to expect."""

    obs: Float32Array  # [R, I]
    legal: BoolArray  # [R, A]
    executed: IntArray  # [R], a step ago; -1 where an episode begins
    action: IntArray  # [R]
    logits: Float32Array  # [R, A]


def vectors(team: ExportedTeam, logits: Float32Array, episodes: Recorded) -> list[Vectors]:
    """Return the steps of whole episodes with the team's ``logits`` [E, T, N, A]."""
    start, valid = team.start(episodes.seeds), episodes.valid
    actions = episodes.arrays["actions"].astype(np.int64)
    before = np.full_like(actions, -1)
    before[:, 1:] = actions[:, :-1]
    chosen, found = greedy(logits, episodes), []
    for i, agent in enumerate(team.agents):
        obs = np.stack([team.seen(view, start, i) for view in episodes.views()], axis=1)
        count = len(agent.actions)
        legal = episodes.arrays["available_actions"][:, :, i, :count]
        said = logits[:, :, i, :count]
        executed, action = before[:, :, i], chosen[:, :, i]
        found.append(Vectors(obs[valid], legal[valid], executed[valid], action[valid], said[valid]))
    return found
