"""How important each observation block is to an agent's hidden units, from the file alone.

A probe regresses the expert's decision, the probabilities of its actions, on what some blocks
say: once linearly, and once also with fixed random ReLU units (Rahimi & Recht, 2008). Both are
ridge regressions, solved in closed form and judged on rows that they were not fitted to. The
*value* of a set of blocks is the variance of the decision that hidden units explain beyond the
linear map: what a linear map reads needs no hidden unit. The *worth* of a block is its Shapley
value (1953), its mean gain over all orders in which blocks can be added, so the blocks of an agent
add up to the value of all that it sees, whether they are redundant or only useful together. Why so
is in docs/decisions/010-budgets.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations
from math import factorial

import numpy as np

from kd_offline.datasets import ExpertBuffer
from kd_offline.schemas.budget import BlockWorth, Worth
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.seeding import generator
from kd_offline.types import Array, BoolArray, FloatArray, IntArray

DECISIONS = 6000
"""Rows that an agent is measured on, at most; a third of them only judge."""

UNITS = 128
"""Random hidden units of the probe."""

ORDERS = 24
"""Orders of blocks that are tried where there are more; all orders of up to four blocks are."""

RIDGE = 1e-3
"""Of standardised columns, a row."""


def block_importance(
    buffer: ExpertBuffer, visible: BoolArray, *, motion: bool
) -> tuple[Worth, ...]:
    """Return the importance of the visible blocks of each agent, a function of the data alone.

    Parameters
    ----------
    buffer : ExpertBuffer
        With logits or Q-values of its expert, or else with its actions.
    visible : bool [N, O]
        Features that an agent sees.
    motion : bool
        Whether it is also given the change of each since the step before.
    """
    obs, before, decision, rows = _sample(buffer)
    found = []
    for i, agent in enumerate(buffer.spec.agents):
        mine = np.flatnonzero(rows[:, i])[:: max(1, int(rows[:, i].sum()) // DECISIONS)]
        parts = [obs[mine, i], obs[mine, i] - before[mine, i]] if motion else [obs[mine, i]]
        columns = _columns(buffer.spec, i, visible[i], copies=len(parts))
        inputs = np.concatenate(parts, axis=1).astype(np.float64)
        found.append(importance_of(agent, inputs, decision[mine, i].astype(np.float64), columns))
    return tuple(found)


def importance_of(
    agent: str, inputs: FloatArray, decision: FloatArray, columns: dict[str, IntArray]
) -> Worth:
    """Return the importance of the blocks for one agent.

    Parameters
    ----------
    agent : str
    inputs : float [R, K]
    decision : float [R, A]
        Probabilities of the expert's actions.
    columns : dict of int arrays
        Columns of the inputs that each block has.
    """
    names = list(columns)
    spread = float(decision.var(axis=0).sum())
    if not names or spread < 1e-9 or len(inputs) < 30:
        return Worth(agent=agent, total=0.0, linear=0.0, decision=spread, blocks=())
    probe = _Probe(inputs, decision, columns)
    shares = shapley(len(names), probe.gain)
    everything = frozenset(range(len(names)))
    return Worth(
        agent=agent,
        total=max(0.0, probe.gain(everything)),
        linear=max(0.0, probe.explained(everything, units=False)),
        decision=spread,
        blocks=tuple(
            BlockWorth(block=name, worth=share) for name, share in zip(names, shares, strict=True)
        ),
    )


def shapley(players: int, value: Callable[[frozenset[int]], float]) -> list[float]:
    """Return each player's mean gain over the orders in which players can join."""
    orders: Sequence[Sequence[int]]
    if factorial(players) <= ORDERS:
        orders = list(permutations(range(players)))
    else:
        rng = generator(0, "orders of blocks")
        half = [rng.permutation(players).tolist() for _ in range(ORDERS // 2)]
        orders = [*half, *(order[::-1] for order in half)]  # each order and its reverse
    known: dict[frozenset[int], float] = {frozenset(): 0.0}
    gains = [0.0] * players
    for order in orders:
        joined: frozenset[int] = frozenset()
        for player in order:
            after = joined | {player}
            known[after] = known[after] if after in known else value(after)
            gains[player] += (known[after] - known[joined]) / len(orders)
            joined = after
    return gains


class _Probe:
    """Ridge regressions of one agent's decision on any of its blocks."""

    def __init__(
        self, inputs: FloatArray, decision: FloatArray, columns: dict[str, IntArray]
    ) -> None:
        deviation = inputs.std(axis=0)
        live = deviation > 1e-6
        scaled = np.where(live, (inputs - inputs.mean(axis=0)) / np.where(live, deviation, 1), 0.0)
        self.inputs = scaled
        self.decision = decision - decision.mean(axis=0)
        self.blocks = list(columns.values())
        self.judged = np.arange(len(inputs)) % 3 == 2
        rng = generator(0, "probe")
        self.weights = rng.standard_normal((inputs.shape[1], UNITS))
        self.bias = rng.uniform(-1, 1, UNITS)

    def gain(self, chosen: frozenset[int]) -> float:
        """Return the variance that hidden units explain beyond a linear map."""
        return self.explained(chosen, units=True) - self.explained(chosen, units=False)

    def explained(self, chosen: frozenset[int], *, units: bool) -> float:
        """Return the explained variance of the decision on the rows that only judge."""
        kept = np.concatenate([self.blocks[k] for k in sorted(chosen)])
        x = self.inputs[:, kept]
        if units:
            reach = np.maximum(np.sqrt(len(kept)), 1)
            x = np.concatenate([x, np.maximum(x @ self.weights[kept] / reach + self.bias, 0)], 1)
        return _explained(x, self.decision, self.judged)


def _explained(x: FloatArray, y: FloatArray, judged: BoolArray) -> float:
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    fit, target = x[~judged], y[~judged]
    gram = fit.T @ fit + RIDGE * len(fit) * np.eye(fit.shape[1])
    left = y[judged] - x[judged] @ np.linalg.solve(gram, fit.T @ target)
    before = y[judged] - target.mean(axis=0)
    return float((np.square(before).mean(axis=0) - np.square(left).mean(axis=0)).sum())


def _columns(
    spec: EnvironmentSpec, agent: int, visible: BoolArray, *, copies: int
) -> dict[str, IntArray]:
    """Return the visible columns of each block among ``copies`` of the observation."""
    found = {}
    for block, ranges in spec.blocks[spec.agents[agent]].items():
        own = np.concatenate([np.arange(start, stop) for start, stop in ranges])
        own = own[visible[own]]
        if len(own):
            found[block] = np.concatenate([own + k * spec.obs_width for k in range(copies)])
    return found


def _sample(buffer: ExpertBuffer) -> tuple[Array, Array, Array, BoolArray]:
    """Return observations, those of the step before, decisions, and where agents decide.

    Whole training episodes, evenly spread over the file, with enough steps for the probe.
    """
    train = buffer.split("train")
    lengths = buffer.episodes("length")[train]
    wanted = max(1, int(np.ceil(2 * DECISIONS / max(1.0, float(lengths.mean())))))
    chosen = train[:: max(1, len(train) // wanted)]
    said = next(n for n in ("steps/logits", "steps/q_values", "steps/actions") if buffer.has(n))
    data = buffer.load(["steps/obs", "steps/available_actions", "steps/alive", said], chosen)
    obs, legal = data["steps/obs"], data["steps/available_actions"]
    first = np.zeros(len(obs), bool)
    sizes = buffer.episodes("length")[chosen].astype(np.int64)
    first[np.cumsum(sizes) - sizes] = True
    before = np.where(first[:, None, None], obs, np.roll(obs, 1, axis=0))
    decides = data["steps/alive"] & (legal.sum(axis=-1) > 1)
    if said == "steps/actions":
        data[said] = np.where(data["steps/alive"], data[said], 0)
    return obs, before, _decision(said, data[said], legal), decides


def _decision(said: str, values: Array, legal: Array) -> Array:
    """Return the probabilities of the expert's actions; certain where it states no distribution."""
    actions = legal.shape[-1]
    if said == "steps/actions":
        return _certain(values, actions)
    scores = np.where(legal, values.astype(np.float64), -np.inf)
    if said == "steps/q_values":
        return _certain(scores.argmax(axis=-1), actions)
    best = scores.max(axis=-1, keepdims=True)
    odds = np.exp(scores - np.where(np.isfinite(best), best, 0.0))
    shares: Array = odds / np.maximum(odds.sum(axis=-1, keepdims=True), 1e-30)
    return shares


def _certain(taken: Array, actions: int) -> Array:
    decision: Array = np.eye(actions)[taken.astype(np.int64)]
    return decision
