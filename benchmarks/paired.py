"""Greedy returns of two groups of policies on the same episodes, and their difference.

    PYTHONPATH=. python -m benchmarks.paired mpe/simple_adversary_v3 --side good \
        --first side-0 side-1 side-2 --second pooled-0 pooled-1 pooled-2

A policy is a folder of `kd-offline train`, a bundled expert, or `RUN:SEED`, the students of a run.
With `--side` the bundled expert plays the other side. Policies of a group are seeds of one
training, in the same order in both groups; the intervals (95 %) are those of every report.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

from benchmarks.results.plan import EVALUATION_SEED
from kd_offline import environments
from kd_offline.environments.protocol import BatchedEnvironment
from kd_offline.evaluation.intervals import Interval, mean_interval
from kd_offline.evaluation.rollout import rollout
from kd_offline.experts.load import load
from kd_offline.rollout.policies import MixedTeam
from kd_offline.seeding import episode_seeds
from kd_offline.students.policy import load as load_students
from kd_offline.types import FloatArray, SeedArray, TeamPolicy


def policy(reference: str, environment: BatchedEnvironment) -> TeamPolicy:
    """Return an expert, or the students of a run."""
    run, _, seed = reference.rpartition(":")
    if run and seed.isdecimal():
        return next(team for team in load_students(run) if team.seed == int(seed))
    return load(reference, environment.spec, with_value=False)


def returns(
    reference: str, environment: BatchedEnvironment, side: str | None, seeds: SeedArray
) -> FloatArray:
    """Return what the agents of a side earn together in each episode, [E]."""
    spec = environment.spec
    team = policy(reference, environment)
    mine = [side is None or agent in spec.sides[side] for agent in spec.agents]
    if side is not None:
        others = load("bundled", spec, with_value=False)
        team = MixedTeam((team, others), tuple(int(not own) for own in mine))
    played = rollout(environment, team, seeds, greedy=True)
    total: FloatArray = played.returns[:, mine].sum(1)
    return total


def shown(name: str, found: Interval, k: int) -> str:
    """Return one line of the result."""
    return f"{name:10} {found.mean:8.3f} [{found.low:.3f}, {found.high:.3f}]  K={k}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Play and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("environment")
    parser.add_argument("--side")
    parser.add_argument("--first", nargs="+", required=True)
    parser.add_argument("--second", nargs="+", required=True)
    parser.add_argument("--episodes", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=EVALUATION_SEED)
    given = parser.parse_args(arguments)
    world = environments.load(given.environment)
    seeds = episode_seeds(given.seed, 0, given.episodes, "evaluation")
    first, second = (
        np.stack([returns(name, world, given.side, seeds) for name in group])
        for group in (given.first, given.second)
    )
    for name, table in (("first", first), ("second", second)):
        print(shown(name, mean_interval(table), len(table)))
        print("           seeds", *(f"{value:.3f}" for value in table.mean(1)))
    difference = first - second  # a single policy on one side is compared with every other
    print(shown("difference", mean_interval(difference), len(difference)))


if __name__ == "__main__":
    main()
