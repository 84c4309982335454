"""Exact closed-form cost of a deployed policy network: parameters, MACs, FLOPs.

One convention, stated with every figure: a FLOP count is 2 for each multiply-accumulate of the
matrix products, for one decision of one agent. Biases, activations, layer normalisation and the
arithmetic between GRU gates are counted on their own as ``elementwise`` and never mixed in. Only
what is deployed counts: no critic, no aligner, no projection, and input columns that the mask
hides are dropped, as export drops them. The same counter serves experts and students.

With inputs ``o``, trunk widths ``w1..wn``, GRU width ``h`` and ``a`` actions::

    linear  x -> y : MACs x y          parameters x y + y          elementwise y
    relu + norm y  :                   parameters 2 y              elementwise 8 y
    gru     x -> h : MACs 3 h (x + h)  parameters 3 h (x + h + 2)  elementwise 17 h
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from kd_offline.errors import UsageError
from kd_offline.schemas.evaluation import AgentCost, Cost, EpisodeCost, TeamCost

CONVENTION = (
    "FLOPs = 2 x multiply-accumulates of matrix products, deployed actor networks only, hidden "
    "input columns dropped; macs and flops are of one team step (every agent decides once)"
)
_NORM_AND_RELU = 8  # relu 1; mean 1, variance 2, shift and scale 2, gain and bias 2
_GRU_GATES = 17  # two biases 6, sums 3, reset product 1, sigmoids and tanh 3, blend 4


class Shape(Protocol):
    """What the counter needs to know of a network: its widths."""

    @property
    def inputs(self) -> int:
        """Number of input features."""
        ...

    @property
    def trunk(self) -> tuple[int, ...]:
        """Widths of the Linear-ReLU-LayerNorm layers."""
        ...

    @property
    def gru(self) -> int | None:
        """Width of the GRU, or None."""
        ...

    @property
    def outputs(self) -> int:
        """Number of actions."""
        ...


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Widths of one deployed network."""

    inputs: int
    trunk: tuple[int, ...]
    gru: int | None
    outputs: int


@dataclass(frozen=True, slots=True)
class NetworkCost:
    """Cost of one decision of one network."""

    parameters: int
    macs: int
    elementwise: int

    @property
    def flops(self) -> int:
        """Two for each multiply-accumulate."""
        return 2 * self.macs


def network_cost(shape: Shape) -> NetworkCost:
    """Return the exact cost of one decision of a network of this shape.

    Networks of another family, as experts of other libraries have them, bring a count of their
    own: parameters, multiply-accumulates and elementwise arithmetic, as ``counted``.
    """
    counted = getattr(shape, "counted", None)
    if counted is not None:
        return NetworkCost(*counted)
    parameters = macs = elementwise = 0
    width = shape.inputs
    for layer in shape.trunk:
        macs += width * layer
        parameters += (width + 1) * layer + 2 * layer
        elementwise += (1 + _NORM_AND_RELU) * layer
        width = layer
    if shape.gru is not None:
        macs += 3 * shape.gru * (width + shape.gru)
        parameters += 3 * shape.gru * (width + shape.gru + 2)
        elementwise += _GRU_GATES * shape.gru
        width = shape.gru
    macs += width * shape.outputs
    parameters += (width + 1) * shape.outputs
    return NetworkCost(parameters, macs, elementwise + shape.outputs)


def compacted(shape: Shape, *, seen: int, width: int) -> LayerShape:
    """Return the shape after dropping the observation columns that the agent does not see.

    Parameters
    ----------
    shape : Shape
        With ``width`` observation columns among its inputs.
    seen : int
        How many of them remain.
    width : int

    Raises
    ------
    UsageError
        More columns would be dropped than there are.
    """
    if not 0 <= seen <= width <= shape.inputs:
        msg = (
            f"cannot keep {seen} of {width} observation columns of a network with "
            f"{shape.inputs} inputs: give 0 <= seen <= width <= inputs"
        )
        raise UsageError(msg)
    whole = LayerShape(shape.inputs, tuple(shape.trunk), shape.gru, shape.outputs)
    return replace(whole, inputs=shape.inputs - width + seen)


def team_cost(
    agents: Sequence[str],
    shapes: Sequence[Shape],
    acted: Sequence[float],
    length: float,
    limit: int,
) -> TeamCost:
    """Return the cost of a team.

    Parameters
    ----------
    agents : sequence of str
    shapes : sequence of Shape
        The deployed network of each agent.
    acted : sequence of float
        Mean number of steps at which each agent acted in an episode.
    length : float
        Mean episode length in steps.
    limit : int
        The task's limit in steps.
    """
    costs = [network_cost(shape) for shape in shapes]
    per_agent = tuple(
        AgentCost(
            agent=agent,
            inputs=shape.inputs,
            trunk=tuple(shape.trunk),
            gru=shape.gru,
            actions=shape.outputs,
            parameters=cost.parameters,
            macs=cost.macs,
            flops=cost.flops,
            elementwise=cost.elementwise,
        )
        for agent, shape, cost in zip(agents, shapes, costs, strict=True)
    )
    flops = sum(cost.flops for cost in costs)
    return TeamCost(
        parameters=sum(cost.parameters for cost in costs),
        macs=sum(cost.macs for cost in costs),
        flops=flops,
        elementwise=sum(cost.elementwise for cost in costs),
        agents=per_agent,
        episode=EpisodeCost(
            mean_length=length,
            flops=sum(c.flops * steps for c, steps in zip(costs, acted, strict=True)),
            limit=limit,
            flops_at_limit=flops * limit,
        ),
    )


def compare(expert: TeamCost, student: TeamCost) -> Cost:
    """Return both costs and how many times smaller the student's are."""
    return Cost(
        expert=expert,
        student=student,
        flops_reduction=expert.flops / max(student.flops, 1),
        parameters_reduction=expert.parameters / max(student.parameters, 1),
        convention=CONVENTION,
    )
