"""Learned gates on hidden units and their expected cost, until the other units are removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kd_offline.distillation.auxiliary_heads import AuxiliaryHeads
from kd_offline.distillation.phases.base import Phase
from kd_offline.hardware.model import energy_model, latency_model
from kd_offline.networks.arithmetic import Shape
from kd_offline.networks.packed import Remnant
from kd_offline.schemas.budget import Quantity
from kd_offline.schemas.layers import LayerWidths
from kd_offline.schemas.recipes import UnitGates
from kd_offline.students import policy as students
from kd_offline.students.cost_bounds import KB, Bounds, card_shape, code_bytes
from kd_offline.students.l0_gates import GatedPass, Gates
from kd_offline.students.networks import StudentTeam
from kd_offline.students.structured_pruning import settle

if TYPE_CHECKING:
    from kd_offline.distillation.design import StudentDesign
    from kd_offline.distillation.train import Training


@dataclass(slots=True)
class UnitGating(Phase):
    """A gate on every unit and a penalty on the expected cost; at the end a smaller team."""

    name = "unit gates"
    saved_as = "gates"

    resources: Resources

    @classmethod
    def of(cls, design: StudentDesign, team: StudentTeam) -> UnitGating | None:
        """Return the phase of a recipe; None where it has no gates."""
        recipe = design.recipe
        if recipe.budget is None or recipe.first_settled is None:
            return None
        gates = Gates(team.shapes, recipe.gates.start).to(team.mean.device)
        bounds = Bounds.of(design.card, recipe.budget)
        return cls(0, recipe.first_settled, Resources(gates, bounds, recipe.gates))

    def begin(self, state: Training) -> None:
        """Put the gates on the team's units; Adam trains them."""
        rate = self.resources.settings.learning_rate
        gates = self.resources.gates
        state.optimisers.append(torch.optim.Adam(gates.parameters(), rate, fused=True))
        state.team.stand_in = GatedPass(gates)

    def draw(self, rng: np.random.Generator) -> None:
        """Draw the noise of the gates."""
        self.resources.gates.draw(rng)

    def losses(self, loss: Tensor, progress: float) -> dict[str, Tensor]:
        """Add the penalty on the expected cost of the team."""
        return self.resources.priced(loss, progress)

    def leave(self, state: Training) -> None:
        """Go on without the units whose gates are closed or beyond the budget, and all gates."""
        (team,) = state.teams
        small = settle(team.cpu(), self.resources.gates.cpu(), self.resources.bounds)
        self._go_on(state, small.team, small.embeddings)

    def skip(self, state: Training, layers: Sequence[LayerWidths] | None) -> None:
        """Go on with a team of the widths that were chosen."""
        small = students.build(self.resources.bounds.card, None, layers)
        widths = [shape.embedding for shape in small.shapes]
        first = [Remnant(torch.arange(width), torch.ones(width)) for width in widths]
        self._go_on(state, small, first)

    def _go_on(self, state: Training, team: StudentTeam, embeddings: Sequence[Remnant]) -> None:
        assert isinstance(state.heads, AuxiliaryHeads)  # noqa: S101 - gates are of one seed
        state.go_on_with(team, state.heads.cpu().narrowed(embeddings), self.end)

    def tensors(self) -> dict[str, Tensor]:
        """Return the gates' parameters."""
        return self.resources.gates.state_dict()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put the gates' parameters back."""
        self.resources.gates.load_state_dict(dict(tensors))


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
        """Return the expected cost of a step on each device, of its agent or of the team."""
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
