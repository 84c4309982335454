"""Structured pruning: choose the units to keep, and make the network of only these units."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kd_offline.networks.arithmetic import StudentShape
from kd_offline.networks.packed import Remnant
from kd_offline.schemas.layers import LayerWidths
from kd_offline.students.cost_bounds import Bounds, Figures, added
from kd_offline.students.l0_gates import Gates
from kd_offline.students.networks import StudentTeam
from kd_offline.students.policy import build

Chosen = list[list[Tensor]]  # of every agent and layer: bool [H]


class Settled(NamedTuple):
    """A team without gates, of the units that were chosen."""

    team: StudentTeam
    embeddings: tuple[Remnant, ...]


def settle(team: StudentTeam, gates: Gates, bounds: Bounds) -> Settled:
    """Return the small team that a gated one has become; it fits the budget."""
    return narrowed(team, gates, choose(gates, bounds), bounds)


@torch.no_grad()
def narrowed(team: StudentTeam, gates: Gates, chosen: Chosen, bounds: Bounds) -> Settled:
    """Return the team of the chosen units, their gates folded into the weights that read them.

    Where the gates are 0 and 1 and those of 1 are chosen, it gives the answers of the gated team;
    gates between weigh a normalisation's statistics, which no plain layer can.
    """
    small = build(bounds.card, None, [_widths(bounds, i, kept) for i, kept in enumerate(chosen)])
    rest = {k: v for k, v in team.state_dict().items() if not k.startswith("networks.")}
    small.load_state_dict(rest, strict=False)
    found = []
    for i, kept in enumerate(chosen):
        units = [torch.nonzero(layer).squeeze(-1) for layer in kept]
        values = [z[u] for z, u in zip(gates.values(i, noisy=False), units, strict=True)]
        found.append(team.network(i).narrow_into(small.network(i), units, values))
    return Settled(small, tuple(found))


def layers_of(shape: StudentShape) -> LayerWidths:
    """Return the widths of a network's hidden layers."""
    return shape.layer_widths(shape.units)


@torch.no_grad()
def choose(gates: Gates, bounds: Bounds) -> Chosen:
    """Return the units that are kept: those whose gate is above 0, and no more than fit.

    While a device is beyond a limit, the least probable of its units goes; of equals the last.
    Every layer keeps its four most probable units, or as many as it has.
    """
    agents = range(len(gates.sizes))
    chosen = [_open(gates, i, bounds.narrowest(i)) for i in agents]
    devices = [list(agents)] if bounds.budget.shared_device else [[i] for i in agents]
    for device in devices:
        going = _in_turn(gates, chosen, device, bounds)
        while bounds.exceeded(_cost(bounds, chosen, device)):
            agent, layer, unit = next(going)
            chosen[agent][layer][unit] = False
    return chosen


def _open(gates: Gates, i: int, least: int) -> list[Tensor]:
    """Return which units' gates are open, of each layer at least the ``least`` most probable."""
    found = []
    pairs = zip(gates.values(i, noisy=False), gates.probabilities(i), strict=True)
    for value, probability in pairs:
        kept = value > 0
        kept[_ranked(probability)[:least]] = True
        found.append(kept)
    return found


def _ranked(probability: Tensor) -> Tensor:
    """Return units from the most to the least probable; of equals the first comes first."""
    return torch.argsort(probability, descending=True, stable=True)


def _in_turn(
    gates: Gates, chosen: Chosen, device: Sequence[int], bounds: Bounds
) -> Iterator[tuple[int, int, int]]:
    """Yield agent, layer and unit of those of a device that may go, the least probable first."""
    units = [
        (float(probability[unit]), -i, -layer, -unit)
        for i in device
        for layer, probability in enumerate(gates.probabilities(i))
        for unit in _ranked(probability)[bounds.narrowest(i) :].tolist()
        if chosen[i][layer][unit]
    ]
    for _, i, layer, unit in sorted(units):
        yield -i, -layer, -unit


def _cost(bounds: Bounds, chosen: Chosen, device: Sequence[int]) -> Figures:
    return added([bounds.cost(i, _widths(bounds, i, chosen[i])) for i in device])


def _widths(bounds: Bounds, i: int, chosen: Sequence[Tensor]) -> LayerWidths:
    return bounds.trained(i).layer_widths([int(kept.sum()) for kept in chosen])
