"""Which hidden width each agent's student gets."""

from __future__ import annotations

from kd_offline.errors import UsageError
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.recipes import StudentArchitecture
from kd_offline.types import BoolArray, IntArray

NARROW, WIDE, GRAIN = 16, 32, 8


def allocate(
    architecture: StudentArchitecture, spec: EnvironmentSpec, visible: BoolArray
) -> tuple[int, ...]:
    """Return one hidden width per agent.

    Parameters
    ----------
    architecture
        ``hidden`` is one width, one for each agent, or ``auto``: between 16 for the agent that sees
        least and 32 for the one that sees most, in steps of 8, by the number of features seen
        (KD-MARL section III-A: capacity follows observation complexity). Agents that all see
        equally much get 32.
    visible : bool [N, O]
        Features that an agent sees and that are not constant in the dataset.

    Raises
    ------
    UsageError
        The number of widths is not the number of agents, or a width is below 1.
    """
    hidden = architecture.hidden
    if hidden == "auto":
        return _auto(visible.sum(axis=1))
    widths = (hidden,) * spec.n_agents if isinstance(hidden, int) else tuple(hidden)
    if len(widths) != spec.n_agents or min(widths) < 1:
        given = ",".join(map(str, widths))
        msg = (
            f"hidden widths {given} do not fit the {spec.n_agents} agents of {spec.id} "
            f"({', '.join(spec.agents)}): give one positive width, one for each agent, or auto"
        )
        raise UsageError(msg)
    return widths


def _auto(seen: IntArray) -> tuple[int, ...]:
    low, high = int(seen.min()), int(seen.max())
    if low == high:
        return (WIDE,) * len(seen)
    share = (seen - low) / (high - low)
    return tuple(int(NARROW + GRAIN * round(s * (WIDE - NARROW) / GRAIN)) for s in share)
