"""Widths that meet a budget: capacity follows what an agent's observation blocks are worth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

from kd_offline.errors import BudgetError, UsageError
from kd_offline.hardware import profiles
from kd_offline.hardware.model import Demand, predict
from kd_offline.networks.arithmetic import ExportedShape, memory_cost, network_cost
from kd_offline.schemas.budget import (
    AgentBudget,
    Allocation,
    Budget,
    BudgetFigure,
    Quantity,
    Worth,
)
from kd_offline.schemas.hardware import EngineFigures, HardwareProfile
from kd_offline.schemas.student import StudentCard
from kd_offline.students.networks import StudentInputs, agent_shape, exported_shape

NARROWEST, GRAIN = 4, 8
"""The exported C computes blocks of 8 rows, so widths between multiples of 8 save little."""

KB = 1024

Figures = dict[Quantity, BudgetFigure]
Cost = Callable[[int, int], Figures]  # of an agent at a width

_UNITS: dict[Quantity, str] = {
    "latency_us": "us",
    "flash_kb": "KB of flash",
    "ram_kb": "KB of RAM",
    "macs": "MACs",
    "energy_uj": "uJ",
}


def device_of(budget: Budget) -> HardwareProfile | None:
    """Return the profile that a budget names.

    Raises
    ------
    UnknownNameError, UsageError
        It does not exist, or is not whole.
    """
    return None if budget.profile is None else profiles.load(budget.profile)


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
    device = device_of(budget)
    limits = _limits(budget, device)

    @cache
    def cost(agent: int, width: int) -> Figures:
        return card_figures(card, agent, width, budget, device)

    _check_known(cost(0, NARROWEST), limits, budget, device)
    shares = _shares([worth.total for worth in worths])
    find = _on_one_device if budget.shared_device else _on_own_devices
    widths = find(cost, card.widths, shares, limits)
    if widths is None:
        narrowest = [cost(i, min(NARROWEST, widest)) for i, widest in enumerate(card.widths)]
        raise BudgetError(_nearest(card, narrowest, budget, limits))
    each = [cost(i, width) for i, width in enumerate(widths)]
    agents = zip(card.environment.agents, widths, card.widths, worths, each, strict=True)
    return Allocation(
        budget=budget,
        limits=limits,
        agents=tuple(
            AgentBudget(agent=agent, hidden=width, widest=widest, worth=worth, figures=found)
            for agent, width, widest, worth, found in agents
        ),
        team={name: one.value for name, one in added(each).items()},
    )


def _on_own_devices(
    cost: Cost, widest: Sequence[int], shares: Sequence[float], limits: Mapping[Quantity, float]
) -> list[int] | None:
    """Narrow each agent by itself, from the width that its worth gives it."""
    wanted = next(_candidates(widest, shares))
    found = [_narrowed(cost, i, width, limits) for i, width in enumerate(wanted)]
    return found if all(found) else None


def _on_one_device(
    cost: Cost, widest: Sequence[int], shares: Sequence[float], limits: Mapping[Quantity, float]
) -> list[int] | None:
    """Narrow the whole team until its costs add up to no more than the limits."""
    for widths in _candidates(widest, shares):
        if not _exceeded(added([cost(i, width) for i, width in enumerate(widths)]), limits):
            return widths
    return None


def card_figures(
    card: StudentCard, agent: int, width: int, budget: Budget, device: HardwareProfile | None
) -> Figures:
    """Return what one step of an agent of a team needs at a width."""
    return figures(_shape(card, agent, width), budget, device)


def figures(shape: ExportedShape, budget: Budget, device: HardwareProfile | None) -> Figures:
    """Return what one step of a network needs, as far as it can be told, each with its origin."""
    memory = memory_cost(shape, budget.precision)
    found: Figures = {
        "macs": _derived(network_cost(shape).macs, "closed form of the exported network"),
        "flash_kb": _derived(memory.flash / KB, "tables of the exported C, its code apart"),
        "ram_kb": _derived(memory.ram / KB, "static buffers of the exported C"),
    }
    if device is None:
        return found
    code = _code(device, budget.precision)
    if code is not None:
        found["flash_kb"] = BudgetFigure(
            value=(memory.flash + code) / KB,
            kind="modelled",
            source=f"tables of the exported C, and the size of its code on {device.name}",
        )
    said = predict(device, Demand.of(shape, budget.precision))
    if said.latency_us is not None:
        source = f"{said.basis} on {device.name}: {', '.join(said.figures)}"
        found["latency_us"] = BudgetFigure(value=said.latency_us, kind="modelled", source=source)
    if said.energy.kind == "modelled":
        source = f"{said.energy.formula} on {device.name}: {', '.join(said.energy.figures)}"
        joules = said.energy.microjoules
        found["energy_uj"] = BudgetFigure(value=joules, kind="modelled", source=source)
    return found


def _derived(value: float, source: str) -> BudgetFigure:
    return BudgetFigure(value=value, kind="derived", source=source)


def _code(device: HardwareProfile, precision: str) -> float | None:
    plain = device.engines.get("c", EngineFigures())
    parts = device.engines.get("c-int8", plain) if precision == "int8" else plain
    return None if parts.code is None else parts.code.value


def _limits(budget: Budget, device: HardwareProfile | None) -> dict[Quantity, float]:
    """Return the stated limits, and the flash and the RAM that the device has."""
    found = budget.limits
    own: dict[Quantity, float] = {}
    if device is not None and device.flash is not None:
        own["flash_kb"] = device.flash.value / KB
    if device is not None and device.ram is not None:
        own["ram_kb"] = device.ram.value / KB
    for name, value in own.items():
        found[name] = min(value, found.get(name, value))
    return found


def _check_known(
    cost: Figures, limits: Mapping[Quantity, float], budget: Budget, device: HardwareProfile | None
) -> None:
    for name in limits:
        if name not in cost and device is not None:
            said = predict(device, Demand(1, 1, precision=budget.precision))
            msg = (
                f"profile {device.name!r} cannot predict max_{name}: it lacks "
                f"{', '.join(said.missing)}; choose a profile that has them, or leave that limit "
                "out"
            )
            raise UsageError(msg)


def _shape(card: StudentCard, agent: int, width: int) -> ExportedShape:
    inputs = StudentInputs(card.mask_as_input, card.motion, card.last_action)
    shape = agent_shape(card.environment, card.architecture, agent, width, inputs)
    seen = card.mask_features
    features = card.environment.obs_widths[agent] if seen is None else sum(seen[agent])
    return exported_shape(shape, inputs, features, drawn=seen is None)


def _shares(totals: Sequence[float]) -> list[float]:
    """Return worths as shares of the largest; all are equal where nothing is worth anything."""
    most = max(totals)
    return [total / most if most > 0 else 1.0 for total in totals]


def _steps(widest: int) -> list[int]:
    """Return the widths that are tried up to ``widest``, ascending."""
    return sorted({min(NARROWEST, widest), *range(GRAIN, widest + 1, GRAIN), widest})


def _candidates(widest: Sequence[int], shares: Sequence[float]) -> Iterator[list[int]]:
    """Yield widths of the team from the widest to the narrowest."""
    last: list[int] = []
    for scale in range(max(widest), NARROWEST - 1, -1):
        least = GRAIN if scale >= GRAIN else NARROWEST
        wanted = [max(scale * math.sqrt(share), least) for share in shares]
        widths = [
            max(step for step in _steps(limit) if step <= max(want, min(NARROWEST, limit)))
            for limit, want in zip(widest, wanted, strict=True)
        ]
        if widths != last:
            yield widths
        last = widths
    if max(widest) < NARROWEST:
        yield list(widest)


def _narrowed(cost: Cost, agent: int, width: int, limits: Mapping[Quantity, float]) -> int:
    """Return the largest width up to ``width`` that fits; 0 where none does."""
    fitting = (w for w in reversed(_steps(width)) if not _exceeded(cost(agent, w), limits))
    return next(fitting, 0)


def added(each: Sequence[Figures]) -> Figures:
    """Return the sums over agents; the code is there once for each, as it is exported."""
    return {
        name: one.model_copy(update={"value": sum(cost[name].value for cost in each)})
        for name, one in each[0].items()
    }


def _exceeded(cost: Figures, limits: Mapping[Quantity, float]) -> list[Quantity]:
    return [name for name, limit in limits.items() if cost[name].value > limit * (1 + 1e-9)]


def _nearest(
    card: StudentCard,
    narrowest: Sequence[Figures],
    budget: Budget,
    limits: Mapping[Quantity, float],
) -> str:
    """Return the sentence that names what does not fit, and the nearest budget that would."""
    names = card.environment.agents
    asked = [("the team", added(narrowest))]
    if not budget.shared_device:
        asked = [*zip(names, narrowest, strict=True)]
    over = [(who, name) for who, found in asked for name in _exceeded(found, limits)]
    needed = {name: max(found[name].value for _, found in asked) for _, name in over}
    short = "; ".join(
        f"{who} needs {dict(asked)[who][name].value:,.4g} {_UNITS[name]} (at most "
        f"{limits[name]:,.4g})"
        for who, name in over
    )
    flags = " ".join(f"--max-{n.replace('_', '-')} {_up(n, x)}" for n, x in needed.items())
    where = f" on {budget.profile}" if budget.profile else ""
    least = min(NARROWEST, *card.widths)
    return (
        f"the budget cannot be met{where}: even {least} units wide, {short}; "
        f"the nearest budget that would do is {flags}"
    )


def _up(name: Quantity, value: float) -> str:
    """Round up to a budget that can be stated."""
    if name == "macs":
        return str(math.ceil(value))
    digits = max(1, 2 - math.floor(math.log10(value))) if value > 0 else 1
    return f"{math.ceil(value * 10**digits) / 10**digits:.{digits}f}"
