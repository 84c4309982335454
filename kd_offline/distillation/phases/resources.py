"""The resource-aware term: what a gated team is expected to cost, and a penalty beyond its budget.

The closed forms of :mod:`kd_offline.networks.arithmetic` are sums, products and maxima of widths,
so they take expected widths, the sums of their units' probabilities, as they take integers. Gates
are independent, so the products of neighbouring layers are exact expectations. Of a GRU's own
matrix ``E[h^2] = E[h]^2 + sum p (1 - p)``: the last part, at most a quarter of ``h``, is left out,
as is what maxima and blocks of 8 rows make of it. It is gone once the gates are decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor

from kd_offline.hardware.model import energy_model, latency_model
from kd_offline.networks.arithmetic import Shape
from kd_offline.schemas.budget import Quantity
from kd_offline.schemas.recipes import UnitGates
from kd_offline.students.cost_bounds import KB, Bounds, card_shape, code_bytes
from kd_offline.students.l0_gates import Gates

Expected = dict[Quantity, Tensor]


@dataclass(frozen=True, slots=True)
class Resources:
    """The units of one team, their gates, and the budget that they have to meet."""

    gates: Gates
    bounds: Bounds
    settings: UnitGates

    def priced(self, loss: Tensor, progress: float) -> dict[str, Tensor]:
        """Return ``loss`` with the weighted penalty, the penalty, and how far the budget is used.

        ``progress``: share of the gated training that is done.
        """
        ramp = self.settings.ramp
        weight = self.settings.weight * (min(progress / ramp, 1.0) if ramp else 1.0)
        used = budget_used(self.expected(), self.bounds)
        penalty = torch.relu(used - 1).square().sum()
        total = loss + weight * penalty
        return {"loss": total, "resources": penalty.detach(), "budget_used": used.detach().max()}

    def expected(self) -> list[Expected]:
        """Return what each device is expected to need for a step: its agent, or the team."""
        each = [self._agent(i) for i in range(len(self.gates.sizes))]
        if not self.bounds.budget.shared_device:
            return each
        return [{name: reduce(add, [cost[name] for cost in each]) for name in each[0]}]

    def _agent(self, i: int) -> Expected:
        widths = [layer.sum() for layer in self.gates.probabilities(i)]
        whole = card_shape(self.bounds.card, i, self.bounds.card.widths[i])
        wide: Any = widths
        return expected_cost(whole.with_units(wide), self.bounds)


def expected_cost(shape: Shape, bounds: Bounds) -> Expected:
    """Return the quantities that a budget limits, differentiable in the widths of ``shape``.

    Parameters
    ----------
    shape : Shape
        Its widths are tensors [].
    bounds : Bounds
        Whose limits are asked for.
    """
    precision, device = bounds.budget.precision, bounds.device
    macs, memory = shape.cost().macs, shape.memory(precision)
    found: dict[Quantity, Any] = {"macs": macs}
    if memory is not None and memory.flash is not None and memory.ram is not None:
        found |= {"flash_kb": memory.flash / KB, "ram_kb": memory.ram / KB}
    if device is not None and memory is not None:
        found["flash_kb"] += (code_bytes(device, precision) or 0) / KB
        speed = latency_model(device, "c", precision)
        seconds: Any = 0.0 if speed is None else speed.seconds(macs, memory.parameters)
        energy = energy_model(device, None if speed is None else speed.basis)
        joules: Any = 0.0 if energy is None else energy.joules(macs, memory.parameters, seconds)
        found |= {"latency_us": 1e6 * seconds, "energy_uj": 1e6 * joules}
    return {name: torch.as_tensor(found[name]) for name in bounds.limits}


def budget_used(devices: Sequence[Expected], bounds: Bounds) -> Tensor:
    """Return the share of every limit that every device uses, [D K]."""
    limits = bounds.limits.items()
    return torch.stack([cost[name] / limit for cost in devices for name, limit in limits])
