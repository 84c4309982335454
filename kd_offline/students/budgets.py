"""Widths that meet a budget: capacity follows what an agent's observation blocks are worth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache

from kd_offline.errors import UsageError
from kd_offline.schemas.budget import AgentBudget, Allocation, Budget, Worth
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.layers import LayerWidths, Widths, widest
from kd_offline.schemas.recipes import StudentArchitecture
from kd_offline.schemas.student import StudentCard
from kd_offline.students.cost_bounds import NARROWEST, Bounds, Figures, added
from kd_offline.types import BoolArray, IntArray

USUAL_LEAST = 8
"""What an agent gets that is worth next to nothing, unless the whole team has to be narrower."""

Cost = Callable[[int, int], Figures]  # of an agent at a width


def allocate_budget(card: StudentCard, worths: Sequence[Worth], budget: Budget) -> Allocation:
    """Return widths that meet a budget, as a model of the device predicts.

    The weights of a network grow with the square of its width, so an agent's width is that of the
    agent that is worth most, times the square root of its own share of that worth. Where every
    agent has its own device, each is then narrowed until it fits; on a shared device all are.

    Parameters
    ----------
    card : StudentCard
        Its widths are the widest that are allowed.
    worths : sequence of Worth
        Of each agent.
    budget : Budget

    Raises
    ------
    BudgetError
        Not even the narrowest students fit; the message names the nearest budget that would do.
    UsageError
        A limit is stated that the profile cannot predict.
    """
    bounds = Bounds.of(card, budget)
    bounds.require_possible()
    shares = _shares([worth.total for worth in worths])
    find = _on_one_device if budget.shared_device else _on_own_devices
    return allocation(bounds, find(bounds, cache(bounds.cost), shares), worths)


def allocation(
    bounds: Bounds, widths: Sequence[Widths], worths: Sequence[Worth] | None = None
) -> Allocation:
    """Return the predicted costs of a team of these widths, and their limits."""
    each = [bounds.cost(i, one) for i, one in enumerate(widths)]
    names, allowed = bounds.card.environment.agents, bounds.card.widths
    return Allocation(
        budget=bounds.budget,
        limits=dict(bounds.limits),
        agents=tuple(
            AgentBudget(
                agent=name,
                hidden=widest(widths[i]),
                layers=one if isinstance(one := widths[i], LayerWidths) else None,
                widest=allowed[i],
                worth=None if worths is None else worths[i],
                figures=each[i],
            )
            for i, name in enumerate(names)
        ),
        team={name: one.value for name, one in added(each).items()},
    )


def _on_own_devices(bounds: Bounds, cost: Cost, shares: Sequence[float]) -> list[int]:
    """Narrow each agent by itself, from the width that its worth gives it."""
    wanted = next(_candidates(bounds.card.widths, shares))
    return [
        next(w for w in range(width, 0, -1) if not bounds.exceeded(cost(i, w)))
        for i, width in enumerate(wanted)
    ]


def _on_one_device(bounds: Bounds, cost: Cost, shares: Sequence[float]) -> list[int]:
    """Narrow the whole team until its costs add up to no more than the limits."""
    return next(
        widths
        for widths in _candidates(bounds.card.widths, shares)
        if not bounds.exceeded(added([cost(i, width) for i, width in enumerate(widths)]))
    )


def _shares(totals: Sequence[float]) -> list[float]:
    """Return worths as shares of the largest; all are equal where nothing is worth anything."""
    most = max(totals)
    return [total / most if most > 0 else 1.0 for total in totals]


def _candidates(widest: Sequence[int], shares: Sequence[float]) -> Iterator[list[int]]:
    """Yield widths of the team from the widest to the narrowest."""
    last: list[int] = []
    for scale in range(max(widest), NARROWEST - 1, -1):
        least = USUAL_LEAST if scale >= USUAL_LEAST else NARROWEST
        wanted = [max(int(scale * math.sqrt(share)), least) for share in shares]
        widths = [min(limit, want) for limit, want in zip(widest, wanted, strict=True)]
        if widths != last:
            yield widths
        last = widths
    if max(widest) < NARROWEST:
        yield list(widest)


NARROW, WIDE, GRAIN = 16, 32, 8


def allocate(
    architecture: StudentArchitecture, spec: EnvironmentSpec, visible: BoolArray
) -> tuple[int, ...]:
    """Return one hidden width per agent.

    Parameters
    ----------
    architecture
        ``hidden`` is one width, one for each agent, or ``auto``: between 16 for the agent that sees
        least and 32 for the one that sees most, in steps of 8, by the number of features seen
        (KD-MARL section III-A: capacity follows observation complexity). Agents that all see
        equally much get 32.
    visible : bool [N, O]
        Features that an agent sees and that are not constant in the dataset.

    Raises
    ------
    UsageError
        The number of widths is not the number of agents, or a width is below 1.
    """
    hidden = architecture.hidden
    if hidden == "auto":
        return _auto(visible.sum(axis=1))
    widths = (hidden,) * spec.n_agents if isinstance(hidden, int) else tuple(hidden)
    if len(widths) != spec.n_agents or min(widths) < 1:
        given = ",".join(map(str, widths))
        msg = (
            f"hidden widths {given} do not fit the {spec.n_agents} agents of {spec.id} "
            f"({', '.join(spec.agents)}): give one positive width, one for each agent, or auto"
        )
        raise UsageError(msg)
    return widths


def _auto(seen: IntArray) -> tuple[int, ...]:
    low, high = int(seen.min()), int(seen.max())
    if low == high:
        return (WIDE,) * len(seen)
    share = (seen - low) / (high - low)
    return tuple(int(NARROW + GRAIN * round(s * (WIDE - NARROW) / GRAIN)) for s in share)
