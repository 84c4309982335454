"""What an expert carries beside its actors to say values: critics of its own kind, or a mixer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kd_offline.networks.arithmetic import NetworkCost, ValuePart

if TYPE_CHECKING:
    from kd_offline.experts.load import AnyExpert


def critic_parts(expert: AnyExpert) -> tuple[ValuePart, ...]:
    """Return the networks that say the expert's values, and how often each runs in a team step.

    Empty where there are none, or where an expert of another library does not say.
    """
    from kd_offline.experts.foreign.expert import ForeignExpert

    if isinstance(expert, ForeignExpert):
        return tuple(ValuePart(NetworkCost(*counted), calls) for counted, calls in expert.critics)
    return expert.team.value_parts()
