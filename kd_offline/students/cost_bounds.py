"""Costs of students, and the limits of a budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kd_offline.errors import BudgetError, Remedy, UsageError
from kd_offline.hardware import profiles
from kd_offline.hardware.model import Demand, predict
from kd_offline.networks.arithmetic import DeployedShape, Shape, StudentShape
from kd_offline.schemas.budget import Budget, BudgetFigure, Quantity
from kd_offline.schemas.hardware import EngineFigures, HardwareProfile
from kd_offline.schemas.layers import Widths
from kd_offline.schemas.recipes import StudentArchitecture
from kd_offline.schemas.student import StudentCard
from kd_offline.students.families import declines, family_of
from kd_offline.students.networks import StudentInputs, agent_shape, exported_shape

NARROWEST = 4
KB = 1024

Figures = dict[Quantity, BudgetFigure]

_UNITS: dict[Quantity, str] = {
    "latency_us": "us",
    "flash_kb": "KB of flash",
    "ram_kb": "KB of RAM",
    "macs": "MACs",
    "energy_uj": "uJ",
}


@dataclass(frozen=True, slots=True)
class Bounds:
    """A budget as it binds the students of one card, whose widths are the widest allowed."""

    card: StudentCard
    budget: Budget
    device: HardwareProfile | None
    limits: Mapping[Quantity, float]

    @classmethod
    def of(cls, card: StudentCard, budget: Budget) -> Bounds:
        """Look up the device and what it can predict.

        Raises
        ------
        UnknownNameError, UsageError
            The profile does not exist, is not whole, or cannot predict a limit that is stated.
        """
        device = device_of(budget)
        bounds = cls(card, budget, device, _limits(budget, device))
        bounds._check_known()
        return bounds

    def cost(self, agent: int, widths: Widths) -> Figures:
        """Return the cost of one step of an agent at these widths."""
        return figures(card_shape(self.card, agent, widths), self.budget, self.device)

    def trained(self, agent: int) -> StudentShape:
        """Return the network of an agent at its widest, as it is trained."""
        return trained_shape(self.card, agent, self.card.widths[agent])

    def exceeded(self, cost: Figures) -> list[Quantity]:
        """Return the limits that one device's cost is beyond."""
        return [n for n, limit in self.limits.items() if cost[n].value > limit * (1 + 1e-9)]

    def narrowest(self, agent: int) -> int:
        """Return the least width of an agent's layers."""
        return min(NARROWEST, self.card.widths[agent])

    def require_possible(self) -> None:
        """Raise a ``BudgetError`` that names the nearest budget where the narrowest do not fit."""
        count = len(self.card.widths)
        least = [self.cost(i, self.narrowest(i)) for i in range(count)]
        devices = [added(least)] if self.budget.shared_device else least
        if any(self.exceeded(cost) for cost in devices):
            raise self._nearest(least)

    def _check_known(self) -> None:
        cost, device = self.cost(0, self.narrowest(0)), self.device
        family = self.card.architecture.family
        if "flash_kb" not in cost and (set(self.limits) - {"macs"} or device is not None):
            msg = (
                f"a budget of {', '.join(self.limits)} is one of exported C, and students of the "
                f"family {family!r} have none: state max_macs alone, or choose another family"
            )
            raise UsageError(msg)
        for name in self.limits:
            if name not in cost and device is not None:
                said = predict(device, Demand(1, 1, precision=self.budget.precision))
                msg = (
                    f"profile {device.name!r} cannot predict max_{name}: it lacks "
                    f"{', '.join(said.missing)}; choose a profile that has them, or leave that "
                    "limit out"
                )
                raise UsageError(msg)

    def _nearest(self, narrowest: Sequence[Figures]) -> BudgetError:
        """Return the error that names what does not fit, and the nearest budget that would."""
        asked = {"the team": added(narrowest)}
        if not self.budget.shared_device:
            asked = dict(zip(self.card.environment.agents, narrowest, strict=True))
        over = [(who, name) for who, found in asked.items() for name in self.exceeded(found)]
        needed = {name: max(found[name].value for found in asked.values()) for _, name in over}
        short = "; ".join(
            f"{who} needs {asked[who][name].value:,.4g} {_UNITS[name]} (at most "
            f"{self.limits[name]:,.4g})"
            for who, name in over
        )
        enough = {f"budget.max_{name}": _up(name, value) for name, value in needed.items()}
        where = f" on {self.budget.profile}" if self.budget.profile else ""
        least = min(NARROWEST, *self.card.widths)
        msg = f"the budget cannot be met{where}: even {least} units wide, {short}"
        return BudgetError(msg, Remedy("the nearest budget that would do is", settings=enough))


def require_predicted(architecture: StudentArchitecture) -> None:
    """Raise a ``UsageError`` if students of these settings have no form that devices run.

    Latency and energy are predicted of exported C.
    """
    if "c" in declines(architecture):
        msg = (
            "latency and energy are predicted of exported C, and students of the family "
            f"{architecture.family!r} have none: name no device, or choose another family"
        )
        raise UsageError(msg)


def device_of(budget: Budget) -> HardwareProfile | None:
    """Return the profile that a budget names.

    Raises
    ------
    UnknownNameError, UsageError
        It does not exist, or is not whole.
    """
    return None if budget.profile is None else profiles.load(budget.profile)


def trained_shape(card: StudentCard, agent: int, widths: Widths) -> StudentShape:
    """Return the network of an agent of a team as it is trained."""
    inputs = StudentInputs(card.mask_as_input, card.motion, card.last_action)
    return agent_shape(card.environment, card.architecture, agent, widths, inputs)


def card_shape(card: StudentCard, agent: int, widths: Widths) -> DeployedShape:
    """Return the network of an agent of a team as it is deployed."""
    inputs = StudentInputs(card.mask_as_input, card.motion, card.last_action)
    seen = card.mask_features
    features = card.environment.obs_widths[agent]
    if seen is not None and family_of(card.architecture).drops_columns:
        features = sum(seen[agent])
    shape = trained_shape(card, agent, widths)
    return exported_shape(shape, inputs, features, drawn=seen is None)


def figures(shape: Shape, budget: Budget, device: HardwareProfile | None) -> Figures:
    """Return the known costs of one step of a network, each with its origin."""
    memory = shape.memory(budget.precision)
    found: Figures = {"macs": _derived(shape.cost().macs, "closed form of the exported network")}
    if memory is None or memory.flash is None or memory.ram is None:
        return found  # no C is exported, and that is what everything else is of
    found |= {
        "flash_kb": _derived(memory.flash / KB, "tables of the exported C, its code apart"),
        "ram_kb": _derived(memory.ram / KB, "static buffers of the exported C"),
    }
    if device is None:
        return found
    code = code_bytes(device, budget.precision)
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


def code_bytes(device: HardwareProfile, precision: str) -> float | None:
    """Return the size of the exported C's code on a device, where its profile knows it."""
    plain = device.engines.get("c", EngineFigures())
    parts = device.engines.get("c-int8", plain) if precision == "int8" else plain
    return None if parts.code is None else parts.code.value


def added(each: Sequence[Figures]) -> Figures:
    """Return the sums over agents; the code is there once for each, as it is exported."""
    return {
        name: one.model_copy(update={"value": sum(cost[name].value for cost in each)})
        for name, one in each[0].items()
    }


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


def _up(name: Quantity, value: float) -> float:
    """Round up to a budget that can be stated."""
    if name == "macs":
        return math.ceil(value)
    digits = max(1, 2 - math.floor(math.log10(value))) if value > 0 else 1
    return math.ceil(value * 10.0**digits) / 10.0**digits
