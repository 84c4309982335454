"""Each agent of a profile: what its step takes and gives, what its blocks are, what it costs."""

from __future__ import annotations

from kd_offline.deployment.team import Team
from kd_offline.schemas.collaboration import AgentProfile, ObservationBlock
from kd_offline.schemas.evaluation import AgentCost
from kd_offline.schemas.export import AgentContract


def agents(team: Team) -> tuple[AgentProfile, ...]:
    """Return the agents of a team, in its order."""
    spec = team.student.card.environment
    sides = {agent: side for side, members in spec.sides.items() for agent in members}
    return tuple(
        AgentProfile(
            side=sides[contract.agent],
            contract=contract,
            blocks=_blocks(contract, spec.blocks[contract.agent]),
            cost=cost,
        )
        for contract, cost in zip(team.contracts, _costs(team), strict=True)
    )


def _costs(team: Team) -> tuple[AgentCost, ...]:
    """Return each agent's decision; lengths of episodes do not matter to it."""
    from kd_offline.evaluation.cost import team_cost
    from kd_offline.evaluation.evaluation_setup import student_shapes

    spec = team.student.card.environment
    shapes = student_shapes(team.student, spec)
    return team_cost(spec.agents, shapes, [0.0] * spec.n_agents, 0.0, spec.episode_limit).agents


def _blocks(
    contract: AgentContract, blocks: dict[str, tuple[tuple[int, int], ...]]
) -> tuple[ObservationBlock, ...]:
    found = []
    for name, ranges in sorted(blocks.items(), key=lambda item: item[1]):
        width = sum(stop - start for start, stop in ranges)
        seen = contract.blocks.get(name, ())
        some = "seen" if len(seen) == width else "partly seen" if seen else "hidden"
        found.append(
            ObservationBlock(
                name=name,
                ranges=ranges,
                width=width,
                seen=seen,
                visibility="drawn for each episode" if contract.drawn else some,
            )
        )
    return tuple(found)
