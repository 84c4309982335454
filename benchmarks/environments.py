"""Steps a second of our environments and of the libraries they stand for, with random actions.

One step is one action of every agent of one environment; steps after an episode's end do not count.
Each figure is the median of ``--repeats`` rounds, measured in one process, resets included; rounds
of all candidates take turns, so that a change of the machine's load falls on all of them. The
particle tasks are compared with mpe2, SMAX with JaxMARL's own batched step with its automatic
resets, driven from Python, for as many games as the largest batch.

    python benchmarks/environments.py --batches 1 64 512 --json
    python benchmarks/environments.py --tasks smax/3m --batches 16 64 256
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


def batched_round(name: str, batch: int, settings: dict[str, str]) -> Callable[[], int]:
    """Return a function that plays one batch of episodes and returns its steps."""
    env = environments.load(name, **settings)
    limit, agents = env.spec.episode_limit, env.spec.n_agents
    counts = np.array(env.spec.action_counts)
    actions = np.random.default_rng(0).integers(0, counts, (limit, batch, agents))
    seeds = np.arange(batch, dtype=np.uint64)

    def play() -> int:
        env.reset(seeds)
        running, steps = np.ones(batch, bool), 0
        for step in range(limit):
            outcome = env.step(actions[step])
            steps += int(running.sum())
            running = ~(outcome.terminated | outcome.truncated)
            if not running.any():
                break
        return steps

    return play


def jaxmarl_round(name: str, batch: int) -> Callable[[], int]:
    """Return a function that plays 30 steps of JaxMARL's own batch and returns their number."""
    import jax

    from kd_offline.environments.smax.environment import make_game
    from kd_offline.environments.smax.settings import SmaxSettings

    game = make_game(name.removeprefix("smax/"), SmaxSettings())
    reset, step = jax.jit(jax.vmap(game.reset)), jax.jit(jax.vmap(game.step))
    keys = jax.random.split(jax.random.key(0), batch)
    shape = (30, batch, len(game.agents))
    drawn = np.random.default_rng(0).integers(0, 5 + game.num_enemies, shape, np.int32)
    chosen = [{a: row[:, i] for i, a in enumerate(game.agents)} for row in drawn]

    def play() -> int:
        _, state = reset(keys)
        for actions in chosen:
            obs, state, *_ = step(keys, state, actions)
            jax.tree.map(np.asarray, obs)
        return shape[0] * batch

    play()  # the second call compiles again, as the first state had weaker types
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
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), help="particle or smax/<map>")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64, 512])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dtype", choices=("float64", "float32"), default="float64")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    given = parser.parse_args(arguments)
    result = {}
    for name in given.tasks:
        settings = {"dtype": given.dtype} if name in TASKS else {}
        rounds = {f"B={b}": batched_round(name, b, settings) for b in given.batches}
        own = (
            {"mpe2": library_round(TASKS[name], 8)}
            if name in TASKS
            else {"JaxMARL": jaxmarl_round(name, max(given.batches))}
        )
        result[name] = measure(own | rounds, given.repeats)
    if given.json:
        settings = {"repeats": given.repeats, "dtype": given.dtype}
        print(json.dumps({**settings, "steps_per_second": result}, indent=2))
        return
    for name, rates in result.items():
        print(name)
        library = next(iter(rates))
        for candidate, rate in rates.items():
            ratio = rate / rates[library]
            print(f"  {candidate:>8} {rate:>12,.0f} steps/s  {ratio:>7.2f} x {library}")


if __name__ == "__main__":
    main(sys.argv[1:])
