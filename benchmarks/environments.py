"""Steps a second of the particle tasks, batched and in mpe2, with random actions.

One step is one action of every agent of one environment. Each figure is the median of ``--repeats``
rounds, measured in one process, resets included; rounds of all candidates take turns, so that a
change of the machine's load falls on all of them.

    python benchmarks/environments.py --batches 1 64 512 --json
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from kd_offline import environments

TASKS = {
    "mpe/simple_spread_v3": "mpe2.simple_spread_v3",
    "mpe/simple_speaker_listener_v4": "mpe2.simple_speaker_listener_v4",
    "mpe/simple_adversary_v3": "mpe2.simple_adversary_v3",
}


def batched_round(name: str, batch: int, dtype: str) -> Callable[[], int]:
    """Return a function that plays one batch of episodes and returns its steps."""
    env = environments.load(name, dtype=dtype)
    limit, agents = env.spec.episode_limit, env.spec.n_agents
    counts = np.array(env.spec.action_counts)
    actions = np.random.default_rng(0).integers(0, counts, (limit, batch, agents))
    seeds = np.arange(batch, dtype=np.uint64)

    def play() -> int:
        env.reset(seeds)
        for step in range(limit):
            env.step(actions[step])
        return limit * batch

    return play


def library_round(module: str, episodes: int) -> Callable[[], int]:
    """Return a function that plays ``episodes`` in mpe2 and returns its steps."""
    env = importlib.import_module(module).parallel_env()
    env.reset(seed=0)
    agents: list[str] = list(env.possible_agents)
    counts = np.array([env.action_space(agent).n for agent in agents])
    drawn = np.random.default_rng(0).integers(0, counts, (25, len(agents))).tolist()
    chosen: list[dict[str, Any]] = [dict(zip(agents, row, strict=True)) for row in drawn]

    def play() -> int:
        for episode in range(episodes):
            env.reset(seed=episode)
            for actions in chosen:
                env.step(actions)
        return episodes * len(chosen)

    return play


def measure(rounds: dict[str, Callable[[], int]], repeats: int) -> dict[str, float]:
    """Return the median steps a second of each round, after one round to warm up."""
    rates: dict[str, list[float]] = {name: [] for name in rounds}
    for repeat in range(repeats + 1):
        for name, play in rounds.items():
            begin = time.perf_counter()
            steps = play()
            if repeat:
                rates[name].append(steps / (time.perf_counter() - begin))
    return {name: statistics.median(values) for name, values in rates.items()}


def main(arguments: list[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64, 512])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dtype", choices=("float64", "float32"), default="float64")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    given = parser.parse_args(arguments)
    result = {}
    for name, module in TASKS.items():
        rounds = {f"B={b}": batched_round(name, b, given.dtype) for b in given.batches}
        result[name] = measure({"mpe2": library_round(module, 8), **rounds}, given.repeats)
    if given.json:
        settings = {"repeats": given.repeats, "dtype": given.dtype}
        print(json.dumps({**settings, "steps_per_second": result}, indent=2))
        return
    for name, rates in result.items():
        print(name)
        for candidate, rate in rates.items():
            print(f"  {candidate:>8} {rate:>12,.0f} steps/s  {rate / rates['mpe2']:>7.1f} x mpe2")


if __name__ == "__main__":
    main(sys.argv[1:])
