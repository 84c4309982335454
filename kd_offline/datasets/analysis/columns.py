"""Names of the columns of observations."""

from __future__ import annotations

from kd_offline.schemas.environment import EnvironmentSpec


def column_names(spec: EnvironmentSpec, agent: int) -> list[str]:
    """Return the name of every column that an agent observes, such as ``landmarks[2]``.

    A column is named by its block and its place in it, by ``[place]`` alone where no block has it.
    """
    names = [f"[{column}]" for column in range(spec.obs_widths[agent])]
    for block, ranges in spec.blocks[spec.agents[agent]].items():
        columns = [column for start, stop in ranges for column in range(start, stop)]
        for place, column in enumerate(columns):
            names[column] = block if len(columns) == 1 else f"{block}[{place}]"
    return names
