"""Evaluate a trained expert greedily, on seeds that its training did not use."""

from __future__ import annotations

import numpy as np

from kd_offline.environments import largest_batch
from kd_offline.environments.protocol import BatchedEnvironment
from kd_offline.rollout.collect import Trajectories, collect
from kd_offline.rollout.play import greedy
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.expert import GreedyScore
from kd_offline.seeding import episode_seeds
from kd_offline.types import Array, Int8Array, TeamPolicy

_BATCH = 1000
_SEED = 0


def greedy_score(
    environment: BatchedEnvironment, policy: TeamPolicy, episodes: int, opponents: str
) -> GreedyScore:
    """Return the mean return of each side in greedy play, summed over its agents.

    ``opponents`` names who plays the sides that were not learned; it is only recorded.
    """
    spec = environment.spec
    totals: dict[str, list[float]] = {side: [] for side in spec.sides}
    won: list[Int8Array] = []
    batch = largest_batch(environment, _BATCH)
    for first in range(0, episodes, batch):
        seeds = episode_seeds(_SEED, first, min(batch, episodes - first), "evaluation")
        trajectories = collect(environment, policy, seeds, greedy)
        won.append(trajectories.won)
        for side, returns in side_returns(trajectories, spec).items():
            totals[side].extend(returns.tolist())
    return GreedyScore(
        episodes=episodes,
        seed=_SEED,
        returns={side: float(np.mean(x)) for side, x in totals.items()},
        standard_errors={side: float(np.std(x) / np.sqrt(len(x))) for side, x in totals.items()},
        won=share_won(np.concatenate(won)),
        opponents=opponents,
    )


def side_returns(trajectories: Trajectories, spec: EnvironmentSpec) -> dict[str, Array]:
    """Return the summed reward of each side's agents in each episode, [B]."""
    reward = (trajectories.steps["reward"] * trajectories.valid[..., None]).sum(0)
    return {
        side: reward[:, [spec.agents.index(agent) for agent in agents]].sum(1)
        for side, agents in spec.sides.items()
    }


def share_won(won: Int8Array) -> float | None:
    """Return the share of won episodes; None where the task has no wins."""
    return float((won == 1).mean()) if (won >= 0).any() else None
