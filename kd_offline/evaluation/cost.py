"""Exact cost of teams: the expert's actors, the expert with its critic, the students.

The formulas are in :mod:`kd_offline.networks.arithmetic`; here they are summed over agents, team
steps and episodes. The cost of a team is that of its deployed networks: auxiliary heads are not
counted, and input columns that a fixed mask hides are dropped, as export drops them. The networks
that estimate an expert's values are counted apart. Experts and students are counted alike.
"""

from __future__ import annotations

from collections.abc import Sequence

from kd_offline.networks.arithmetic import (
    PRECISIONS,
    MemoryCost,
    NetworkCost,
    NetworkShape,
    Shape,
    ValuePart,
    compacted,
    zeros_of,
)
from kd_offline.schemas.evaluation import (
    AgentCost,
    AgentMemory,
    Cost,
    EpisodeCost,
    ExpertWithCritic,
    TeamCost,
)

__all__ = [
    "CONVENTION",
    "MemoryCost",
    "NetworkCost",
    "NetworkShape",
    "Shape",
    "ValuePart",
    "compacted",
    "compare",
    "team_cost",
    "with_critic",
]

CONVENTION = (
    "FLOPs = 2 x multiply-accumulates of matrix products, deployed actor networks only, hidden "
    "input columns and zeros of sparse matrices dropped; macs and flops are of one team step "
    "(every agent decides once)"
)


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
    costs = [shape.cost() for shape in shapes]
    per_agent = tuple(
        AgentCost(
            agent=agent,
            inputs=shape.inputs,
            trunk=tuple(shape.trunk),
            gru=shape.gru,
            layers=shape.layers,
            actions=shape.outputs,
            parameters=cost.parameters,
            macs=cost.macs,
            flops=cost.flops,
            elementwise=cost.elementwise,
            zeros=zeros_of(shape),
            memory=_memory(shape),
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


def with_critic(
    actors: TeamCost, parts: Sequence[ValuePart], *, limit: int
) -> ExpertWithCritic | None:
    """Return the cost of the expert with its value estimates; None where it has no values.

    Values are estimated at every step of an episode, also for agents that are not alive. A network
    that serves several agents is stored once and runs ``calls`` times a step.
    """
    if not parts:
        return None
    macs = sum(part.cost.macs * part.calls for part in parts)
    flops = actors.flops + 2 * macs
    length = actors.episode.mean_length
    return ExpertWithCritic(
        parameters=actors.parameters + sum(part.cost.parameters for part in parts),
        macs=actors.macs + macs,
        flops=flops,
        flops_per_decision=flops / len(actors.agents),
        elementwise=actors.elementwise + sum(p.cost.elementwise * p.calls for p in parts),
        episode=EpisodeCost(
            mean_length=length,
            flops=actors.episode.flops + 2 * macs * length,
            limit=limit,
            flops_at_limit=flops * limit,
        ),
    )


def compare(
    expert: TeamCost, student: TeamCost, expert_with_critic: ExpertWithCritic | None = None
) -> Cost:
    """Return both costs and the ratios expert / student."""
    once = expert.parameters_once
    return Cost(
        expert=expert,
        student=student,
        expert_with_critic=expert_with_critic,
        flops_reduction=expert.flops / max(student.flops, 1),
        parameters_reduction=expert.parameters / max(student.parameters, 1),
        parameters_reduction_once=None if once is None else once / max(student.parameters, 1),
        convention=CONVENTION,
    )


def _memory(shape: Shape) -> AgentMemory | None:
    """Return the bytes of one network; None where its shape does not determine them."""
    single, half, eight = (shape.memory(p) for p in PRECISIONS)
    if single is None or half is None:
        return None
    return AgentMemory(
        parameters_fp32=single.parameters,
        parameters_fp16=half.parameters,
        parameters_int8=None if eight is None else eight.parameters,
        hidden=single.hidden,
        activation=single.activation,
        flash=single.flash,
        ram=single.ram,
    )
