"""The local network of a guided training as a team of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from kd_offline.experts.algorithms.base import Team
from kd_offline.experts.value_team import ValuePolicy, ValueTeam
from kd_offline.types import TeamPolicy


@dataclass(frozen=True, slots=True)
class LocalTeam(ValueTeam):
    """Agents that were distilled from others: their values are mixed by nothing."""

    @classmethod
    def of(cls, team: Team) -> LocalTeam:
        """Return the agents of a team whose mixer has no weights."""
        whole = cast(ValueTeam, team)
        return cls(whole.model, whole.norm, whole.epsilon)

    def policy(self, *, with_value: bool = True) -> TeamPolicy:
        """Return the policy; it has action values and none of the team."""
        return ValuePolicy(self.model, self.norm, self.epsilon, with_value=False)
