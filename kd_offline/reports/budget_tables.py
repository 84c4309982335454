"""Tables of the budget of a run and of the widths that follow from it."""

from __future__ import annotations

from kd_offline.reports.formatting import significant
from kd_offline.reports.tables import Table, table
from kd_offline.schemas.budget import Allocation, Quantity

_HEADS: dict[Quantity, str] = {
    "latency_us": "time of a step, us",
    "flash_kb": "flash, KB",
    "ram_kb": "RAM, KB",
    "macs": "multiply-accumulates",
    "energy_uj": "energy of a step, uJ",
}


def budget_table(allocation: Allocation) -> Table:
    """Return the predicted needs of each agent's student beside the limits of the budget."""
    quantities = [name for name in _HEADS if name in allocation.agents[0].figures]
    rows = [
        (
            agent.agent,
            str(agent.layers or agent.hidden),
            *(significant(agent.figures[name].value) for name in quantities),
        )
        for agent in allocation.agents
    ]
    limits = tuple(
        significant(allocation.limits[name]) if name in allocation.limits else "\N{EN DASH}"
        for name in quantities
    )
    team = tuple(significant(allocation.team[name]) for name in quantities)
    owner = "the team" if allocation.budget.shared_device else "each agent"
    rows += [("team", "", *team), (f"allowed for {owner}", "", *limits)]
    figures = allocation.agents[0].figures
    headings = [f"{_HEADS[name]} ({figures[name].kind})" for name in quantities]
    device = f" on {allocation.budget.profile}" if allocation.budget.profile else ""
    caption = f"Budget{device}, {allocation.budget.precision}, as predicted"
    return table(caption, "|".join(["agent", "width", *headings]), rows)


def block_importance_table(allocation: Allocation) -> Table:
    """Return the explained variance of each agent's observation blocks, which sets its width."""
    rows = [
        (
            agent.agent,
            f"{importance.total:.4f}",
            ", ".join(f"{b.block} {b.worth:.4f}" for b in importance.blocks) or "\N{EN DASH}",
            f"{importance.linear:.4f}",
            f"{importance.decision:.4f}",
        )
        for agent in allocation.agents
        if (importance := agent.worth) is not None
    ]
    headings = "agent|hidden units explain|of that, block by block|a linear map explains"
    caption = "What blocks are worth: variance of the expert's decision"
    return table(caption, f"{headings}|whole variance", rows)


def sources_table(allocation: Allocation) -> Table:
    """Return the sources of the predicted figures."""
    figures = allocation.agents[0].figures
    rows = [(_HEADS[name], figures[name].kind, figures[name].source) for name in figures]
    return table("Where the predictions come from", "quantity|kind|source", rows)
