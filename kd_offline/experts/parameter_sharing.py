"""Groups of agents that share a network, and the shape of each network."""

from __future__ import annotations

from dataclasses import dataclass

from kd_offline.errors import MismatchError
from kd_offline.experts.views import actor_shape, feature_widths
from kd_offline.networks.arithmetic import NetworkShape
from kd_offline.networks.fusion_shape import FusionShape
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.expert import ExpertArchitecture


@dataclass(frozen=True, slots=True)
class Group:
    """Agents that share one network; if there are several, their one-hot id is an input."""

    agents: tuple[int, ...]
    features: int  # what each sees, without what is appended to it
    shape: NetworkShape | FusionShape

    @property
    def ids(self) -> int:
        """Width of the one-hot agent id."""
        return len(self.agents) if len(self.agents) > 1 else 0


def actor_groups(spec: EnvironmentSpec, architecture: ExpertArchitecture) -> tuple[Group, ...]:
    """Return groups that share an actor: under ``share``, agents of one side and equal widths."""
    if architecture.widths is not None and len(architecture.widths) != spec.n_agents:
        msg = (
            f"{len(architecture.widths)} widths {architecture.widths} for {spec.n_agents} agents "
            f"of {spec.id}: give one width for each of {', '.join(spec.agents)}"
        )
        raise MismatchError(msg)
    widths = feature_widths(spec, architecture.view)
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, side in enumerate(spec.side_of):
        key: tuple[object, ...] = (side, widths[i], spec.action_counts[i])
        separate = not architecture.share or architecture.widths is not None
        groups.setdefault((i,) if separate else key, []).append(i)
    return tuple(
        Group(tuple(agents), widths[agents[0]], actor_shape(spec, architecture, tuple(agents)))
        for agents in groups.values()
    )
