"""How well a trained expert plays, on seeds that its training did not use."""

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
    """Play greedily and return the mean return of each side, summed over its agents.

    ``opponents`` says who plays the sides that did not learn; it is only written down.
    """
    spec = environment.spec
    totals: dict[str, list[float]] = {side: [] for side in spec.sides}
    won: list[Int8Array] = []
    batch = largest_batch(environment, _BATCH)
    for first in range(0, episodes, batch):
        seeds = episode_seeds(_SEED, first, min(batch, episodes - first), "evaluation")
        played = collect(environment, policy, seeds, greedy)
        won.append(played.won)
        for side, returns in side_returns(played, spec).items():
            totals[side].extend(returns.tolist())
    return GreedyScore(
        episodes=episodes,
        seed=_SEED,
        returns={side: float(np.mean(x)) for side, x in totals.items()},
        standard_errors={side: float(np.std(x) / np.sqrt(len(x))) for side, x in totals.items()},
        won=share_won(np.concatenate(won)),
        opponents=opponents,
    )


def side_returns(played: Trajectories, spec: EnvironmentSpec) -> dict[str, Array]:
    """Return what the agents of each side earned together in each episode, [B]."""
    reward = (played.steps["reward"] * played.valid[..., None]).sum(0)
    return {
        side: reward[:, [spec.agents.index(agent) for agent in agents]].sum(1)
        for side, agents in spec.sides.items()
    }


def share_won(won: Int8Array) -> float | None:
    """Return the share of won episodes, None where the task has no notion of winning."""
    return float((won == 1).mean()) if (won >= 0).any() else None
