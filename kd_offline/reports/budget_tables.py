"""Tables of the budget that students were made for."""

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
    """Return what each agent's student is predicted to need, and what it may."""
    shown = [name for name in _HEADS if name in allocation.agents[0].figures]
    rows = [
        (
            one.agent,
            str(one.layers or one.hidden),
            *(significant(one.figures[name].value) for name in shown),
        )
        for one in allocation.agents
    ]
    limits = tuple(
        significant(allocation.limits[name]) if name in allocation.limits else "\N{EN DASH}"
        for name in shown
    )
    team = tuple(significant(allocation.team[name]) for name in shown)
    whose = "the team" if allocation.budget.shared_device else "each agent"
    rows += [("team", "", *team), (f"allowed for {whose}", "", *limits)]
    kinds = allocation.agents[0].figures
    heads = [f"{_HEADS[name]} ({kinds[name].kind})" for name in shown]
    where = f" on {allocation.budget.profile}" if allocation.budget.profile else ""
    caption = f"Budget{where}, {allocation.budget.precision}, as predicted"
    return table(caption, "|".join(["agent", "width", *heads]), rows)


def worth_table(allocation: Allocation) -> Table:
    """Return what the blocks of each agent are worth, from which its width follows."""
    rows = [
        (
            one.agent,
            f"{worth.total:.4f}",
            ", ".join(f"{b.block} {b.worth:.4f}" for b in worth.blocks) or "\N{EN DASH}",
            f"{worth.linear:.4f}",
            f"{worth.decision:.4f}",
        )
        for one in allocation.agents
        if (worth := one.worth) is not None
    ]
    heads = "agent|hidden units explain|of that, block by block|a linear map explains"
    caption = "What blocks are worth: variance of the expert's decision"
    return table(caption, f"{heads}|whole variance", rows)


def sources_table(allocation: Allocation) -> Table:
    """Return where the predicted figures come from."""
    found = allocation.agents[0].figures
    rows = [(_HEADS[name], found[name].kind, found[name].source) for name in found]
    return table("Where the predictions come from", "quantity|kind|source", rows)
