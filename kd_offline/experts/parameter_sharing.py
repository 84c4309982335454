"""Groups of agents that share a network, and the shape of each network."""

from __future__ import annotations

from dataclasses import dataclass

from kd_offline.errors import MismatchError
from kd_offline.networks.arithmetic import NetworkShape
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.expert import ExpertArchitecture
from kd_offline.schemas.layers import LayerWidths


@dataclass(frozen=True, slots=True)
class Group:
    """Agents that share one network; if there are several, their one-hot id is an input."""

    agents: tuple[int, ...]
    shape: NetworkShape

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
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, side in enumerate(spec.side_of):
        key: tuple[object, ...] = (side, spec.obs_widths[i], spec.action_counts[i])
        separate = not architecture.share or architecture.widths is not None
        groups.setdefault((i,) if separate else key, []).append(i)
    return tuple(_group(tuple(agents), spec, architecture) for agents in groups.values())


def _group(
    agents: tuple[int, ...], spec: EnvironmentSpec, architecture: ExpertArchitecture
) -> Group:
    first = agents[0]
    trunk, gru = architecture.trunk, architecture.gru
    if architecture.widths is not None:
        width = architecture.widths[first]
        if isinstance(width, LayerWidths):
            trunk, gru = width.trunk, width.gru
        else:
            trunk, gru = (width,) * len(trunk), gru and width
    ids = len(agents) if len(agents) > 1 else 0
    inputs = spec.obs_widths[first] * (1 + architecture.motion) + ids
    inputs += spec.action_counts[first] if architecture.last_action else 0
    shape = NetworkShape(inputs, trunk, gru, spec.action_counts[first])
    return Group(agents, shape)
